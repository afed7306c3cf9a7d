"""Looking into every file of an input: several at once, none twice, and a damaged one costs itself alone.

What was found is kept beside the output, ``KEPT`` files of the input in each file there, by the path and the stamp that
a file was listed with. A kept look is used only by the version that made it, and one that is damaged is made anew.
"""

import hashlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import astuple, dataclass
from functools import partial
from itertools import islice
from typing import NamedTuple, Protocol

import pyarrow as pa

from raypurify.containers.contract import Container, Listing
from raypurify.containers.ledger import PLAN, STATE, scratch
from raypurify.containers.look import Asked, Look, Looks, looks_from_bytes, looks_to_bytes
from raypurify.containers.registry import CONTAINERS
from raypurify.containers.rows import IMAGE_SUFFIXES
from raypurify.errors import SourceError
from raypurify.storage import Place, overlapped
from raypurify.version import __version__

KEPT = 16


class Unseen(NamedTuple):
    """A file to look into, and its size."""

    path: str
    size: int


class Each(Protocol):
    """A way to call a function for each of many files: its results in their order. Whoever calls it in other processes
    may send it."""

    def __call__(
        self, function: Callable[[Unseen], Look | SourceError], items: Sequence[Unseen]
    ) -> Generator[Look | SourceError, None, None]: ...


def in_threads(
    function: Callable[[Unseen], Look | SourceError], items: Sequence[Unseen]
) -> Generator[Look | SourceError, None, None]:
    """Each file looked into by a thread of this process, several at once; one alone here and now."""
    yield from overlapped(function, items) if len(items) > 1 else map(function, items)


@dataclass(frozen=True)
class Looking:
    """How to look into the files of an input: ``each`` does it for many, ``out`` is the output beside which looks are
    kept, to which nothing is written where only ``reading``, and ``damaged`` is told of every file that cannot be used.
    Without it the first of them ends the look."""

    each: Each = in_threads
    out: Place | None = None
    reading: bool = False
    damaged: Callable[[SourceError], None] | None = None

    def refuse(self, error: SourceError) -> None:
        """Tell of a file that cannot be used. Raises the error where no one is to be told."""
        if self.damaged is None:
            raise error
        self.damaged(error)


class Seen(NamedTuple):
    """What is known of the first files of a listing, by path in order: the looks into them, and the errors of those
    that cannot be used. ``to`` is the last of them, None where these are all."""

    looks: dict[str, Look]
    refused: dict[str, SourceError]
    to: str | None = None


def look_into(container: Container, listing: Listing, how: Looking) -> Iterator[Seen]:
    """What is known of the files of a listing, again whenever it is about some more of them, and of all in the end."""
    looks: dict[str, Look] = {}
    refused: dict[str, SourceError] = {}
    if container.look is None:
        yield Seen(looks, refused)
        return
    mark = _mark(container, listing)
    kept = _kept(how.out / STATE / PLAN, mark) if how.out else {}
    # Without its time a file cannot be told from another of its size.
    timed = {path: stamp for path, stamp in listing.stamps.items() if stamp[1]}
    known = {path: kept[path][1] for path, stamp in timed.items() if path in kept and kept[path][0] == stamp}
    unseen = [Unseen(path, stamp[0]) for path, stamp in listing.stamps.items() if path not in known]
    paths = iter(listing.stamps)
    number, changed = 0, False
    look_at = partial(_look, container.kind, listing.root, listing.asked)
    # Threads that still look are waited for here, whatever ends it.
    with closing(how.each(look_at, unseen)) as found:
        while group := list(islice(paths, KEPT)):
            for path in group:
                look = known[path] if path in known else next(found)
                if isinstance(look, SourceError):
                    how.refuse(look)
                    refused[path] = look
                else:
                    looks[path] = look
            # A file that is new moves those behind it to other groups.
            changed |= any(path in looks and path not in known for path in group)
            if how.out and not how.reading and changed:
                found_here = {path: (listing.stamps[path], looks[path]) for path in group if path in looks}
                _keep(how.out, number, found_here, mark)
            number += 1
            if len(looks) + len(refused) < len(listing.stamps):
                yield Seen(looks, refused, group[-1])
    if how.out and not how.reading:
        _drop(how.out, number)
    yield Seen(looks, refused)


def _look(kind: str, root: Place, asked: Asked, file: Unseen) -> Look | SourceError:
    """What one file holds, or why it cannot be used. Raises SourceError where its store does not answer: that says
    nothing of the file."""
    look, place = CONTAINERS[kind].look, root / file.path
    assert look is not None  # who asks has asked that
    try:
        return look(place, asked)
    except SourceError as error:
        if isinstance(error.__cause__, OSError):
            _check_answers(place)
        return error
    except (OSError, pa.ArrowException) as error:
        _check_answers(place)
        return SourceError(f"{place}: cannot be looked into: {error}; get or write it again")
    except Exception as error:
        return SourceError(f"{place}: cannot be looked into ({type(error).__name__}: {error}); leave it out")


def _check_answers(place: Place) -> None:
    """Raises SourceError where a store does not let a file of its be read that may be there."""
    if place.remote is None:
        return
    try:
        place.read(1)
    except (FileNotFoundError, PermissionError):
        return
    except OSError as error:
        raise SourceError(f"{place}: cannot be reached: {error}; run again when the store answers") from error


def _mark(container: Container, listing: Listing) -> str:
    """What a look depends on beside the file."""
    asked = (str(listing.root), container.kind, *astuple(listing.asked))
    return hashlib.sha256(repr((*asked, *sorted(IMAGE_SUFFIXES), __version__)).encode()).hexdigest()


def _kept(folder: Place, mark: str) -> Looks:
    def read(name: str) -> Looks:
        with suppress(SourceError, OSError):
            return looks_from_bytes((folder / name).read(), mark)
        return {}

    kept: Looks = {}
    for looks in overlapped(read, (name for name in folder.names() if name.endswith(".arrow"))):
        kept |= looks
    return kept


def _drop(out: Place, number: int) -> None:
    """Remove what was kept of an input that had more files."""
    with suppress(OSError):
        for name in (out / STATE / PLAN).names():
            if name.removesuffix(".arrow").isdigit() and int(name.removesuffix(".arrow")) >= number:
                (out / STATE / PLAN / name).delete()


def _keep(out: Place, number: int, looks: Looks, mark: str) -> None:
    # A disk that is full, or an output that may not be written: claiming it will say so.
    with suppress(OSError):
        (out / STATE / PLAN / f"{number:06d}.arrow").write(looks_to_bytes(looks, mark), scratch(out))
