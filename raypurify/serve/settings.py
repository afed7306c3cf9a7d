"""Settings of the endpoint: the ``args`` of a Serve config file, or the options of ``raypurify serve``."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError

from raypurify.bundle.manifest import absolute
from raypurify.errors import ConfigError
from raypurify.trees import SettingsModel

# Batches of so many pixels are as fast as larger ones, and those who come meanwhile wait no longer than needed.
_BATCH = {"cpu": 1 << 14, "cuda": 1 << 20}

MAX_INGRESSES = 4

_Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def _listed(value: Any) -> Any:
    return () if value is None else (value,) if isinstance(value, str) else value


class Limits(SettingsModel):
    """What one caller, who is known by a token, may ask of the endpoint; None is no limit of its own."""

    images_per_s: float | None = Field(None, gt=0, description="images a second, at each ingress, on the average")
    burst: int = Field(10, ge=1, description="images at once that images_per_s allows for after a pause")
    max_bytes: int | None = Field(None, ge=1, description="largest request body, within that of the endpoint")
    max_pixels: int | None = Field(
        None, ge=1, description="largest image, within that of the endpoint; of a job by actors, for itself"
    )
    jobs: int = Field(4, ge=0, description="jobs that have not ended")


class ServeSettings(SettingsModel):
    """Settings of the endpoint: what it serves, to whom, within which limits, on how many replicas."""

    bundle: str = Field("cifar10", description="a shipped bundle's name, a folder or a URI")
    token_sha256: Annotated[tuple[_Digest, ...], BeforeValidator(_listed)] = Field(
        (), description="SHA-256 of the token that callers must send, or a list of them"
    )
    no_auth: bool = Field(False, description="answer anyone; only behind something else that checks callers")
    known_hosts: Annotated[tuple[str, ...], BeforeValidator(_listed)] = Field(
        (), description="names beside loopback by which an endpoint without a token is called"
    )
    max_bytes: int = Field(16 << 20, ge=1, description="largest request body")
    max_pixels: int = Field(4_000_000, ge=1, description="largest image; a replica needs about 300 bytes a pixel")
    max_batch_images: int = Field(64, ge=1, description="images of one request")
    max_batch_bytes: int = Field(64 << 20, ge=1, description="largest request body with several images")
    timeout_s: float = Field(60, gt=0, description="callers get an answer within this time; they may ask for less")
    max_queued_requests: int = Field(256, ge=1, description="images an ingress takes in; beyond it callers get 503")
    max_waiting_pixels: int = Field(1 << 25, ge=1, description="pixels of all images that wait in one place")
    device: str = Field("cpu", description="torch device of a purifier replica: cpu, cuda")
    num_cpus: float = Field(1, ge=0, description="CPUs of a purifier replica")
    num_gpus: float = Field(0, ge=0, description="GPUs of a purifier replica")
    min_replicas: int = Field(1, ge=0)
    max_replicas: int = Field(4, ge=1)
    min_ingresses: int = Field(
        1, ge=1, le=MAX_INGRESSES, description="processes that take callers in when there is nothing to do"
    )
    batch_pixels: int | None = Field(
        None, ge=1, description="pixels a replica purifies together; None: 2¹⁴ on a CPU, 2²⁰ on a GPU"
    )

    job_roots: Annotated[tuple[str, ...], BeforeValidator(_listed)] = Field(
        (), description="folders or beginnings of URIs below which jobs may read and write; none: there are no jobs"
    )
    jobs_at_once: int = Field(2, ge=1, description="jobs at work at a time; others wait for their turn")
    limits: dict[str, Limits] = Field({}, description="limits by a token's SHA-256, and of all others by 'default'")

    @property
    def batch(self) -> int:
        """Pixels of a batch: what was asked for, or what suits the device."""
        return self.batch_pixels or _BATCH.get(self.device.partition(":")[0], _BATCH["cpu"])


def parse_settings(args: dict[str, Any]) -> ServeSettings:
    """The settings in the ``args`` of an application, checked; a bundle's folder as an absolute path.

    Raises ConfigError naming what is wrong, also where nothing says who may call.

    >>> parse_settings({"bundle": "cifar10", "no_auth": True}).batch
    16384
    """
    try:
        settings = ServeSettings.model_validate(args)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"serve settings: {where}: {first['msg']}; mend it in the file or the options") from error
    if not settings.token_sha256 and not settings.no_auth:
        raise ConfigError(
            "serve settings: give token_sha256 (the SHA-256 of a token), or no_auth: true to answer anyone who calls"
        )
    if settings.token_sha256 and settings.no_auth:
        raise ConfigError("serve settings: token_sha256 and no_auth contradict each other; give one of them")
    if settings.min_replicas > settings.max_replicas:
        raise ConfigError(
            f"serve settings: min_replicas {settings.min_replicas} is above max_replicas {settings.max_replicas}; "
            "lower it"
        )
    if settings.device.startswith("cuda") and not settings.num_gpus:
        raise ConfigError(f"serve settings: device {settings.device} without a GPU; give num_gpus: 1, or a part of one")
    for unknown in settings.limits.keys() - {"default", *settings.token_sha256}:
        raise ConfigError(f"serve settings: limits of {unknown!r}: give default or one of token_sha256")
    if settings.job_roots:
        # Checks what it is given with pyarrow, which those who have no jobs need not load.
        from raypurify.serve.jobs.roots import check_root

        roots = tuple(dict.fromkeys(map(check_root, settings.job_roots)))
        settings = settings.model_copy(update={"job_roots": roots})
    # Replicas run in a directory of their own.
    return settings.model_copy(update={"bundle": absolute(settings.bundle)})
