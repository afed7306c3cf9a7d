"""The HTTP side without Ray: reading a request's image under a cap, answers, errors as JSON."""

import math
from collections.abc import AsyncGenerator, Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from raypurify.errors import ImageError

STATUS = {
    "empty": 400,
    "too-large": 413,
    "not-an-image": 415,
    "unsupported-mode": 415,
    "truncated": 422,
    "too-small": 422,
    "too-complex": 422,
    "animated": 422,
    "unreadable": 422,
}
# Room for a multipart body's boundaries and headers beside the image itself.
_ENVELOPE = 64 << 10


class Refusal(HTTPException):
    """An answer that is no image: status, a short stable ``error`` slug and a message for people."""

    def __init__(self, status: int, error: str, message: str, headers: dict[str, str] | None = None):
        detail: Any = {"error": error, "message": message}
        super().__init__(status, detail, headers)

    @classmethod
    def of(cls, error: ImageError) -> "Refusal":
        """The refusal of an image, with the status of its reason."""
        return cls(STATUS.get(error.reason, 422), error.reason, str(error))


async def refuse(request: Request, error: HTTPException) -> JSONResponse:
    """Answer an HTTP error with ``{"error": slug, "message": text}``."""
    body: Any = error.detail
    if not isinstance(body, dict):
        body = {"error": HTTPStatus(error.status_code).phrase.lower().replace(" ", "-"), "message": str(error.detail)}
    return JSONResponse(body, error.status_code, error.headers)


def asked_seconds(request: Request, most: float) -> float:
    """The seconds within which a caller wants the answer: the header ``X-Raypurify-Timeout``, ``most`` at most.

    Raises :class:`Refusal` 400 where the header is no number of seconds above zero.
    """
    text = request.headers.get("x-raypurify-timeout")
    try:
        seconds = most if text is None else float(text)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise Refusal(400, "bad-timeout", "X-Raypurify-Timeout is a number of seconds above zero, e.g. 2.5")
    return min(seconds, most)


async def read_image(request: Request, max_bytes: int, hold: Callable[[int], None]) -> bytes:
    """The image of a request: its body, or the field ``file`` of a multipart form. Never holds more than the cap.

    ``hold`` is told the size of each piece before it is kept. Raises :class:`Refusal`: 413 as soon as more than
    ``max_bytes`` have come or are announced, 400 for a broken form, and what ``hold`` raises.
    """
    multipart = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
    limit = max_bytes + _ENVELOPE if multipart else max_bytes
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise _too_large(max_bytes)
    stream = _capped(request, limit, max_bytes, hold)
    data = await _form_file(request, stream) if multipart else b"".join([chunk async for chunk in stream])
    if len(data) > max_bytes:
        raise _too_large(max_bytes)
    return data


def provenance_headers(facts: dict) -> dict[str, str]:
    """The ``X-Raypurify-*`` headers of the facts of one image; what is not ASCII in a class name is percent-encoded.

    >>> provenance_headers({"class": "kočka", "relative_change": 0.123456789, "flagged": False})
    {'X-Raypurify-Class': 'ko%C4%8Dka', 'X-Raypurify-Relative-Change': '0.123457', 'X-Raypurify-Flagged': 'false'}
    """
    return {f"X-Raypurify-{name.replace('_', '-').title()}": _header(value) for name, value in facts.items()}


def _header(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.6g}" if isinstance(value, float) else quote(str(value), safe=" ,.;:()/'&+-_")


async def _capped(
    request: Request, limit: int, max_bytes: int, hold: Callable[[int], None]
) -> AsyncGenerator[bytes, None]:
    seen = 0
    async for chunk in request.stream():
        seen += len(chunk)
        if seen > limit:
            raise _too_large(max_bytes)
        hold(len(chunk))
        yield chunk


async def _form_file(request: Request, stream: AsyncGenerator[bytes, None]) -> bytes:
    try:
        form = await MultiPartParser(request.headers, stream, max_files=1, max_fields=8).parse()
    except (MultiPartException, KeyError) as error:
        message = f"the multipart form cannot be read ({error}); send one field named 'file'"
        raise Refusal(400, "bad-form", message) from error
    file = form.get("file")
    try:
        if file is None or isinstance(file, str):
            raise Refusal(400, "bad-form", "the multipart form has no file in a field named 'file'")
        return await file.read()
    finally:
        await form.close()


def _too_large(max_bytes: int) -> Refusal:
    return Refusal(413, "too-large", f"the image is larger than the limit of {max_bytes:,} bytes")
