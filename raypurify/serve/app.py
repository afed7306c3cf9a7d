"""The Ray Serve application: a FastAPI ingress that checks and decodes, and purifier replicas that batch.

``raypurify.serve.app:build`` is the ``import_path`` of a Serve config file; its ``args`` are
:class:`~raypurify.serve.settings.ServeSettings`.
"""

import asyncio
import logging
from typing import Any

import numpy as np
from fastapi import Depends, FastAPI, Request, Response
from fastapi.security import HTTPBearer
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from raypurify.errors import ImageError
from raypurify.images import decode_image, encode_image
from raypurify.serve.auth import token_fits
from raypurify.serve.http import Refusal, provenance_headers, read_image, refuse
from raypurify.serve.settings import ServeSettings, parse_settings
from raypurify.version import __version__

_READY_S = 5
_LOG = logging.getLogger("ray.serve")
_BATCH_PIXELS = 1 << 20

api = FastAPI(
    title="raypurify",
    version=__version__,
    description="Removes adversarial perturbations from images. Send an image, get the purified image.",
)
api.add_exception_handler(HTTPException, refuse)  # type: ignore[arg-type]  # it is called with these alone

_BODY = {
    "required": True,
    "content": {
        **{
            kind: {"schema": {"type": "string", "format": "binary"}}
            for kind in ("image/png", "image/jpeg", "image/webp", "application/octet-stream")
        },
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {"file": {"type": "string", "format": "binary"}},
            }
        },
    },
}
_ERROR = {
    "type": "object",
    "required": ["error", "message"],
    "properties": {"error": {"type": "string"}, "message": {"type": "string"}},
}


def _refusal(text: str) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": _ERROR}}}


# Only for the documentation page: the check itself must also say what is wrong.
_TOKEN = HTTPBearer(auto_error=False, description="the endpoint's token")
_FACTS = ("Cluster", "Class", "Distance", "Flagged", "Relative-Change", "Iterations", "Bundle")
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "the purified image, of the size, orientation and kind of colour of the one sent",
        "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
        "headers": {f"X-Raypurify-{name}": {"schema": {"type": "string"}} for name in _FACTS},
    },
    **{
        status: _refusal(text)
        for status, text in {
            400: "empty, or a form without the field 'file'",
            401: "no token, or a wrong one",
            413: "too many bytes or pixels",
            415: "not an image",
            422: "cut short, too small, animated",
            503: "too many images are waiting; try again later",
        }.items()
    },
}


# Serve config files name the deployment.
@serve.deployment(name="Purifier")
class PurifierReplica:
    """One purifier replica: a loaded bundle; images that arrive together are purified together."""

    def __init__(self, bundle: str, device: str, threads: int):
        import torch

        import raypurify

        torch.set_num_threads(threads)
        self.purifier = raypurify.load(bundle, device)
        # A window may hold 2²⁴ pixels, at 150 bytes each while they are worked on.
        self.bulk = asyncio.Semaphore(1)
        side = self.purifier.min_size
        # Compiled kernels are built now, and not while the first caller waits.
        self.purifier.purify(torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)))

    def reconfigure(self, config: dict) -> None:
        """Take the ``user_config`` of the deployment, now and whenever it changes."""
        batched: Any = self.purify  # with the setters that ``serve.batch`` gave it
        batched.set_max_batch_size(config["max_batch_size"])
        batched.set_batch_wait_timeout_s(config["batch_wait_s"])

    @serve.batch
    async def purify(self, images: list[np.ndarray]) -> list:
        """Purify uint8 (H, W, 3) images of any sizes; for each its pixels and facts, or the error it met."""
        from raypurify.purifiers.batch import purify_pixels

        return await asyncio.to_thread(purify_pixels, self.purifier, images, _BATCH_PIXELS)

    async def purify_all(self, images: list[np.ndarray]) -> list:
        """Purify the images of a bulk job, one job's window at a time; single images are purified beside it."""
        from raypurify.purifiers.batch import purify_pixels

        async with self.bulk:
            return await asyncio.to_thread(purify_pixels, self.purifier, images)

    async def digest(self) -> str:
        """The digest of the bundle that is served."""
        return self.purifier.digest


