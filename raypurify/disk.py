"""Local folders: the files below one, with what tells a file from another version of it; and what no link leads to."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# Size in bytes and time of the last change in nanoseconds.
Stamp = tuple[int, int]


def stamp_of(status: os.stat_result) -> Stamp:
    """The stamp of a file that was asked for its status."""
    return status.st_size, status.st_mtime_ns


def walk_disk(
    root: str, below: str, followed: dict[str, str] | None, above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[tuple[str, Stamp | str]]:
    """Every file below ``root``/``below`` by its path below ``root``, sorted, with its stamp, or with a reason where it
    is none to read: links to folders, links in a loop, devices and pipes.

    Links to folders are followed where ``followed`` is a dict, which then holds what they and links to files lead to by
    itself and by its folder. ``above`` identifies the folders on the way.
    """
    if followed is not None:
        above |= {_identity(os.stat(os.path.join(root, below)))}
    with os.scandir(os.path.join(root, below)) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            relative = f"{below}/{entry.name}" if below else entry.name
            if entry.is_file(follow_symlinks=False):
                yield relative, _stamp_of_entry(entry)
                continue
            if entry.is_dir(follow_symlinks=False) or _leads_on(entry, followed, above):
                yield from walk_disk(root, relative, followed, above)
                continue
            try:
                stamp: Stamp | str = _stamp_of_entry(entry) if entry.is_file() else "devices and pipes"
                if entry.is_symlink() and entry.is_dir():
                    stamp = "links to folders" if followed is None else "links in a loop"
                elif isinstance(stamp, str) and not os.path.exists(entry.path):
                    stamp = (0, 0)
            except OSError:  # a link to itself
                stamp = (0, 0)
            yield relative, stamp


def _stamp_of_entry(entry: os.DirEntry) -> Stamp:
    try:
        return stamp_of(entry.stat())
    except OSError:  # it has gone by now
        return 0, 0


def _leads_on(entry: os.DirEntry, followed: dict[str, str] | None, above: frozenset[tuple[int, int]]) -> bool:
    """Whether an entry is a link to a folder that is to be followed; enters what a link leads to in ``followed``."""
    if followed is None or not entry.is_symlink():
        return False
    try:
        target = os.path.join(os.path.dirname(entry.path), os.readlink(entry.path))
        if not entry.is_dir():
            followed.setdefault(os.path.dirname(target), target)
        elif _identity(entry.stat()) not in above:
            followed[target] = target
            return True
    except OSError:  # a link to itself
        pass
    return False


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


@contextmanager
def folder_without_links(root: str, below: str, make: bool) -> Iterator[int]:
    """A descriptor of the folder ``below`` ``root``, which no link leads to below that, made where it is missing if
    ``make`` says so. Whatever comes into the path in the block, names in the descriptor are names in that folder.

    Raises OSError, ELOOP where there is a link.
    """
    here = os.open(root, _FOLDER)
    try:
        for part in filter(None, below.split("/")):
            inner = _inner(here, part, make, f"{root}/{below}")
            os.close(here)
            here = inner
        yield here
    finally:
        os.close(here)


def delete_tree(name: str, folder: int) -> None:
    """Remove the folder ``name`` in that of a descriptor, and what is in it; links are removed, not followed. Raises
    OSError."""
    inner = _inner(folder, name, False, name)
    try:
        with os.scandir(inner) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for below, is_folder in found:
            if is_folder:
                delete_tree(below, inner)
            else:
                os.remove(below, dir_fd=inner)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=folder)


_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)


def _inner(folder: int, part: str, make: bool, path: str) -> int:
    if part == "..":
        raise OSError(errno.EINVAL, "leads out of its folder; name a place below it", path)
    flags = _FOLDER | getattr(os, "O_NOFOLLOW", 0)
    try:
        try:
            return os.open(part, flags, dir_fd=folder)
        except FileNotFoundError:
            if not make:
                raise
            with suppress(FileExistsError):
                os.mkdir(part, dir_fd=folder)
            return os.open(part, flags, dir_fd=folder)
    except NotADirectoryError:
        # So it is for a link too.
        if stat.S_ISLNK(os.stat(part, dir_fd=folder, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, f"a link has come into its path, {part!r}; remove it", path) from None
        raise
