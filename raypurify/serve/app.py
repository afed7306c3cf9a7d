"""The Ray Serve application: a FastAPI ingress that checks and decodes, in front of purifier replicas.

``raypurify.serve.app:build`` is the ``import_path`` of a Serve config file; its ``args`` are
:class:`~raypurify.serve.settings.ServeSettings`.
"""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from fastapi.security import HTTPBearer
from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle
from starlette.exceptions import HTTPException

from raypurify.errors import ImageError
from raypurify.images import decode_image, encode_image
from raypurify.serve.auth import token_fits
from raypurify.serve.gate import MAX_READERS, Gate, retry_after
from raypurify.serve.http import Refusal, asked_seconds, provenance_headers, read_image, refuse
from raypurify.serve.lanes import Full, TooLate
from raypurify.serve.openapi import ANSWERS, BODY, TIMEOUT, page, refusal
from raypurify.serve.replica import PurifierReplica
from raypurify.serve.settings import ServeSettings, parse_settings
from raypurify.version import __version__

_READY_S = 5
_INGRESSES = 4
# Images that are decoded or encoded at a time.
_CODERS = 4
# Above what the gates of all ingresses let in: Serve itself refuses in plain text.
_NEVER_FULL = 4 * MAX_READERS
_LOG = logging.getLogger("ray.serve")

api = FastAPI(
    title="raypurify",
    version=__version__,
    description="Removes adversarial perturbations from images. Send an image, get the purified image.",
    docs_url=None,
    redoc_url=None,
)
api.add_exception_handler(HTTPException, refuse)  # type: ignore[arg-type]  # it is called with these alone

# Only for the documentation page: the check itself must also say what is wrong.
_TOKEN = HTTPBearer(auto_error=False, description="the endpoint's token")


@api.get("/docs", include_in_schema=False)
async def docs() -> HTMLResponse:
    """The API on one page."""
    return HTMLResponse(page(api.openapi()))


