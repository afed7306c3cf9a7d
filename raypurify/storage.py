"""Files and folders behind one small face: the local disk and every file system pyarrow or fsspec can reach by URI.

The local disk goes through ``os``, because pyarrow cannot name a file whose name is not UTF-8, and because a local
write is made durable and renamed into place, where an object store's put is atomic by itself.
"""

import errno
import os
import posixpath
import re
import shutil
import tempfile
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import BinaryIO, TypeVar
from urllib.parse import quote, unquote, urlsplit

from pyarrow import ArrowInvalid, ArrowNotImplementedError, fs

from raypurify.disk import Stamp, delete_tree, folder_without_links, stamp_of, walk_disk
from raypurify.stores import CONNECTIONS, STORES, check_bucket, of_fsspec, store_of, tuned, walk_store

Item = TypeVar("Item")
Result = TypeVar("Result")

_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")
# A key of S3 is often given as it is, with slashes; what stands before the @ of Azure may be a container.
_SECRET = re.compile(r"^(?!abfss?://[^/:]*@)(\w[\w+.-]*://)[^/?#]*@|^(s3://)[^/@:]*:[^@]*@")
# What a URI may say about a store and everybody may read.
_OPEN_OPTIONS = frozenset({"region", "scheme", "endpoint_override", "tls_ca_file_path", "retry_limit_seconds"})
# What may stand in a URI as it is.
_PLAIN = "%/:?@!$&'()*+,;="

# What a file system says of a name that it cannot hold: too long, of unknown characters, a folder's, or below a file.
_OF_NAMES = {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.EISDIR, errno.ENOTDIR, errno.EEXIST}
# Of S3 and GCS alike, in bytes.
_MAX_KEY = 1024
# Folders below which this process writes through no link.
_BOUNDS: list[str] = []


class BadName(OSError):
    """The file system cannot hold a file of this name, whatever is in it and however often it is tried."""


