"""Names of inputs, which may be patterns as shells know them → the files and folders there are, on disks and in stores.

``*``, ``?`` and ``[a-z]`` stand within a name, and for no dot at its beginning; ``**`` stands for any folders on the
way; ``{a,b}`` and ``{000..127}`` for each of their names, all of which have to be there. What is literally so named
wins. In a URI ``?`` begins the options.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, islice
from typing import NamedTuple

from raypurify.errors import SourceError
from raypurify.storage import Place, Stamp, overlapped, redact, resolve, same_store

MOST_NAMES = 100_000

# A file with its stamp, a folder with None, or with its reason what is passed over on the way.
Named = tuple[Place, Stamp | str | None]


class Names(NamedTuple):
    """What a name of inputs stands for, and the folders in which it would stand for any new folder as well."""

    named: list[Named]
    open_folders: list[Place]


_WILD = re.compile(r"[*?\[]")
_TOKEN = re.compile(r"\*+|\[[!^]?\]?[^\]/]*\]|.", re.DOTALL)


def named_by(uri: str | os.PathLike, followed: dict[str, str] | None = None) -> Names:
    """The files and folders that a path, URI or pattern names, at least one; ``followed`` is as for ``Place.walk``.

    Raises :class:`SourceError` where there is none, or its store cannot be reached.
    """
    shown = redact(uri)
    try:
        place = resolve(uri)
        if (found := _at(place)) is not None:
            return Names([found], [])
        paths = list(islice(_braces(place.path), MOST_NAMES + 1))
        if len(paths) > MOST_NAMES:
            raise SourceError(f"{shown}: the braces stand for more than {MOST_NAMES:,} names; use * instead")
        names = Names([], [])
        for path, one in zip(paths, overlapped(lambda path: _names(replace(place, path=path), followed), paths)):
            passed = [stamp for _, stamp in one.named if isinstance(stamp, str)]
            if len(passed) == len(one.named):
                which = shown if path == place.path else f"{shown}: {replace(place, path=path)}"
                raise SourceError(f"{which}: {_nothing(path, passed)}")
            names.named.extend(one.named)
            names.open_folders.extend(one.open_folders)
        return names
    except SourceError:
        raise
    except (OSError, ValueError, ImportError) as error:
        raise SourceError(f"{shown}: cannot be reached: {error}; check the path") from error


def would_name(uri: str, place: Place) -> bool:
    """Whether a pattern would name a folder, or one that holds it, if it were there."""
    pattern = resolve(uri)
    if not same_store(pattern, place) or not _WILD.search(pattern.path) or pattern.kind is not None:
        return False
    heads = [*accumulate(place.path.split("/"), "{}/{}".format)]
    wholes = (re.compile(_whole(path.split("/")), re.DOTALL) for path in _braces(pattern.path))
    return any(whole.fullmatch(head) for whole in wholes for head in heads)


def _nothing(path: str, passed: Sequence[str]) -> str:
    if not _WILD.search(path):
        return "no such file or folder; check the path"
    links = ", or read links to folders too with --follow-links" if "links to folders" in passed else ""
    return f"nothing fits the pattern; check it{links}"


def _at(place: Place) -> Named | None:
    kind = place.kind
    return None if kind is None else (place, None if kind == "folder" else place.stamp)


def _names(place: Place, followed: dict[str, str] | None) -> Names:
    """What a path without braces names."""
    if (found := _at(place)) is not None:
        return Names([found], [])
    parts = place.path.split("/")
    plain = next((number for number, part in enumerate(parts) if _WILD.search(part)), len(parts))
    if plain == len(parts):
        return Names([], [])
    folder = replace(place, path="/".join(parts[:plain]) or "/")
    takes_any = "**" in parts or parts[-1] == "*"
    return Names(list(_fitting(folder, parts[plain:], followed)), [folder] * takes_any)


def _fitting(folder: Place, parts: Sequence[str], followed: dict[str, str] | None) -> Iterator[Named]:
    """What below a folder fits the parts of a pattern; store or disk are asked for each folder that may hold some."""
    part, *rest = parts
    if not _WILD.search(part):
        if rest:
            yield from _fitting(folder / part, rest, followed)
        elif found := _at(folder / part):
            yield found
    elif folder.kind != "folder":
        return
    elif part == "**":
        yield from _below(folder, parts, followed)
    else:
        fits = re.compile(_segment(part), re.DOTALL).fullmatch
        for name, stamp in folder.entries():
            if fits(name) and not rest:
                yield folder / name, stamp
            elif fits(name) and stamp is None:
                yield from _fitting(folder / name, rest, followed)


def _below(folder: Place, parts: Sequence[str], followed: dict[str, str] | None) -> Iterator[Named]:
    """What fits a pattern that begins with ``**``, by one listing of all that is below; of folders that hold each other
    only the outermost."""
    fits = re.compile(_whole(parts), re.DOTALL).fullmatch
    seen: set[str] = set()
    for path, stamp in folder.walk(followed):
        heads = accumulate(path.split("/"), "{}/{}".format)
        hit = next((head for head in heads if head in seen or fits(head)), None)
        if hit is not None and hit != path:
            if hit not in seen:
                seen.add(hit)
                yield folder / hit, None
        elif hit is not None or (isinstance(stamp, str) and "/." not in f"/{path}"):
            yield folder / path, stamp


def _whole(parts: Sequence[str]) -> str:
    """The regular expression of the parts of a pattern."""
    *ways, last = parts
    return "".join(r"(?:(?!\.)[^/]+/)*" if part == "**" else _segment(part) + "/" for part in ways) + _segment(last)


def _segment(part: str) -> str:
    """The regular expression of one name of a pattern."""
    found = "" if part.startswith(".") else r"(?!\.)"
    for token in _TOKEN.findall(part):
        if token[0] == "*":
            found += "[^/]*"
        elif token == "?":
            found += "[^/]"
        elif len(token) > 1:
            found += _class(token)
        else:
            found += re.escape(token)
    return found


def _class(token: str) -> str:
    inside = re.sub(r"([^\w-])", r"\\\1", token[2:-1] if token[1] in "!^" else token[1:-1])
    kind = f"[{'^/' if token[1] in '!^' else ''}{inside}]"
    try:
        re.compile(kind)
    except re.error:  # a range that runs backwards
        return re.escape(token)
    return kind


def _braces(text: str) -> Iterator[str]:
    """The names that braces stand for.

    >>> [*_braces("a{,b}/{08..11}{x}")]
    ['a/08{x}', 'a/09{x}', 'a/10{x}', 'a/11{x}', 'ab/08{x}', 'ab/09{x}', 'ab/10{x}', 'ab/11{x}']
    """
    for brace in re.finditer(r"\{([^{}]*)\}", text):
        if choices := _choices(brace[1]):
            for choice in choices:
                yield from _braces(text[: brace.start()] + choice + text[brace.end() :])
            return
    yield text


def _choices(inside: str) -> Iterator[str] | None:
    if ends := re.fullmatch(r"(\d{1,18})\.\.(\d{1,18})", inside):
        first, last = ends.groups()
        width = max(map(len, ends.groups())) if any(len(end) > 1 and end[0] == "0" for end in ends.groups()) else 0
        step = 1 if int(first) <= int(last) else -1
        return (f"{number:0{width}d}" for number in range(int(first), int(last) + step, step))
    return iter(inside.split(",")) if "," in inside else None
