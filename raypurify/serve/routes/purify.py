"""``POST /v1/purify``: one image in, the purified image out."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from raypurify.images import encode_image
from raypurify.serve.front import Front, Purified, caller, front
from raypurify.serve.http import provenance_headers
from raypurify.serve.openapi import ANSWERS, BODY, TIMEOUT

router = APIRouter()


@router.post(
    "/v1/purify",
    response_class=Response,
    responses=ANSWERS,
    openapi_extra={"requestBody": BODY, "parameters": [TIMEOUT]},
    dependencies=[Depends(caller)],
)
async def purify(request: Request, front: Annotated[Front, Depends(front)]) -> Response:
    """Purify one image: the request's body, or the field `file` of a form. Answers a PNG."""
    return await front.purified(request, _png)


def _png(purified: Purified) -> Response:
    encoded = encode_image(purified.pixels, purified.image)
    return Response(encoded, media_type="image/png", headers=provenance_headers(purified.facts))