@serve.deployment
@serve.ingress(api)
class Ingress:
    """The ingress: checks the caller and the image, hands it to a purifier replica, encodes the answer."""

    def __init__(
        self,
        purifier: DeploymentHandle,
        tokens: Sequence[str],
        max_bytes: int,
        max_pixels: int,
        timeout_s: float,
        gate: Gate,
    ):
        self.purifier = purifier
        self.tokens, self.timeout_s = tokens, timeout_s
        self.max_bytes, self.max_pixels = max_bytes, max_pixels
        self.gate = gate
        self.coders = ThreadPoolExecutor(_CODERS)

    @api.post(
        "/v1/purify",
        response_class=Response,
        responses=ANSWERS,
        openapi_extra={"requestBody": BODY, "parameters": [TIMEOUT]},
        dependencies=[Depends(_TOKEN)],
    )
    async def purify(self, request: Request) -> Response:
        """Purify one image: the request's body, or the field `file` of a form. Answers a PNG."""
        if self.tokens and not token_fits(request.headers.get("authorization"), self.tokens):
            message = "send the token as 'Authorization: Bearer <token>'"
            raise Refusal(401, "unauthorized", message, {"WWW-Authenticate": "Bearer"})
        seconds = asked_seconds(request, self.timeout_s)
        try:
            return await asyncio.wait_for(self._answer(request, asyncio.get_running_loop().time() + seconds), seconds)
        except ImageError as error:
            raise Refusal.of(error) from error
        except Full as error:
            message = "it would take too long until this image's turn; try again in a moment"
            raise Refusal(503, "busy", message, retry_after(error.retry_after)) from error
        except (TooLate, TimeoutError, asyncio.TimeoutError) as error:
            raise Refusal(504, "timeout", f"no answer within {seconds:g} s; give it more time, or ask later") from error
        except RayActorError as error:
            message = "the purifier replica was lost twice over this image; try again in a moment"
            raise Refusal(503, "unavailable", message, retry_after(_READY_S)) from error
        except HTTPException:
            raise
        except Exception as error:
            _LOG.exception("purification failed")
            raise Refusal(
                500, "internal", "the purifier failed on this image; the log of the server says why"
            ) from error

    @api.head("/v2/health/live", include_in_schema=False)
    @api.get("/v2/health/live")
    async def live(self) -> dict:
        """200 while the endpoint runs."""
        return {"live": True}

    @api.head("/v2/health/ready", include_in_schema=False)
    @api.get("/v2/health/ready", responses={503: refusal("no purifier replica answers, or the endpoint is ending")})
    async def ready(self) -> dict:
        """200 while a purifier replica answers and new images are taken in."""
        if self.gate.ending:
            raise Refusal(503, "ending", "the endpoint is shutting down")
        try:
            digest = await asyncio.wait_for(self.purifier.digest.remote(), _READY_S)
        except (TimeoutError, asyncio.TimeoutError, RayError, BackPressureError) as error:
            raise Refusal(503, "not-ready", "no purifier replica answers yet") from error
        return {"ready": True, "bundle": digest}

    async def end(self) -> int:
        """Take in nothing more; how many callers still wait for their answer."""
        self.gate.end()
        return self.gate.inside

    async def _answer(self, request: Request, deadline: float) -> Response:
        loop = asyncio.get_running_loop()
        with ExitStack() as taken:
            with self.gate.reading() as hold:
                data = await read_image(request, self.max_bytes, hold)
                unpack = taken.enter_context(self.gate.image())
                image = await loop.run_in_executor(self.coders, partial(decode_image, data, max_pixels=self.max_pixels))
                del data
            unpack(image.pixels.shape[0] * image.pixels.shape[1])
            try:
                result = await self._purified(image.pixels, deadline - loop.time())
            except RayActorError:  # another replica may do it
                result = await self._purified(image.pixels, deadline - loop.time())
            if isinstance(result, Exception):
                raise result
            pixels, facts = result
            encoded = await loop.run_in_executor(self.coders, encode_image, pixels, image)
        return Response(encoded, media_type="image/png", headers=provenance_headers(facts))

    async def _purified(self, pixels: np.ndarray, seconds: float) -> Any:
        response = self.purifier.purify.remote(pixels, seconds)
        try:
            return await response
        except asyncio.CancelledError:
            # The caller left, or time is up: the image leaves its lane.
            response.cancel()
            raise


def build(args: dict[str, Any]) -> serve.Application:
    """The application for ``serve.run`` or a Serve config file.

    Raises ConfigError for settings that are wrong or say nothing about who may call, BundleError for the bundle.
    """
    from raypurify.bundle import read_manifest

    settings: ServeSettings = parse_settings(args)
    read_manifest(settings.bundle)
    ends = {"graceful_shutdown_wait_loop_s": 0.1, "graceful_shutdown_timeout_s": settings.timeout_s}
    purifier = PurifierReplica.options(  # type: ignore[attr-defined]  # a deployment, which Ray types as the class
        ray_actor_options={"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus},
        autoscaling_config={
            "min_replicas": settings.min_replicas,
            "max_replicas": settings.max_replicas,
            "policy": {"policy_function": "raypurify.serve.scaling:by_work"},
            "upscale_delay_s": 5,
            "look_back_period_s": 15,
        },
        max_ongoing_requests=_NEVER_FULL,
        max_queued_requests=-1,
        **ends,
    ).bind(
        settings.bundle,
        settings.device,
        max(1, int(settings.num_cpus)),
        settings.batch,
        settings.max_waiting_pixels,
    )
    gate = Gate(settings.max_queued_requests, settings.max_bytes, settings.max_waiting_pixels)
    return Ingress.options(  # type: ignore[attr-defined]  # likewise
        ray_actor_options={"num_cpus": 0.1},
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": _INGRESSES,
            "target_ongoing_requests": max(1, settings.max_queued_requests // 2),
        },
        max_ongoing_requests=_NEVER_FULL,
        max_queued_requests=-1,
        **ends,
    ).bind(purifier, settings.token_sha256, settings.max_bytes, settings.max_pixels, settings.timeout_s, gate)
