"""``POST /v1/purify``: one image in, the purified image out."""

from base64 import b64encode
from collections.abc import Sequence
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from raypurify.errors import ImageError
from raypurify.images import encode_image
from raypurify.serve.accept import VARY, wanted
from raypurify.serve.front import Front, Purified, caller, front
from raypurify.serve.http import Refusal, provenance_headers
from raypurify.serve.openapi import ANSWERS, BODY, TIMEOUT
from raypurify.serve.parts import FORMATS, Encoded

router = APIRouter()

_JSON = "application/json"


@router.post(
    "/v1/purify",
    response_class=Response,
    responses=ANSWERS,
    openapi_extra={"requestBody": BODY, "parameters": [TIMEOUT]},
    dependencies=[Depends(caller)],
)
async def purify(request: Request, front: Annotated[Front, Depends(front)]) -> Response:
    """Purify one image: the request's body, or the field `file` of a form. Answers what `Accept` asks for: a PNG, a
    lossless WebP, a JPEG, or JSON that holds a PNG in base64."""
    kinds = wanted(request, (*FORMATS, _JSON))
    return await front.purified(request, partial(_answer, kinds))


def encoded(purified: Purified, kinds: Sequence[str]) -> Encoded:
    """A purified image as the first of some media types that can hold it; JSON holds a PNG.

    Raises Refusal 406 where none can.
    """
    for kind in kinds:
        try:
            data = encode_image(purified.pixels, purified.image, FORMATS.get(kind, "png"))
            return Encoded(data, kind, purified.facts)
        except ImageError as error:  # of JPEG and transparency, and of sides that are too long
            problem = error
    raise Refusal(406, "not-acceptable", str(problem), VARY) from problem


def _answer(kinds: Sequence[str], purified: Purified) -> Response:
    data, kind, facts = encoded(purified, kinds)
    headers = provenance_headers(facts) | VARY
    if kind != _JSON:
        return Response(data, media_type=kind, headers=headers)
    body = {"image": b64encode(data).decode(), "media_type": "image/png", "provenance": facts}
    return JSONResponse(body, headers=headers)
