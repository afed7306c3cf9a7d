"""The HTTP side without Ray: reading a request's images under a cap, answers, errors as JSON."""

import io
import sys
from collections.abc import AsyncGenerator, Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.routing import Match

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
# Fields of a form that hold no file.
_FIELDS = 8


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
    """Answer an HTTP error with ``{"error": slug, "message": text}``, below ``/v2`` with ``{"error": text}``."""
    body: Any = error.detail
    if not isinstance(body, dict):
        body = {"error": HTTPStatus(error.status_code).phrase.lower().replace(" ", "-"), "message": str(error.detail)}
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    if path.startswith("/v2"):
        # The Open Inference Protocol has a text alone.
        body = {"error": f"{body['error']}: {body['message']}"}
    headers = {**(error.headers or {})}
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_methods(request))
    return JSONResponse(body, error.status_code, headers)


async def refuse_arguments(request: Request, error: RequestValidationError) -> JSONResponse:
    """Answer arguments that FastAPI does not accept."""
    first = error.errors()[0]
    message = f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}; the page /docs says what is expected"
    return await refuse(request, Refusal(400, "bad-request", message))


async def fail(request: Request, error: Exception) -> JSONResponse:
    """Answer an error that nobody foresaw; the server writes it to its log."""
    return await refuse(request, Refusal(500, "internal", "the endpoint failed; the log of the server says why"))


def check_type(request: Request, *kinds: str) -> None:
    """Raises :class:`Refusal` 415 for a body of a media type that is none of ``kinds``; one without a type passes.

    A kind that ends with ``/`` is all that begin so.
    """
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # What curl says of any body that it is told nothing about.
    if given and given != "application/x-www-form-urlencoded" and not given.startswith(kinds):
        text = " or ".join(f"{kind}*" if kind.endswith("/") else kind for kind in kinds)
        raise Refusal(415, "wrong-type", f"the body is of the type {given[:100]}; send {text}")


async def read_body(request: Request, max_bytes: int, hold: Callable[[int], None]) -> bytes:
    """The body of a request. ``hold`` is told the size of each piece before it is kept.

    Raises :class:`Refusal` 413 as soon as more than ``max_bytes`` have come or are announced, and what ``hold`` raises.
    """
    # Its value is the memory that was written to; joined pieces would be there twice.
    body = io.BytesIO()
    async for chunk in _capped(request, max_bytes, max_bytes, hold):
        body.write(chunk)
    return body.getvalue()


async def read_image(request: Request, max_bytes: int, hold: Callable[[int], None]) -> bytes:
    """The image of a request: its body, or the field ``file`` of a multipart form, as :func:`read_body` reads it.

    Raises :class:`Refusal` also with 400 for a broken form and 415 for a body of a type that holds no image.
    """
    check_type(request, "image/", "application/octet-stream", "multipart/form-data")
    if not _is_form(request):
        return await read_body(request, max_bytes, hold)
    form = await _form(request, _capped(request, max_bytes + _ENVELOPE, max_bytes, hold), 1)
    file = form.get("file")
    try:
        if file is None or isinstance(file, str):
            raise Refusal(400, "bad-form", "the multipart form has no file in a field named 'file'")
        data = await _taken(file, hold)
    finally:
        await form.close()
    if len(data) > max_bytes:
        raise _too_large(max_bytes)
    return data


async def read_images(request: Request, most: int, max_bytes: int, hold: Callable[[int], None]) -> list[bytes]:
    """The files of a multipart form, ``most`` at most and ``max_bytes`` together, in their order, whatever their names.

    Raises :class:`Refusal` as :func:`read_image`, and where there is none.
    """
    if not _is_form(request):
        raise Refusal(415, "wrong-type", "send the images as the files of a form, multipart/form-data")
    form = await _form(request, _capped(request, max_bytes, max_bytes, hold), most)
    try:
        images = [await _taken(file, hold) for _, file in form.multi_items() if not isinstance(file, str)]
    finally:
        await form.close()
    if not images:
        raise Refusal(400, "bad-form", "the multipart form holds no file; send each image as one")
    return images


def provenance_headers(facts: dict) -> dict[str, str]:
    """The ``X-Raypurify-*`` headers of the facts of one image; what is not ASCII in a class name is percent-encoded,
    what is None is empty, and a list has commas between its numbers.

    >>> provenance_headers({"class": "kočka", "relative_change": 0.123456789, "flagged": False})
    {'X-Raypurify-Class': 'ko%C4%8Dka', 'X-Raypurify-Relative-Change': '0.123457', 'X-Raypurify-Flagged': 'false'}
    """
    return {f"X-Raypurify-{name.replace('_', '-').title()}": _header(value) for name, value in facts.items()}


def _header(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(map(str, value))
    return f"{value:.6g}" if isinstance(value, float) else quote(str(value), safe=" ,.;:()/'&+-_")


def _methods(request: Request) -> list[str]:
    """What may be asked of a path: Starlette names the methods of its first route alone."""

    def answers(method: str) -> bool:
        asked = {**request.scope, "method": method}
        return any(route.matches(asked)[0] == Match.FULL for route in request.app.routes)

    return [method for method in ("DELETE", "GET", "PATCH", "POST", "PUT") if answers(method)]


def _is_form(request: Request) -> bool:
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


async def _capped(
    request: Request, limit: int, max_bytes: int, hold: Callable[[int], None]
) -> AsyncGenerator[bytes, None]:
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise _too_large(max_bytes)
    seen = 0
    async for chunk in request.stream():
        seen += len(chunk)
        if seen > limit:
            raise _too_large(max_bytes)
        hold(len(chunk))
        yield chunk


class _Parser(MultiPartParser):
    # Images stay in memory, which is bounded, and never reach a disk.
    spool_max_size = sys.maxsize


async def _form(request: Request, stream: AsyncGenerator[bytes, None], most: int) -> FormData:
    try:
        return await _Parser(request.headers, stream, max_files=most, max_fields=_FIELDS).parse()
    except (MultiPartException, KeyError, ValueError) as error:  # ValueError: a charset that decodes nothing
        text = "one field named 'file'" if most == 1 else f"at most {most} files"
        raise Refusal(400, "bad-form", f"the multipart form cannot be read ({error}); send {text}") from error


async def _taken(file: UploadFile, hold: Callable[[int], None]) -> bytes:
    """The bytes of a file of a form, which gives them up; ``hold`` counts both while there are both."""
    size = file.size or 0
    hold(size)
    data = await file.read()
    await file.close()
    hold(-size)
    return data


def _too_large(max_bytes: int) -> Refusal:
    return Refusal(413, "too-large", f"the body is larger than the limit of {max_bytes:,} bytes; send less at a time")
