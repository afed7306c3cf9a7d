"""Requests that a browser sends for a page of another site, which nobody who sits there has asked for.

A page may send what needs no leave of the endpoint beforehand (a form, a plain text), and where no token is asked for
it would be obeyed. Browsers say where a page is from, and no page can make them say otherwise.
"""

from fastapi import Request

from raypurify.serve.http import Refusal

_OWN = ("same-origin", "none")


async def own_page(request: Request) -> None:
    """Raises :class:`Refusal` 403 for a page of another site, for ``Depends``; what is no browser says nothing, and
    passes."""
    site, origin = (request.headers.get(name, "").strip().lower() for name in ("sec-fetch-site", "origin"))
    # Behind a proxy Host may be another name, so it is asked only where the browser says no more.
    own = site in _OWN if site else origin.partition("://")[2] == request.headers.get("host", "").lower()
    if (site or origin) and not own:
        message = "pages of other sites change nothing here; call from a page of this endpoint, or without a browser"
        raise Refusal(403, "foreign-page", message)


async def json_body(request: Request) -> None:
    """Raises :class:`Refusal` 415 for a body that is not called JSON, for ``Depends``: pages of other sites may send
    others without asking, and one without a type too."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != "application/json":
        what = f"the body is of the type {given[:100]}" if given else "the body has no type"
        raise Refusal(415, "wrong-type", f"{what}; send application/json")
