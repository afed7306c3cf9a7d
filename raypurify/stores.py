"""Stores behind URIs: how pyarrow is set for those of objects, how fsspec's are made whole, and how all are listed.

A store gives a thousand keys at a time, and takes some 50 ms for that, so folders of it are listed side by side where
they are large enough: each costs a request of its own.
"""

import errno
import os
import posixpath
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from functools import partial, wraps
from itertools import chain, islice
from typing import Any

from pyarrow import PythonFile, fs

from raypurify.disk import Stamp

# Stores of objects, where a folder is no more than what the names of some objects begin with. pyarrow waits minutes for
# one that is out of reach, in S3's case after it has taken three seconds of silence for the end of a request; and it
# asks S3 three times to store a small object, so that a missing bucket shows before the first byte.
STORES: dict[str, dict[str, Any]] = {
    "s3": {"connect_timeout": 4.0, "request_timeout": 20.0, "allow_delayed_open": True},
    "gcs": {"retry_time_limit": timedelta(seconds=10)},
}
CONNECTIONS = 8
# So many folders keep the connections busy, and a sample of them says whether they hold enough keys each: a page is
# _PAGE keys, so that folders of less than a CONNECTIONS-th of it are listed sooner one after the other.
_SPREAD, _SAMPLE, _PAGE = 64, 16, 1000


def tuned(remote: fs.FileSystem) -> fs.FileSystem:
    """A store as this package uses it. S3 also gets its usual retries, which pyarrow gives to every store but that of a
    URI, and loses ``tls_verify_certificates``, as any that travels to another process does."""
    if remote.type_name not in STORES:
        return remote
    build, (options,) = remote.__reduce__()
    # What a URI sets stays; an older pyarrow does not know every option.
    unset = {None, -1.0, False}
    wished = {name: value for name, value in STORES[remote.type_name].items() if options.get(name, value) in unset}
    return build(options | wished)


def store_of(remote: fs.FileSystem) -> object:
    """Equal for two ways to one store: they may differ in credentials, region or patience."""
    if remote.type_name not in STORES:
        return remote
    _, (options,) = remote.__reduce__()
    return remote.type_name, options["endpoint_override"]


def check_bucket(scheme: str, path: str) -> None:
    """Raises OSError where a path behind the ``scheme`` of a URI, as ``s3://``, begins with no bucket or host."""
    if not path.strip("/"):
        raise OSError(f"no bucket or host stands behind {scheme}, as where a variable is not set")


