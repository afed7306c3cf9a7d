"""``GET /``: the page, on which an image is dropped and comes back purified. Its files lie in ``serve/page``."""

import hashlib
from html import escape
from importlib import resources
from pathlib import PurePath
from shlex import quote
from string import Template
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from raypurify.images import FORMATS
from raypurify.serve.caching import kept
from raypurify.serve.front import Front, front
from raypurify.serve.http import Refusal
from raypurify.version import __version__

router = APIRouter(include_in_schema=False)

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""What every answer of the page carries: nothing runs, loads or goes anywhere but what the endpoint itself serves."""

_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FILES = {file.name: file.read_bytes() for file in (resources.files("raypurify.serve") / "page").iterdir()}
_INDEX = Template(_FILES.pop("index.html").decode())


@router.get("/")
async def page(request: Request, front: Annotated[Front, Depends(front)]) -> Response:
    """The page, with the limits of this endpoint and whether it asks for a token."""
    settings = front.settings
    asked = bool(settings.token_sha256)
    header = '-H "Authorization: Bearer $RAYPURIFY_TOKEN" ' if asked else ""
    text = _INDEX.substitute(
        token="asked" if asked else "none",
        max_bytes=settings.max_bytes,
        size=escape(_size(settings.max_bytes)),
        pixels=f"{settings.max_pixels:,}",
        formats=", ".join(FORMATS),
        header=header,
        url=escape(quote(f"{request.base_url}v1/purify"), quote=False),
        version=__version__,
    )
    return _answer(request, "index.html", text.encode())


@router.get("/page/{name}")
async def file(request: Request, name: str) -> Response:
    """A file that belongs to the page."""
    if name not in _FILES:
        raise Refusal(404, "not-found", "the page has no such file")
    return _answer(request, name, _FILES[name])


def _answer(request: Request, name: str, content: bytes) -> Response:
    tag = hashlib.sha256(content).hexdigest()[:32]
    return kept(request, content, _KINDS[PurePath(name).suffix], tag, HEADERS)


def _size(count: int) -> str:
    """A number of bytes for people.

    >>> _size(16 << 20), _size(100_000)
    ('16 MiB', '97.7 KiB')
    """
    for unit, size in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"
