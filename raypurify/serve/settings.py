"""Settings of the endpoint: the ``args`` of a Serve config file, or the options of ``raypurify serve``."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raypurify.errors import ConfigError


class ServeSettings(BaseModel):
    """Settings of the endpoint: what it serves, to whom, within which limits, on how many replicas."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle: str = Field("cifar10", description="a shipped bundle's name, a folder or a URI")
    token_sha256: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="SHA-256 of the token that callers must send"
    )
    no_auth: bool = Field(False, description="answer anyone; only behind something else that checks callers")
    max_bytes: int = Field(16 << 20, ge=1, description="largest request body")
    max_pixels: int = Field(4_000_000, ge=1, description="largest image; about 150 bytes a pixel on a CPU")
    device: str = Field("cpu", description="torch device of a purifier replica: cpu, cuda")
    num_cpus: float = Field(1, ge=0, description="CPUs of a purifier replica")
    num_gpus: float = Field(0, ge=0, description="GPUs of a purifier replica")
    min_replicas: int = Field(1, ge=0)
    max_replicas: int = Field(4, ge=1)
    max_batch_size: int = Field(16, ge=1, description="images a replica purifies together")
    batch_wait_s: float = Field(0.01, ge=0, description="how long a batch waits for more images")
    max_queued_requests: int = Field(32, ge=1, description="images waiting for a replica; beyond it callers get 503")


def parse_settings(args: dict[str, Any]) -> ServeSettings:
    """The settings in the ``args`` of an application, checked; a bundle's folder as an absolute path.

    Raises ConfigError naming what is wrong, also where nothing says who may call.

    >>> parse_settings({"bundle": "cifar10", "no_auth": True}).max_batch_size
    16
    """
    try:
        settings = ServeSettings.model_validate(args)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"serve settings: {where}: {first['msg']}; mend it in the file or the options") from error
    if settings.token_sha256 is None and not settings.no_auth:
        raise ConfigError(
            "serve settings: give token_sha256 (the SHA-256 of a token), or no_auth: true to answer anyone who calls"
        )
    if settings.token_sha256 is not None and settings.no_auth:
        raise ConfigError("serve settings: token_sha256 and no_auth contradict each other; give one of them")
    folder = Path(settings.bundle)
    if "://" not in settings.bundle and folder.is_dir():
        # Replicas run in a directory of their own.
        settings = settings.model_copy(update={"bundle": str(folder.resolve())})
    return settings
