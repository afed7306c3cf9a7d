"""One image on its way from a source to a sink, and the shard of images that one task works on."""

import posixpath
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

from raypurify.errors import ImageError, SourceError
from raypurify.images import MORE_SUFFIXES
from raypurify.storage import Place

_LOST = "it is damaged, or changed since the job was planned; get it again"
Held = TypeVar("Held")
MAX_FILE_BYTES = 256 << 20
IMAGE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib")
    + (".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".pnm")
    + MORE_SUFFIXES
)


@dataclass(frozen=True)
class Row:
    """One image of a source: ``id`` unique and stable, ``row`` its dense position in the whole source, ``data`` the
    bytes as stored, ``label`` an index into the source's classes or None; ``error`` where the bytes cannot be had."""

    id: str
    row: int
    data: bytes | None
    label: int | None = None
    error: ImageError | None = None


@dataclass(frozen=True)
class Shard:
    """The unit of work and of commit: ``rows`` images that one task reads, purifies and writes.

    ``name`` is unique in the source and names the shard's records; ``first_row`` is the ``row`` of its first image.
    ``place`` is the folder or the file that holds the images, and ``cut`` says which of it they are, in a form that
    only their container (``kind``, a key of :data:`raypurify.containers.registry.CONTAINERS`) looks into. Shards travel
    to other processes.
    """

    index: int
    name: str
    kind: str
    place: Place
    first_row: int
    rows: int
    cut: Any
    classes: tuple[str, ...] | None = None


def counted(shard: Shard, held: Iterable[Held], rows: Callable[[Held], int] = lambda _: 1) -> Iterator[Held]:
    """What is read of a shard, each of so many ``rows``, as it comes.

    Raises SourceError where it ends before as many rows as were planned, or holds more: a file whose own counts do not
    agree has lost some.
    """
    count = 0
    for item in held:
        count += rows(item)
        if count > shard.rows:
            raise SourceError(f"{shard.place}: holds more than the {shard.rows} rows of shard {shard.name}; {_LOST}")
        yield item
    if count < shard.rows:
        raise SourceError(f"{shard.place}: holds {count} of the {shard.rows} rows of shard {shard.name}; {_LOST}")


def split_suffix(path: str) -> tuple[str, str]:
    """The path without its suffix, and that, as ``posixpath.splitext``, which takes its time over a million.

    >>> split_suffix("a.b/c.d.png"), split_suffix("a.b/c"), split_suffix("a/.png")
    (('a.b/c.d', '.png'), ('a.b/c', ''), ('a/.png', ''))
    """
    name, dot = path.rfind("/") + 1, path.rfind(".")
    if dot > name and path[name] != ".":
        return path[:dot], path[dot:]
    return posixpath.splitext(path)


def stays_below(path: str) -> bool:
    """Whether a path leads to nothing outside of the folder that it is joined to.

    >>> [stays_below(path) for path in ("a/..b.png", "a/../../b.png", "/b.png")]
    [True, False, False]
    """
    return not path.startswith("/") and ".." not in path.split("/")


def file_id(path: str) -> str:
    """A file name as an id: as it is, percent-encoded where it is not UTF-8.

    >>> file_id("é 1%.png"), file_id("caf\\udce9 1%.png")
    ('é 1%.png', 'caf%E9 1%25.png')
    """
    if path.isascii():
        return path
    raw = path.encode("utf-8", "surrogateescape")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        text = path.replace("%", "%25")
        return "".join(f"%{ord(c) - 0xDC00:02X}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in text)


def named_by_id(identity: str) -> str:
    """The file name that is not UTF-8 and has this id; the id itself where it is that of no such name.

    >>> named_by_id("50%25.png"), named_by_id("caf%E9 1%25.png")
    ('50%25.png', 'caf\\udce9 1%.png')
    """
    raw = unquote_to_bytes(identity)
    try:
        raw.decode()
        return identity
    except UnicodeDecodeError:
        return raw.decode("utf-8", "surrogateescape")
