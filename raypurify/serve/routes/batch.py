"""``POST /v1/purify/batch``: several images in, as many answers out."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response

from raypurify.errors import ImageError
from raypurify.serve.accept import VARY, wanted
from raypurify.serve.deadline import Deadline
from raypurify.serve.front import Front, Purified, caller, front, refusing
from raypurify.serve.http import Refusal, read_images
from raypurify.serve.limits import Caller
from raypurify.serve.many import each
from raypurify.serve.openapi import BATCH_ANSWERS, FORM, TIMEOUT
from raypurify.serve.parts import OFFERED, Encoded, pack
from raypurify.serve.routes.purify import encoded

router = APIRouter()

Unpack = Callable[[int], None]


@router.post(
    "/v1/purify/batch",
    response_class=Response,
    responses=BATCH_ANSWERS,
    openapi_extra={"requestBody": FORM, "parameters": [TIMEOUT]},
    dependencies=[Depends(caller)],
)
async def batch(
    request: Request,
    front: Annotated[Front, Depends(front)],
    format: Annotated[Literal["png", "webp", "jpeg"], Query(description="what the images are written as")] = "png",
) -> Response:
    """Purify the files of a form. Answers, by `Accept`, a `multipart/mixed` with a part for each, or a zip, in the
    order in which they were sent; an image that cannot be purified has its error in its place."""
    kind = wanted(request, OFFERED)[0]
    settings, deadline = front.settings, Deadline(request, front.settings.timeout_s)
    most = min(settings.max_batch_images, settings.max_queued_requests)
    caller = request.state.caller
    with front.metrics.refused() as told, refusing(deadline), front.gate.reading() as hold, ExitStack() as taken:
        images = await deadline.reading(read_images(request, most, caller.max_batch_bytes, hold))
        told(len(images))
        caller.charge(len(images))
        places = [taken.enter_context(front.gate.image()) for _ in images]
        work = _Batch(front, caller, deadline, f"image/{format}")
        told(0)  # from here on each by itself
        answers = await each([partial(work.one, *pair) for pair in zip(images, places)], deadline, front.metrics)
        # Also where time is up: what is done is worth having.
        body, media_type = await front.in_thread(pack, answers, kind)
    refused = sum(isinstance(answer, Refusal) for answer in answers)
    headers = {"X-Raypurify-Images": str(len(answers)), "X-Raypurify-Refused": str(refused)}
    return Response(body, media_type=media_type, headers=headers | VARY)


class _Batch:
    """Images of one request, whose pixels together are bounded as those that wait in one place are."""

    def __init__(self, front: Front, caller: Caller, deadline: Deadline, kind: str):
        self.front, self.caller, self.deadline, self.kind = front, caller, deadline, kind
        self.pixels = 0

    async def one(self, data: bytes, unpack: Unpack) -> Encoded:
        """One image from its bytes to its bytes. Raises ImageError, Refusal, and what the purifier raises."""
        if len(data) > self.caller.max_bytes:
            raise ImageError("too-large", f"the image is larger than the limit of {self.caller.max_bytes:,} bytes")
        image = await self.front.decoded(data, self.caller)
        pixels = image.pixels.shape[0] * image.pixels.shape[1]
        self.pixels += pixels
        most = self.front.settings.max_waiting_pixels
        if self.pixels > most:
            raise ImageError("too-large", f"the images before it fill the {most:,} pixels of a request; send it alone")
        unpack(pixels)
        purified = Purified(image, *await self.front.asked(image.pixels, self.deadline))
        return await self.front.in_thread(encoded, purified, [self.kind])
