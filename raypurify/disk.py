"""The files of a local folder and all below it, with what tells one from another version of it."""

import os
from collections.abc import Iterator

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
