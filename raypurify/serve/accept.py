"""The media type of an answer: what ``Accept`` asks for, among what a call can give."""

from collections.abc import Sequence

from fastapi import Request

from raypurify.serve.http import Refusal

VARY = {"Vary": "Accept"}


def wanted(request: Request, offered: Sequence[str]) -> list[str]:
    """The offered media types that the caller takes, the most wanted first. Raises Refusal 406 where it takes none."""
    kinds = ranked(",".join(request.headers.getlist("accept")), offered)
    if not kinds:
        message = f"this call answers with {' or '.join(offered)}; ask for one of them in the header Accept"
        raise Refusal(406, "not-acceptable", message, VARY)
    return kinds


def ranked(accept: str, offered: Sequence[str]) -> list[str]:
    """The offered media types that the value of an ``Accept`` header takes, the most wanted first.

    A media type has the weight of the most specific range that names it, as RFC 9110 has it. Among equals the order of
    ``offered`` decides. An empty value takes everything; a range that cannot be read takes nothing.

    >>> ranked("image/webp, image/*;q=0.9, */*;q=0.1", ["image/png", "image/webp", "application/json"])
    ['image/webp', 'image/png', 'application/json']
    >>> ranked("text/html, image/png;q=0", ["image/png"])
    []
    """
    if not accept.strip():
        return list(offered)
    ranges = dict(filter(None, map(_weighted, accept.lower().split(","))))

    def weight(kind: str) -> float:
        names = (kind, f"{kind.partition('/')[0]}/*", "*/*")
        return next((ranges[name] for name in names if name in ranges), 0.0)

    return sorted((kind for kind in offered if weight(kind)), key=weight, reverse=True)


def _weighted(part: str) -> tuple[str, float] | None:
    name, *parameters = (text.strip() for text in part.split(";"))
    try:
        weight = next((float(text[2:]) for text in parameters if text.startswith("q=")), 1.0)
    except ValueError:
        return None
    # Java's own client sends a lone star.
    return ("*/*" if name == "*" else name, weight) if 0 <= weight <= 1 else None
