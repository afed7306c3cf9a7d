"""What containers share that hold many images in one file: how files are named, and that none has changed."""

import hashlib
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, TypeVar

from raypurify.containers.contract import Listing, Outputs, Sink
from raypurify.containers.ledger import STATE, recorded_outputs
from raypurify.containers.look import Look
from raypurify.containers.rows import Shard, file_id
from raypurify.errors import ImageError, SourceError
from raypurify.storage import Place, Stamp

# 255 without the number of a shard and the longest suffix.
_MAX_KEY = 255 - len("-00000.parquet")
# Stands in no key.
_WITHIN = "~"


@dataclass(frozen=True, kw_only=True)
class FileCut:
    """Rows of one file: the ``span`` rows from where the container's own fields say, or of these only the ``picked``,
    counted from there and ascending.

    ``stamp`` is that of the file when the job was planned. ``folder`` is where the file lies below the input, and its
    outputs below the output.
    """

    stamp: Stamp
    folder: str
    span: int
    picked: tuple[int, ...] | None = None

    @property
    def numbers(self) -> Sequence[int]:
        """The rows of this cut, counted from its first."""
        return range(self.span) if self.picked is None else self.picked


Cut = TypeVar("Cut", bound=FileCut)
Known = TypeVar("Known")


def pick_rows(cut: Cut, rows: Sequence[int]) -> Cut:
    """The cut of those of its rows that are named by their position, ascending (``Container.pick``)."""
    picked = tuple(cut.numbers[row] for row in rows)
    return replace(cut, picked=picked, span=picked[-1] + 1)


def unique_keys(paths: Sequence[str], most: int = _MAX_KEY, numbers: Sequence[str] = ()) -> list[str]:
    """A short name for each file, for its shards: its stem, with its number in front where stems repeat (of
    ``numbers``, or as they come), and cut at ``most`` bytes, so that no file of its shards has a name of more than 255.

    >>> unique_keys(["a/x 1.tar", "y.tar"]), unique_keys(["a/x.tar", "b/x.tar"])
    (['x_1', 'y'], ['00000-x', '00001-x'])
    """
    stems = [re.sub(r"[^A-Za-z0-9._-]", "_", path.rpartition("/")[2].rsplit(".", 1)[0]) for path in paths]
    keys = [stem[:most] for stem in stems]
    if len(set(keys)) == len(keys):
        return keys
    numbers = numbers or [f"{number:05d}" for number in range(len(stems))]
    return [f"{number}-{stem}"[:most] for number, stem in zip(numbers, stems)]


def digest_of(parts: Mapping[str, str], mark: str = "") -> str:
    """What identifies an input of many files: their paths, and the digest of each; ``mark`` where that is not all."""
    digest = hashlib.sha256()
    for path, part in parts.items():
        digest.update(f"{path}\0{part}\n".encode("utf-8", "surrogateescape"))
    digest.update(mark.encode())
    return digest.hexdigest()


def keyed(listing: Listing, known: Mapping[str, Known], most: int = _MAX_KEY) -> Iterator[tuple[str, str, Known]]:
    """Each file of a listing that can be used, as (short name, path, what is known of it); others keep their names."""
    for key, path in zip(unique_keys(list(listing.stamps), most), listing.stamps):
        if path in known:
            yield key, path, known[path]


def keyed_within(listing: Listing, held: Mapping[str, Mapping[str, Known]]) -> Iterator[tuple[str, str, Known]]:
    """What each file of a listing holds, by its name in the file ("" where that is all of it), as (short name, path,
    what is known of it). None is named otherwise because of what stands in other files, or because one cannot be used.
    """
    half = (_MAX_KEY - len(_WITHIN)) // 2
    for (key, path, inner), (short, *_) in zip(keyed(listing, held), keyed(listing, held, half)):
        for name, (within, one) in zip(unique_keys([*inner], half), inner.items()):
            yield f"{short}{_WITHIN}{name}" if within else key, path, one


def passed_in(looks: Mapping[str, Look]) -> dict[str, int]:
    """What was passed over in all files, by its reason."""
    return dict(sum((Counter(look.passed) for look in looks.values()), Counter()))


def check_stamp(shard: Shard) -> None:
    """Raises SourceError where the file of a shard is not the one that the job was planned with."""
    try:
        found = shard.place.stamp
    except OSError as error:
        raise SourceError(
            f"{shard.place}: cannot be opened: {error.strerror or error}; run again when it is mended"
        ) from error
    if found != shard.cut.stamp:
        raise SourceError(f"{shard.place}: changed since the job was planned; run again when it is whole")


def put_file(sink: Sink, shard: Shard, suffix: str, write: Callable[[BinaryIO], None]) -> Outputs:
    """Let ``write`` fill the one file of a shard, named after it, and return its name for every row (as
    ``Container.write``)."""
    name = _file_of(shard, suffix)
    written: str | ImageError = file_id(name)
    try:
        with sink.putting(name) as file:
            write(file)
    except ImageError as error:
        written = error
    return dict.fromkeys(range(shard.first_row, shard.first_row + shard.rows), written)


def shard_files(shards: Sequence[Shard], joins: None, suffix: str, own: str) -> list[str]:
    """The files that :func:`put_file` writes, with the container's ``own`` suffix (``Container.outputs``)."""
    return [_file_of(shard, own) for shard in shards]


def numbered_files(out: Place, suffix: str) -> list[str]:
    """The files below an output that :func:`put_file` has written, those of uncommitted shards too: they are named
    like shards, and not older than the job."""
    begun = (out / STATE / "job.json").stamp[1]
    since = (path for path, stamp in out.walk() if not isinstance(stamp, str) and stamp[1] >= begun)
    named = filter(re.compile(rf"(?!{STATE}/).*-\d{{5,}}{re.escape(suffix)}", re.DOTALL).fullmatch, since)
    return [*dict.fromkeys((*recorded_outputs(out), *named))]


def _file_of(shard: Shard, suffix: str) -> str:
    return posixpath.join(shard.cut.folder, f"{shard.name}{suffix}")
