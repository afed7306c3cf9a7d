"""Files and folders behind one small face: the local disk and every file system pyarrow or fsspec can reach by URI.

The local disk goes through ``os``, because pyarrow cannot name a file whose name is not UTF-8, and because a local
write is made durable and renamed into place, where an object store's put is atomic by itself.
"""

import os
import posixpath
import re
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import BinaryIO, TypeVar
from urllib.parse import unquote, urlsplit

from pyarrow import ArrowException, fs

Item = TypeVar("Item")
Result = TypeVar("Result")

_CONNECTIONS = 8
# Size in bytes and time of the last change in nanoseconds.
Stamp = tuple[int, int]

_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")


@dataclass(frozen=True)
class Place:
    """A file or folder: ``path`` on the file system ``remote``, or on the local disk where that is None."""

    path: str
    remote: fs.FileSystem | None = field(default=None, hash=False)

    def __str__(self) -> str:
        # A name that is not UTF-8 must not break the log line it appears in.
        return self.path.encode("utf-8", "backslashreplace").decode()

    def __truediv__(self, relative: str) -> "Place":
        return replace(self, path=posixpath.join(self.path, relative))

    @property
    def name(self) -> str:
        return posixpath.basename(self.path.rstrip("/"))

    @property
    def parent(self) -> "Place":
        return replace(self, path=posixpath.dirname(self.path.rstrip("/")))

    @property
    def kind(self) -> str | None:
        """``"file"``, ``"folder"`` or None where there is nothing."""
        if self.remote is None:
            return "folder" if os.path.isdir(self.path) else "file" if os.path.isfile(self.path) else None
        found = self.remote.get_file_info(self.path).type
        return {fs.FileType.Directory: "folder", fs.FileType.File: "file"}.get(found)

    @property
    def stamp(self) -> Stamp:
        """What tells this file from another version of itself, without reading it."""
        if self.remote is None:
            return _stamp(os.stat(self.path))
        info = self.remote.get_file_info(self.path)
        return info.size or 0, info.mtime_ns or 0

    def open(self) -> BinaryIO:
        return open(self.path, "rb") if self.remote is None else self.remote.open_input_file(self.path)

    def read(self, limit: int = -1) -> bytes:
        with self.open() as file:
            return file.read() if limit < 0 else file.read(limit)

    def make_folder(self) -> None:
        if self.remote is None:
            os.makedirs(self.path, exist_ok=True)
        else:
            self.remote.create_dir(self.path, recursive=True)

    def write(self, data: bytes, scratch: "Place") -> None:
        """Put ``data`` here, whole or not at all. A local write goes through a file of a unique name in ``scratch``."""
        self.parent.make_folder()
        if self.remote is not None:
            with self.remote.open_output_stream(self.path) as file:
                file.write(data)
            return
        scratch.make_folder()
        temporary = os.path.join(scratch.path, uuid.uuid4().hex)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.path)

    def delete(self) -> None:
        """Remove this file; nothing happens where there is none, or a folder."""
        if self.remote is None:
            if os.path.lexists(self.path) and self.kind != "folder":
                os.remove(self.path)
        elif self.kind == "file":
            self.remote.delete_file(self.path)

    def delete_folder(self) -> None:
        """Remove this folder and what is in it; nothing happens where there is none."""
        if self.kind == "folder":
            (self.remote or fs.LocalFileSystem()).delete_dir(self.path)

    def names(self) -> list[str]:
        """The names directly in this folder, sorted; none where there is no folder."""
        if self.kind != "folder":
            return []
        if self.remote is None:
            return sorted(os.listdir(self.path))
        return sorted(info.base_name for info in self.remote.get_file_info(fs.FileSelector(self.path)))

    def walk(self) -> Iterator[tuple[str, Stamp | None]]:
        """Every file below, as (path relative to here, stamp). The stamp is None for what is no regular file: a device,
        a pipe, a link to a folder. Links to files count as files; one that leads nowhere has size 0."""
        if self.remote is None:
            yield from _walk_disk(self.path, "")
            return
        for info in self.remote.get_file_info(fs.FileSelector(self.path, recursive=True)):
            if info.type != fs.FileType.Directory:
                yield posixpath.relpath(info.path, self.path), (info.size or 0, info.mtime_ns or 0)


def resolve(uri: str | os.PathLike) -> Place:
    """The place a path or URI names. Raises OSError or ValueError where its file system is unknown or out of reach.

    >>> resolve("/data/images").path, resolve("file:///a%20b").path
    ('/data/images', '/a b')
    """
    uri = os.fspath(uri)
    if not _SCHEME.match(uri):
        return Place(os.path.abspath(uri))
    if uri.startswith("file://"):
        return Place(unquote(urlsplit(uri).path))
    try:
        remote, path = fs.FileSystem.from_uri(uri)
    except ArrowException:
        import fsspec

        backend, path = fsspec.core.url_to_fs(uri)
        remote = fs.PyFileSystem(fs.FSSpecHandler(backend))
    return Place(path, remote)


def redact(uri: str | os.PathLike) -> str:
    """The URI without the user, password and query it may carry.

    >>> redact("s3://key:secret@bucket/images?region=eu")
    's3://bucket/images'
    """
    uri = os.fspath(uri)
    return re.sub(r"//[^/@]*@", "//", uri.split("?")[0], count=1) if _SCHEME.match(uri) else uri


def overlapped(function: Callable[[Item], Result], items: Iterable[Item], place: Place) -> Iterator[Result]:
    """``function`` of each item, in order; as many at once as keep a store busy, where ``place`` is in one."""
    if place.remote is None:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        waiting: deque = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > _CONNECTIONS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def common_folder(places: list[Place]) -> Place:
    """The deepest folder that holds all ``places`` (folders)."""
    return replace(places[0], path=posixpath.commonpath([place.path for place in places]))


def within(inner: Place, outer: Place) -> bool:
    """Whether ``inner`` is ``outer`` or lies below it, links resolved.

    >>> within(Place("/a/b"), Place("/a")), within(Place("/ab"), Place("/a"))
    (True, False)
    """
    if (inner.remote is None) != (outer.remote is None):
        return False
    if inner.remote is None:
        paths = os.path.realpath(inner.path), os.path.realpath(outer.path)
    elif inner.remote != outer.remote:
        return False
    else:
        paths = inner.path.rstrip("/"), outer.path.rstrip("/")
    return posixpath.commonpath(paths) == paths[1]


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_size, status.st_mtime_ns


def _walk_disk(root: str, below: str) -> Iterator[tuple[str, Stamp | None]]:
    with os.scandir(os.path.join(root, below)) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            relative = posixpath.join(below, entry.name)
            if entry.is_dir(follow_symlinks=False):
                yield from _walk_disk(root, relative)
                continue
            try:
                stamp = _stamp(entry.stat()) if entry.is_file() else None
                if stamp is None and entry.is_symlink() and not os.path.exists(entry.path):
                    stamp = (0, 0)
            except OSError:  # a link to itself
                stamp = (0, 0)
            yield relative, stamp