@dataclass(frozen=True)
class Place:
    """A file or folder: ``path`` on the file system ``remote``, or on the local disk where that is None.

    Below a local ``bound`` it is written and deleted through no link, whenever that came.
    """

    path: str
    remote: fs.FileSystem | None = field(default=None, hash=False)
    scheme: str = field(default="", compare=False)
    bound: str = field(default="", compare=False)

    def __str__(self) -> str:
        # A name that is not UTF-8 must not break the log line it appears in.
        return self.scheme + self.path.encode("utf-8", "backslashreplace").decode()

    def __fspath__(self) -> str:
        if self.remote is not None:
            raise TypeError(f"{self} is not on this machine: read it with open()")
        return self.path

    def __truediv__(self, relative: str) -> "Place":
        return replace(self, path=posixpath.join(self.path, relative))

    @property
    def name(self) -> str:
        """The last part of the path."""
        return posixpath.basename(self.path.rstrip("/"))

    @property
    def parent(self) -> "Place":
        """The folder that holds this place."""
        return replace(self, path=posixpath.dirname(self.path.rstrip("/")))

    @property
    def kind(self) -> str | None:
        """What is here: ``"file"``, ``"folder"``, or None where there is nothing."""
        if self.remote is None:
            return "folder" if os.path.isdir(self.path) else "file" if os.path.isfile(self.path) else None
        found = self.remote.get_file_info(self.path).type
        return {fs.FileType.Directory: "folder", fs.FileType.File: "file"}.get(found)

    @property
    def stamp(self) -> Stamp:
        """Size and time of the last change: they tell this file from another version of it, without reading it."""
        if self.remote is None:
            return stamp_of(os.stat(self.path))
        info = self.remote.get_file_info(self.path)
        return info.size or 0, info.mtime_ns or 0

    def open(self) -> BinaryIO:
        """Open this file to read and seek in. A store is asked at every read."""
        if self.remote is None:
            return open(self.path, "rb")
        return self.remote.open_input_file(self.path)

    def read(self, limit: int = -1) -> bytes:
        """The content of this file, of its first ``limit`` bytes where that is not negative. Raises OSError."""
        with self.open() as file:
            return file.read() if limit < 0 else file.read(limit)

    def make_folder(self) -> None:
        """Make this folder and those that hold it, where the file system has such."""
        if self.remote is None:
            os.makedirs(self.path, exist_ok=True)
        elif self.remote.type_name not in STORES:
            self.remote.create_dir(self.path, recursive=True)

    def files(self, suffix: str) -> list["Place"]:
        """The files directly in this folder whose names end in ``suffix``, by their names; none that is hidden."""
        return [self / name for name in self.names() if name.endswith(suffix) and not name.startswith(".")]

    def write(self, data: bytes, scratch: "Place | None" = None) -> None:
        """Put ``data`` here, whole or not at all. A local write goes through a file of a unique name in ``scratch``,
        or a hidden one beside this.

        Raises BadName where the file system cannot hold a file of this name, OSError where it cannot be written now.
        """
        if self.remote is None:
            with self.writing(scratch) as file:
                file.write(data)
            return
        with self._naming():
            self.parent.make_folder()
            stream = self.remote.open_output_stream(self.path)
        with stream:
            stream.write(data)

    @contextmanager
    def writing(self, scratch: "Place | None" = None) -> Iterator[BinaryIO]:
        """A file to write more to than memory should hold: it is here when the block ends, and not where that raises.
        For a store it is first a file of this machine. Raises as :meth:`write`."""
        if self.remote is not None:
            with tempfile.TemporaryFile() as held:
                yield held
                held.seek(0)
                with self._naming():
                    self.parent.make_folder()
                    stream = self.remote.open_output_stream(self.path)
                with stream:
                    shutil.copyfileobj(held, stream, 4 << 20)
            return
        # A name that no other process has: a killed writer's successor may run beside it for a while.
        with ((scratch or self.parent) / f".{uuid.uuid4().hex}")._reached(make=True) as (temporary, beside):
            try:
                with open(temporary, "wb", opener=partial(_opened_new, beside)) as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                with self._naming(), self._reached(make=True) as (name, folder):
                    os.replace(temporary, name, src_dir_fd=beside, dst_dir_fd=folder)
            except BaseException:
                # A full disk would keep the empty file for ever.
                with suppress(OSError):
                    os.remove(temporary, dir_fd=beside)
                raise

    def delete(self) -> None:
        """Remove this file; nothing happens where there is none, or a folder. Raises BadName as ``write`` does."""
        if self.remote is None:
            if os.path.lexists(self.path) and self.kind != "folder":
                with self._reached() as (name, folder):
                    os.remove(name, dir_fd=folder)
            return
        with self._naming():
            found = self.kind
        if found == "file":
            self.remote.delete_file(self.path)

    def delete_folder(self) -> None:
        """Remove this folder and what is in it; nothing happens where there is none."""
        if self.kind != "folder":
            return
        if not self.bound:
            return (self.remote or fs.LocalFileSystem()).delete_dir(self.path)
        with self._reached() as (name, folder):
            assert folder is not None
            delete_tree(name, folder)

    def names(self) -> list[str]:
        """The names directly in this folder, sorted; none where there is no folder."""
        if self.kind != "folder":
            return []
        if self.remote is None:
            return sorted(os.listdir(self.path))
        return sorted(info.base_name for info in self.remote.get_file_info(fs.FileSelector(self.path)))

    def entries(self) -> Iterator[tuple[str, Stamp | str | None]]:
        """What is directly in this folder, as (name, stamp), None in place of the stamp of a folder. Links are what
        they lead to; what is neither file nor folder is given as ``walk`` gives it. Raises OSError where there is no
        folder."""
        if self.remote is None:
            for name in sorted(os.listdir(self.path)):
                place = self / name
                kind = place.kind
                lost: Stamp | str = "devices and pipes" if os.path.exists(place.path) else (0, 0)
                yield name, None if kind == "folder" else place.stamp if kind else lost
            return
        for info in sorted(self.remote.get_file_info(fs.FileSelector(self.path)), key=lambda info: info.base_name):
            yield info.base_name, None if info.type == fs.FileType.Directory else (info.size or 0, info.mtime_ns or 0)

    def walk(self, followed: dict[str, str] | None = None) -> Iterator[tuple[str, Stamp | str]]:
        """Every file below, as (path relative to here, stamp).

        What is no regular file has in place of a stamp what it is: "devices and pipes" or "links to folders". Links to
        files count as files; one that leads nowhere has size 0. With ``followed``, links to folders are folders, unless
        they lead to one that holds them ("links in a loop"), and it takes up, by its folder, what is read elsewhere: a
        folder that a link leads to, or the first of its files that links lead to. Raises OSError where a folder cannot
        be listed.
        """
        if self.remote is None:
            yield from walk_disk(self.path, "", followed)
        else:
            yield from walk_store(self.remote, self.path)

    @contextmanager
    def _reached(self, make: bool = False) -> Iterator[tuple[str, int | None]]:
        """How ``os`` is told of this local place: its path, or its name and the descriptor of its folder where that is
        bound. ``make`` makes the folder where it is missing."""
        if not self.bound:
            if make:
                self.parent.make_folder()
            yield self.path, None
            return
        below = os.path.relpath(self.parent.path, self.bound)
        with folder_without_links(self.bound, "" if below == "." else below, make) as folder:
            yield self.name, folder

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """What is refused in this block for the name alone, whatever stands in the file, is a BadName."""
        try:
            store = self.remote is not None and self.remote.type_name in STORES
            if store and len(self.path.encode().partition(b"/")[2]) > _MAX_KEY:
                raise OSError(errno.ENAMETOOLONG, f"longer than {_MAX_KEY:,} bytes")
            yield
        except UnicodeEncodeError as error:
            raise BadName(f"{self}: no file can have this name here: not UTF-8") from error
        except (OSError, ArrowInvalid) as error:
            if isinstance(error, OSError) and error.errno not in _OF_NAMES:
                raise
            raise BadName(f"{self}: no file can have this name here: {getattr(error, 'strerror', error)}") from error


