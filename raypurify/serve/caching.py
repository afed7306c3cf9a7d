"""Answers that a caller may keep and ask about again: ``ETag``, ``If-None-Match`` and 304."""

from fastapi import Request, Response


def kept(request: Request, content: bytes, kind: str, tag: str, headers: dict[str, str] | None = None) -> Response:
    """The answer ``content`` of media type ``kind``, or 304 where the caller holds the version named ``tag``."""
    etag = f'"{tag}"'
    about = {"ETag": etag, "Cache-Control": "no-cache", **(headers or {})}
    held = {one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")}
    if held & {etag, "*"}:
        return Response(status_code=304, headers=about)
    return Response(content, media_type=kind, headers=about)
