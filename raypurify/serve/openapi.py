"""What the API page says: bodies and answers of the OpenAPI schema, and the page, which needs no other host."""

from html import escape
from typing import Any

Answers = dict[int | str, dict[str, Any]]
PROVENANCE = ("Cluster", "Class", "Distance", "Flagged", "Relative-Change", "Iterations", "Bundle")

_FILE = {"type": "string", "format": "binary"}


def _form(name: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"schema": {"type": "object", "required": [name], "properties": {name: value}}}


BODY = {
    "required": True,
    "content": {
        **{kind: {"schema": _FILE} for kind in ("image/png", "image/jpeg", "image/webp", "application/octet-stream")},
        "multipart/form-data": _form("file", _FILE),
    },
}
FORM = {
    "required": True,
    "content": {"multipart/form-data": _form("files", {"type": "array", "items": _FILE, "minItems": 1})},
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
_WHERE = {"header": "Header", "path": "In the path", "query": "Query"}
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><link rel="stylesheet" href="page/page.css"><main class="api">
<h1>{title} {version}</h1><p>{description}</p>
{operations}<p>For tools: <a href="openapi.json">openapi.json</a>.</p></main></html>
"""


def answer(text: str, content: dict[str, dict[str, Any]], headers: dict[str, str] | None = None) -> dict[str, Any]:
    """The description of an answer: the schema of each media type, and the headers with what they say."""
    described = {name: {"description": says, "schema": {"type": "string"}} for name, says in (headers or {}).items()}
    return {
        "description": text,
        "content": {kind: {"schema": schema} for kind, schema in content.items()},
        **({"headers": described} if described else {}),
    }


def refusal(text: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """The description of an answer that is no image."""
    return answer(text, {"application/json": _ERROR}, headers)


RETRY = {"Retry-After": "seconds until it may be asked again"}
_VARY = {"Vary": "Accept"}
_SAYS = {f"X-Raypurify-{name}": "provenance" for name in PROVENANCE}
_JSON = {
    "type": "object",
    "required": ["image", "media_type", "provenance"],
    "properties": {
        "image": {"type": "string", "contentEncoding": "base64"},
        "media_type": {"const": "image/png"},
        "provenance": {"type": "object", "required": ["cluster", "class", "distance", "flagged", "bundle"]},
    },
}
_REFUSED: Answers = {
    400: refusal("empty, a broken form, too many images, or a timeout that is no number"),
    401: refusal("no token, or a wrong one", {"WWW-Authenticate": "the scheme: Bearer"}),
    406: refusal("Accept names nothing that this call can answer with", _VARY),
    408: refusal("the body did not come in time"),
    413: refusal("too many bytes or pixels"),
    415: refusal("not an image, or a body of a type that holds none"),
    422: refusal("cut short, too small, animated, or it would take too long to decode"),
    429: refusal("more images a second than this token may send", RETRY),
    500: refusal("the purifier failed on this image"),
    503: refusal("too many images are waiting, or the endpoint is shutting down", RETRY),
    504: refusal("no answer within the time that was given"),
}
ANSWERS: Answers = {
    200: answer(
        "the purified image, of the size, orientation and kind of colour of the one sent",
        {**dict.fromkeys(("image/png", "image/webp", "image/jpeg"), _FILE), "application/json": _JSON},
        _SAYS | _VARY,
    ),
    **_REFUSED,
}
BATCH_ANSWERS: Answers = {
    200: answer(
        "an answer for each image, in their order: the purified image, or JSON that says why not",
        {"multipart/mixed": _FILE, "application/zip": _FILE},
        {"X-Raypurify-Images": "how many", "X-Raypurify-Refused": "how many of them were not purified"} | _VARY,
    ),
    **_REFUSED,
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
        name, where = escape(parameter["name"]), _WHERE[parameter["in"]]
        parts.append(f"<p>{where} <code>{name}</code>: {escape(parameter.get('description', ''))}.</p>")
    if body := operation.get("requestBody"):
        parts.append(f"<p>Body: {', '.join(f'<code>{escape(kind)}</code>' for kind in body['content'])}.</p>")
    rows = []
    for status, answer in operation["responses"].items():
        names = ", ".join(f"<code>{escape(name)}</code>" for name in answer.get("headers", {}))
        headers = f"; headers {names}" if names else ""
        kinds = ", ".join(answer.get("content", {}))
        rows.append(f"<tr><td>{status}<td>{escape(answer['description'])}{headers}<td>{escape(kinds)}")
    return "".join(parts) + f"<table>{''.join(rows)}</table>"