# A file or folder as callers may name it.
Where = str | os.PathLike | Place


def _opened_new(folder: int | None, name: str, flags: int) -> int:
    return os.open(name, flags | os.O_EXCL, 0o666, dir_fd=folder)


def resolve(uri: Where) -> Place:
    """The place a path or URI names. Raises OSError or ValueError where its file system is unknown or out of reach, and
    OSError where it is empty or names no bucket, as the value of a variable that is not set leaves it.

    >>> resolve("/data/images").path, resolve("file:///a%20b#c").path
    ('/data/images', '/a b#c')
    """
    if isinstance(uri, Place):
        return uri
    uri = os.fspath(uri)
    scheme = _SCHEME.match(uri)
    if not uri or uri == "file://":
        raise OSError("the path is empty, as where a variable is not set")
    if not scheme:
        path = os.path.abspath(uri)
        return bounded(Place(path), next((root for root in _BOUNDS if path.startswith(root + os.sep)), ""))
    if uri.startswith("file://"):
        return Place(unquote(urlsplit(uri, allow_fragments=False).path))
    check_bucket(scheme[0], uri[scheme.end() :].partition("?")[0])
    remote, path = _of_pyarrow(uri) or of_fsspec(uri)
    if remote.type_name in STORES:
        # It may have been a key alone.
        check_bucket(scheme[0], path)
    # A path of HTTP is the whole URI.
    return Place(path, tuned(remote), "" if path.startswith(scheme[0]) else scheme[0])


def bounded(place: Place, root: str) -> Place:
    """The place, below whose ``root`` on this disk nothing is written or deleted through a link; a store has none."""
    return replace(place, bound=root) if place.remote is None else place


