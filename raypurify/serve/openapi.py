"""What the API page says: bodies and answers of the OpenAPI schema, and the page, which needs no other host."""

from html import escape
from typing import Any

PROVENANCE = ("Cluster", "Class", "Distance", "Flagged", "Relative-Change", "Iterations", "Bundle")

BODY = {
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
TIMEOUT = {
    "name": "X-Raypurify-Timeout",
    "in": "header",
    "required": False,
    "description": "seconds within which the answer is wanted; the server's own limit where it is less",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}
_ERROR = {
    "type": "object",
    "required": ["error", "message"],
    "properties": {"error": {"type": "string"}, "message": {"type": "string"}},
}
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
:root {{ color-scheme: light dark }}
body {{ font: 1rem/1.5 system-ui; max-width: 50rem; margin: 2rem auto; padding: 0 1rem }}
code {{ font-family: ui-monospace, monospace }} td {{ padding: 0 1rem .3rem 0; vertical-align: top }}
</style><h1>{title} {version}</h1><p>{description}</p>
{operations}<p>For tools: <a href="openapi.json">openapi.json</a>.</p></html>
"""


def refusal(text: str) -> dict[str, Any]:
    """The description of an answer that is no image."""
    return {"description": text, "content": {"application/json": {"schema": _ERROR}}}


ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "the purified image, of the size, orientation and kind of colour of the one sent",
        "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
        "headers": {f"X-Raypurify-{name}": {"schema": {"type": "string"}} for name in PROVENANCE},
    },
    **{
        status: refusal(text)
        for status, text in {
            400: "empty, a form without the field 'file', or a timeout that is no number",
            401: "no token, or a wrong one",
            413: "too many bytes or pixels",
            415: "not an image",
            422: "cut short, too small, animated",
            429: "more images a second than this token may send; Retry-After says when to ask again",
            500: "the purifier failed on this image",
            503: "too many images are waiting, or the endpoint is shutting down; Retry-After says when to ask again",
            504: "no answer within the time that was given",
        }.items()
    },
}


def page(schema: dict[str, Any]) -> str:
    """An OpenAPI schema as one HTML page for people, without scripts.

    >>> "<h1>t 1</h1>" in page({"info": {"title": "t", "version": "1"}, "paths": {}})
    True
    """
    operations = [
        _operation(method, path, operation)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    info = {name: escape(schema["info"].get(name, "")) for name in ("title", "version", "description")}
    return _PAGE.format(operations="".join(operations), **info)


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    parts = [f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation.get('description', ''))}</p>"]
    if operation.get("security"):
        parts.append("<p>Header <code>Authorization: Bearer &lt;token&gt;</code>.</p>")
    for parameter in operation.get("parameters", []):
        parts.append(f"<p>Header <code>{escape(parameter['name'])}</code>: {escape(parameter['description'])}.</p>")
    if body := operation.get("requestBody"):
        parts.append(f"<p>Body: {', '.join(f'<code>{escape(kind)}</code>' for kind in body['content'])}.</p>")
    rows = []
    for status, answer in operation["responses"].items():
        names = ", ".join(f"<code>{escape(name)}</code>" for name in answer.get("headers", {}))
        headers = f"; headers {names}" if names else ""
        kinds = ", ".join(answer.get("content", {}))
        rows.append(f"<tr><td>{status}<td>{escape(answer['description'])}{headers}<td>{escape(kinds)}")
    return "".join(parts) + f"<table>{''.join(rows)}</table>"