def of_fsspec(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of a URI that fsspec knows, and the path in it. Raises ValueError, ImportError or OSError."""
    import fsspec

    try:
        backend, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError):
        raise
    except Exception as error:
        raise _os_error(error) from error
    return fs.PyFileSystem(_Whole(backend)), path


def _os_error(error: Exception) -> OSError:
    return error if isinstance(error, OSError) else OSError(f"{type(error).__name__}: {error}")


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which raises OSError of whatever kind the errors of a file system are; of names that it cannot
    write UnicodeError, as the local disk does."""

    @wraps(function)
    def called(*args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except (OSError, UnicodeError):
            raise
        except Exception as error:
            raise _os_error(error) from error

    return called


class _File:
    """A file of fsspec whose errors are all OSError."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._file, name)
        return _plain(found) if callable(found) else found


def _all_plain(handler: type) -> type:
    for name in dir(handler):
        if not name.startswith("_") and callable(getattr(handler, name)):
            setattr(handler, name, _plain(getattr(handler, name)))
    return handler


@_all_plain
class _Whole(fs.FSSpecHandler):
    """A file system of fsspec whose listings are whole: its own walk passes over folders that cannot be listed. What is
    wrong is an OSError, and nobody who is out of reach is taken for one who has no such file."""

    def open_input_file(self, path: str) -> PythonFile:
        if self.fs.info(path)["type"] == "directory":
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return PythonFile(_File(self.fs.open(path, mode="rb")), mode="r")

    open_input_stream = open_input_file

    def open_output_stream(self, path: str, metadata: object) -> PythonFile:
        return PythonFile(_File(self.fs.open(path, mode="wb")), mode="w")

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        from fsspec import AbstractFileSystem
        from fsspec.asyn import AsyncFileSystem

        kind = type(self.fs)
        by_itself = kind.find is not AbstractFileSystem.find
        by_itself |= getattr(kind, "_find", AsyncFileSystem._find) is not AsyncFileSystem._find
        # A store that lists all keys at once says so where it cannot.
        if by_itself or not self.fs.isdir(selector.base_dir):
            return super().get_file_info_selector(selector)
        found, waiting = [], [selector.base_dir]
        while waiting:
            folder = waiting.pop()
            for info in self.fs.ls(folder, detail=True):
                if info["name"].strip("/") == folder.strip("/"):
                    continue
                found.append(self._create_file_info(info["name"], info))
                if selector.recursive and info["type"] == "directory":
                    waiting.append(info["name"])
        return found


def walk_store(remote: fs.FileSystem, root: str) -> Iterator[tuple[str, Stamp]]:
    """Every file below a folder of a store, as (path relative to it, stamp), in the order in which they are found.

    Raises OSError where the folder, or one of those in it, cannot be listed, or goes meanwhile.
    """
    begin = len(root.rstrip("/")) + 1
    for path, stamp in _side_by_side(remote, root) if remote.type_name in STORES else _files(remote, root):
        # Keys may hold what no path does.
        yield posixpath.relpath(path, root) if "//" in path or "/." in path else path[begin:], stamp


def _side_by_side(remote: fs.FileSystem, root: str) -> Iterator[tuple[str, Stamp]]:
    """Levels are listed until there are folders enough, and then each of these with all that is below it."""
    done: set[str] = set()
    folders, nameless = [root.rstrip("/")], False
    pool = ThreadPoolExecutor(CONNECTIONS)
    try:
        while folders and len(folders) < _SPREAD and not nameless:
            done.update(folders)
            levels = _in_order(pool, partial(_level, remote), folders)
            folders = []
            for files, below in levels:
                yield from files
                folders += below
            # The folder of a key with an empty part goes by the name of the one above, and cannot be asked for.
            nameless = not done.isdisjoint(folders)
        if not nameless:
            below_it = partial(_files, remote)
            sample = folders[:: -(-len(folders) // _SAMPLE) or 1]
            tried = dict(zip(sample, _in_order(pool, below_it, sample)))
            if CONNECTIONS * sum(map(len, tried.values())) >= _PAGE * len(sample):
                yield from chain.from_iterable(tried.values())
                others = (folder for folder in folders if folder not in tried)
                yield from chain.from_iterable(_in_order(pool, below_it, others))
                return
    finally:
        pool.shutdown(cancel_futures=True)
    for path, stamp in _files(remote, root):
        if path.rpartition("/")[0] not in done:
            yield path, stamp


def _level(remote: fs.FileSystem, folder: str) -> tuple[list[tuple[str, Stamp]], list[str]]:
    """The files and the folders that are directly in a folder."""
    files, folders = [], []
    for info in remote.get_file_info(fs.FileSelector(folder)):
        if info.type == fs.FileType.Directory:
            folders.append(info.path)
        else:
            files.append((info.path, (info.size or 0, info.mtime_ns or 0)))
    return files, folders


def _files(remote: fs.FileSystem, folder: str) -> list[tuple[str, Stamp]]:
    """All files below a folder."""
    found = remote.get_file_info(fs.FileSelector(folder, recursive=True))
    return [(one.path, (one.size or 0, one.mtime_ns or 0)) for one in found if one.type != fs.FileType.Directory]


def _in_order(pool: ThreadPoolExecutor, function: Callable[[str], Any], folders: Iterable[str]) -> Iterator[Any]:
    """The results in the order of the folders, few of which wait to be taken."""
    left = iter(folders)
    waiting: deque[Future] = deque(pool.submit(function, folder) for folder in islice(left, CONNECTIONS + 1))
    while waiting:
        yield waiting.popleft().result()
        waiting.extend(pool.submit(function, folder) for folder in islice(left, 1))