def write_through_no_link(root: str) -> None:
    """From now on, bound all that :func:`resolve` finds below a local ``root``, also where it is sent to others."""
    _BOUNDS.append(os.path.abspath(root))


def redact(uri: str | os.PathLike) -> str:
    """The URI without the user and password it may carry, and without those of its options that may be secret; of an
    empty one, quotes.

    >>> redact("s3://key:secret@bucket/images?region=eu&token=secret")
    's3://bucket/images?region=eu'
    >>> redact("abfs://container@account.dfs.core.windows.net/images")
    'abfs://container@account.dfs.core.windows.net/images'
    """
    uri = os.fspath(uri)
    if not _SCHEME.match(uri):
        return uri or "''"
    shown, _, query = _SECRET.sub(r"\1\2", uri).partition("?")
    options = [option for option in query.split("&") if option.partition("=")[0] in _OPEN_OPTIONS and "@" not in option]
    return "?".join(filter(None, (shown, "&".join(options))))


def overlapped(
    function: Callable[[Item], Result], items: Iterable[Item], at_once: int = CONNECTIONS
) -> Iterator[Result]:
    """The results of ``function`` for each item, in order, for reads and writes of many files.

    As many are done at once as keep a store busy, or let a disk make several writes durable in one go.

    >>> [*overlapped(len, ["a", "bb", ""])]
    [1, 2, 0]
    """
    with ThreadPoolExecutor(at_once) as pool:
        waiting: deque = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > at_once:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def common_folder(places: list[Place]) -> Place:
    """The deepest folder that holds all ``places`` (folders)."""
    return replace(places[0], path=posixpath.commonpath([place.path for place in places]))


def same_store(one: Place, other: Place) -> bool:
    """Whether two places are both on the local disk, or on one remote store."""
    if one.remote is None or other.remote is None:
        return one.remote is other.remote
    return store_of(one.remote) == store_of(other.remote)


def overlapping(out: Place, places: Iterable[Place]) -> Place | None:
    """The first of the ``places`` that is ``out``, holds it or lies in it."""
    return next((place for place in places if within(out, place) or within(place, out)), None)


def within(inner: Place, outer: Place) -> bool:
    """Whether ``inner`` is ``outer`` or lies below it, links resolved.

    >>> within(Place("/a/b"), Place("/a")), within(Place("/ab"), Place("/a"))
    (True, False)
    """
    if not same_store(inner, outer):
        return False
    if inner.remote is None:
        paths = os.path.realpath(inner.path), os.path.realpath(outer.path)
    else:
        paths = inner.path.rstrip("/"), outer.path.rstrip("/")
    return posixpath.commonpath(paths) == paths[1]


def _of_pyarrow(uri: str) -> tuple[fs.FileSystem, str] | None:
    """The file system of a URI and the path in it; None where pyarrow does not know such."""
    escaped = _escaped(uri)
    try:
        remote, path = fs.FileSystem.from_uri(escaped)
        # Some it asks fsspec for by itself.
        return None if isinstance(remote, fs.PyFileSystem) else (remote, path)
    except ArrowNotImplementedError:
        return None
    except ArrowInvalid as error:
        if "Unrecognized filesystem" in str(error):
            return None
        # It repeats the URI with the password that may be in it.
        raise ValueError(str(error).replace(escaped, redact(uri))) from None


def _escaped(uri: str) -> str:
    """A URI as the standard wants it, of one as people write it.

    >>> _escaped("s3://key:se/cret@bucket/my images/50%/a%20b?region=eu")
    's3://key:se%2Fcret@bucket/my%20images/50%25/a%20b?region=eu'
    """
    scheme, _, rest = uri.partition("://")
    secret = _SECRET.match(uri)
    user = secret[0].partition("://")[2] if secret else ""
    host = re.split("[/?#]", rest[len(user) :], maxsplit=1)[0]
    path = rest[len(user) + len(host) :]
    path = quote(re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", path), safe=_PLAIN)
    return f"{scheme}://{user.replace('/', '%2F')}{host}{path}"