@serve.deployment
@serve.ingress(api)
class Ingress:
    """The ingress: checks the caller and the image, hands it to a purifier replica, encodes the answer."""

    def __init__(self, purifier: DeploymentHandle, token_sha256: str | None, max_bytes: int, max_pixels: int):
        self.purifier = purifier
        self.token_sha256 = token_sha256
        self.max_bytes, self.max_pixels = max_bytes, max_pixels

    @api.post(
        "/v1/purify",
        response_class=Response,
        responses=_ANSWERS,
        openapi_extra={"requestBody": _BODY},
        dependencies=[Depends(_TOKEN)],
    )
    async def purify(self, request: Request) -> Response:
        """Purify one image: the request's body, or the field `file` of a form. Answers a PNG."""
        if self.token_sha256 and not token_fits(request.headers.get("authorization"), self.token_sha256):
            message = "send the token as 'Authorization: Bearer <token>'"
            raise Refusal(401, "unauthorized", message, {"WWW-Authenticate": "Bearer"})
        data = await read_image(request, self.max_bytes)
        try:
            image = await run_in_threadpool(decode_image, data, max_pixels=self.max_pixels)
            result = await self.purifier.purify.remote(image.pixels)
            if isinstance(result, Exception):
                raise result
            pixels, facts = result
            encoded = await run_in_threadpool(encode_image, pixels, image)
        except ImageError as error:
            raise Refusal.of(error) from error
        except BackPressureError as error:
            message = "too many images are waiting; try again in a moment"
            raise Refusal(503, "busy", message, {"Retry-After": "1"}) from error
        except Exception as error:
            _LOG.exception("purification failed")
            raise Refusal(
                500, "internal", "the purifier failed on this image; the log of the server says why"
            ) from error
        return Response(encoded, media_type="image/png", headers=provenance_headers(facts))

    @api.get("/v2/health/live")
    async def live(self) -> dict:
        """200 while the endpoint runs."""
        return {"live": True}

    @api.get("/v2/health/ready", responses={503: _refusal("no purifier replica answers")})
    async def ready(self) -> dict:
        """200 while a purifier replica answers."""
        try:
            digest = await asyncio.wait_for(self.purifier.digest.remote(), _READY_S)
        except (TimeoutError, asyncio.TimeoutError, RayError, BackPressureError) as error:
            raise Refusal(503, "not-ready", "no purifier replica answers yet") from error
        return {"ready": True, "bundle": digest}


def build(args: dict[str, Any]) -> serve.Application:
    """The application for ``serve.run`` or a Serve config file.

    Raises ConfigError for settings that are wrong or say nothing about who may call, BundleError for the bundle.
    """
    from raypurify.bundle import read_manifest

    settings: ServeSettings = parse_settings(args)
    read_manifest(settings.bundle)
    waiting = 2 * settings.max_batch_size
    purifier = PurifierReplica.options(  # type: ignore[attr-defined]  # a deployment, which Ray types as the class
        ray_actor_options={"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus},
        autoscaling_config={
            "min_replicas": settings.min_replicas,
            "max_replicas": settings.max_replicas,
            "target_ongoing_requests": settings.max_batch_size,
        },
        # One batch at work and the next one filling.
        max_ongoing_requests=waiting,
        max_queued_requests=settings.max_queued_requests,
        user_config={"max_batch_size": settings.max_batch_size, "batch_wait_s": settings.batch_wait_s},
    ).bind(settings.bundle, settings.device, max(1, int(settings.num_cpus)))
    # The ingress takes in more than the purifiers hold, so that it is the one to answer 503, with a reason.
    room = settings.max_replicas * waiting + 2 * settings.max_queued_requests
    return Ingress.options(  # type: ignore[attr-defined]  # likewise
        ray_actor_options={"num_cpus": 0.1},
        autoscaling_config={"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": max(1, room // 2)},
        max_ongoing_requests=room,
        max_queued_requests=settings.max_queued_requests,
    ).bind(purifier, settings.token_sha256, settings.max_bytes, settings.max_pixels)
