"""What the routes of an ingress share: who may call, how an image gets in and out, and errors as refusals."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np
from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from ray import serve
from ray.exceptions import RayActorError, RayError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from raypurify.errors import ImageError
from raypurify.images import Decoded
from raypurify.serve.auth import token_fits
from raypurify.serve.coders import Coders
from raypurify.serve.deadline import Deadline
from raypurify.serve.gate import Gate, retry_after
from raypurify.serve.http import Refusal, read_image
from raypurify.serve.lanes import Full, TooLate
from raypurify.serve.limits import Caller, Callers
from raypurify.serve.metrics import FrontMetrics
from raypurify.serve.settings import ServeSettings

READY_S = 5
# What asking a deployment raises where nobody answers.
NOBODY = (TimeoutError, asyncio.TimeoutError, RayError, RayServeException)
# As proxies call it in their logs.
_LEFT = 499
_LOG = logging.getLogger("ray.serve")

Answer = TypeVar("Answer")


class Purified(NamedTuple):
    """An image that came back: as it was decoded, its pixels uint8 (H, W, 3) now, and the facts about them."""

    image: Decoded
    pixels: np.ndarray
    facts: dict[str, Any]


class Front:
    """The state of one ingress: the purifier that it asks, its settings, and the gate that counts who is let in."""

    def __init__(self, purifier: DeploymentHandle, settings: ServeSettings, jobs: DeploymentHandle | None = None):
        self.purifier, self.settings, self.jobs = purifier, settings, jobs
        self.callers = Callers(settings)
        self.gate = Gate(
            settings.max_queued_requests, settings.max_bytes, settings.max_batch_bytes, settings.max_waiting_pixels
        )
        self.coders = Coders()
        # While JSON is parsed, no other thread of this process runs.
        self.parsing = asyncio.Semaphore(1)
        self.metrics = FrontMetrics()

    def check_caller(self, authorization: str | None) -> Caller:
        """Who calls. Raises Refusal 401 for callers without one of the tokens."""
        digest = token_fits(authorization, self.settings.token_sha256)
        if self.settings.token_sha256 and digest is None:
            message = "send the token as 'Authorization: Bearer <token>'"
            raise Refusal(401, "unauthorized", message, {"WWW-Authenticate": "Bearer"})
        return self.callers.of(digest)

    async def purified(self, request: Request, encode: Callable[[Purified], Answer]) -> Answer:
        """What ``encode`` makes, in a thread, of the purified image of a request that carries one, within the time that
        its caller gives. Raises Refusal."""
        caller, deadline = request.state.caller, Deadline(request, self.settings.timeout_s)
        with self.metrics.image(), refusing(deadline), ExitStack() as taken:
            caller.charge()
            with self.gate.reading() as hold:
                data = await deadline.reading(read_image(request, caller.max_bytes, hold))
                unpack = taken.enter_context(self.gate.image())
                image = await deadline.within(self.decoded(data, caller))
                del data
            unpack(image.pixels.shape[0] * image.pixels.shape[1])
            pixels, facts = await self.asked(image.pixels, deadline)
            return await deadline.within(self.in_thread(encode, Purified(image, pixels, facts)))

    async def decoded(self, data: bytes, caller: Caller) -> Decoded:
        """An image that a caller sent, decoded in a thread. Raises ImageError."""
        return await self.coders.decoded(data, caller.max_pixels)

    async def asked(self, pixels: np.ndarray, deadline: Deadline) -> tuple[np.ndarray, dict[str, Any]]:
        """What the purifier makes of uint8 (H, W, 3) pixels: pixels of the same shape, and the facts about them.

        Raises what it met, or TimeoutError.
        """
        try:
            result = await deadline.within(self._asked(pixels, deadline.left))
        except RayActorError:  # another replica may do it
            result = await deadline.within(self._asked(pixels, deadline.left))
        if isinstance(result, Exception):
            raise result
        return result

    def in_thread(self, work: Callable[..., Answer], *args: Any) -> Awaitable[Answer]:
        """What ``work`` returns, in one of the few threads for decoding and encoding."""
        return self.coders.run(work, *args)

    async def _asked(self, pixels: np.ndarray, seconds: float) -> Any:
        response = self.purifier.purify.remote(pixels, seconds)
        try:
            return await response
        except asyncio.CancelledError:
            # The caller left, or time is up: the image leaves its lane.
            response.cancel()
            raise


async def front() -> Front:
    """The front of the ingress that this request came to, for ``Depends``."""
    return serve.get_replica_context().servable_object.front  # type: ignore[attr-defined]  # typed as a function


# Only for the documentation page: the check itself must also say what is wrong.
_TOKEN = HTTPBearer(auto_error=False, description="the endpoint's token")


async def caller(request: Request, front: Annotated[Front, Depends(front)], _: Annotated[Any, Depends(_TOKEN)]) -> None:
    """Checks who calls, and leaves it in the request's state, for ``Depends``."""
    request.state.caller = front.check_caller(request.headers.get("authorization"))


@contextmanager
def refusing(deadline: Deadline) -> Iterator[None]:
    """Turn what can go wrong with an image into a Refusal."""
    try:
        yield
    except ImageError as error:
        raise Refusal.of(error) from error
    except Full as error:
        message = "it would take too long until this image's turn; try again in a moment"
        raise Refusal(503, "busy", message, retry_after(error.retry_after)) from error
    except (TooLate, TimeoutError, asyncio.TimeoutError) as error:
        raise deadline.missed() from error
    except HTTPException:
        raise
    except (ClientDisconnect, TaskCancelledError) as error:
        # Nobody reads it.
        raise Refusal(_LEFT, "left", "the caller has left; ask again") from error
    except Exception as error:
        # An error of the purifier comes as one of Ray.
        if isinstance(error, NOBODY) and not isinstance(error, RayTaskError):
            message = "no purifier replica answers, or it was lost over this image; try again in a moment"
            raise Refusal(503, "unavailable", message, retry_after(READY_S)) from error
        _LOG.exception("purification failed")
        raise Refusal(500, "internal", "the purifier failed on this image; the log of the server says why") from error
