"""What a container is to the rest of the house: a few functions, and what they are given and give back."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

from raypurify.containers.ledger import commit, recorded_outputs, scratch
from raypurify.containers.look import Asked, Look
from raypurify.containers.rows import Row, Shard
from raypurify.errors import ImageError, SourceError
from raypurify.images import SUFFIX
from raypurify.storage import BadName, Place, Stamp


@dataclass(frozen=True)
class Listing:
    """The files of one container that were found in an input: their stamps by their path below ``root``, sorted by it.
    ``image_column`` is the column of a table in which the images stand, None where it has to be found; ``asked`` is
    what of each is asked for. With ``follow_links``, links may lead out of ``root``."""

    root: Place
    stamps: dict[str, Stamp]
    image_column: str | None = None
    asked: Asked = field(default_factory=Asked)
    follow_links: bool = False


class Portion(NamedTuple):
    """A shard that has no number yet: its name, the folder or file that holds it, its rows, and the container's cut."""

    name: str
    place: Place
    rows: int
    cut: Any


@dataclass(frozen=True)
class Plan:
    """What a container says of a listing after one look into each of its files.

    ``rows`` is the total, ``classes`` the names of the classes (None without labels), ``digest`` identifies names,
    sizes and what else is cheap to read. ``portions`` cuts the rows into shards of about so many, in their order, and
    opens nothing again. ``passed`` counts by its reason what inside of the files is no part of any row. Of
    tables, ``image_column`` is the one that holds the images, and ``ids`` says what rows are named by.

    Where files are looked into, ``parts`` has the digest of each by its path, of which ``digest`` is made together with
    ``mark``; ``refused`` are the files that do not go with the others, which are in nothing else of the plan. ``joins``
    is what the container has to know of files that it joins of several shards.
    """

    rows: int
    classes: tuple[str, ...] | None
    digest: str
    portions: Callable[[int], Iterable[Portion]]
    passed: dict[str, int] = field(default_factory=dict)
    image_column: str | None = None
    ids: str | None = None
    parts: dict[str, str] = field(default_factory=dict)
    mark: str = ""
    joins: Any = None
    refused: dict[str, SourceError] = field(default_factory=dict)


@dataclass(frozen=True)
class Sink:
    """An output that belongs to one job: the format and compression of its images, the names of its shards, and its
    rows in all.

    ``ignored`` counts by its reason what of the input was passed over. ``renamed`` holds the few names of outputs that
    the container's writer cannot tell from a shard alone. ``keep_failed`` says that what else a row holds is written
    where its image failed. ``damaged`` are the files of the input that cannot be used, and why: none of the ``rows`` is
    of them. ``join`` makes the files of the output of what shards left, where a shard is less than a file, once they
    are all committed; it may be killed anywhere and called again. Sinks travel to other processes.
    """

    place: Place
    format: str
    shards: tuple[str, ...]
    rows: int
    ignored: dict[str, int]
    renamed: dict[str, str]
    compression: str = "small"
    keep_failed: bool = False
    damaged: dict[str, str] = field(default_factory=dict)
    join: Callable[["Sink"], None] | None = None

    @property
    def suffix(self) -> str:
        """The suffix of image files of this format, with its dot."""
        return SUFFIX[self.format]

    def put(self, name: str, data: bytes) -> None:
        """Write one file of the output, whole or not at all; ``name`` is its path below the output.

        Raises ImageError ``bad-name`` where the output's file system cannot hold a file of this name.
        """
        with _naming():
            (self.place / name).write(data, scratch(self.place))

    @contextmanager
    def putting(self, name: str) -> Iterator[BinaryIO]:
        """A file of the output to write more to than memory should hold; for the rest as :meth:`put`."""
        with _naming(), (self.place / name).writing(scratch(self.place)) as file:
            yield file

    def commit(self, shard: str, provenance: list[dict], errors: list[dict]) -> None:
        """Record a shard whose output is in place, as :func:`~raypurify.containers.ledger.commit` does."""
        commit(self.place, shard, provenance, errors)

    def remove(self, name: str) -> None:
        """Remove one file of the output, if it is there."""
        with suppress(BadName):
            (self.place / name).delete()


@contextmanager
def _naming() -> Iterator[None]:
    try:
        yield
    except BadName as error:
        raise ImageError("bad-name", f"{error}; rename what it is made from, or write to another store") from error


# Each row of a shard in order, with its encoded image, or why there is none.
Images = Sequence[tuple[Row, bytes | ImageError]]
# The name of the output that holds a row, by its number, or why there can be none of that name.
Outputs = dict[int, str | ImageError]


def no_names(shards: Sequence[Shard], suffix: str) -> dict[str, str]:
    """``Container.renamed`` of a container that can name each output by its shard."""
    return {}


@dataclass(frozen=True)
class Container:
    """One way in which a set of images lies on disk. All that a container can do, and all that others know of it.

    * ``kind``: its name in ``job.json`` and in shards; ``noun``: one of its files, in messages; ``suffixes`` of its
      files, lower case; files and folders whose names begin with a character of ``hidden`` are passed over.
    * ``look(place, asked)`` says what one file holds; it may be called in another process. Raises SourceError where the
      file cannot be used. None where a container's files are not opened to plan.
    * ``plan(listing, looks)`` merges the looks into the files of the listing that can be used, by their path and in its
      order, and opens none; the name of a shard depends on all files of the listing. Raises SourceError naming what
      does not go together.
    * ``read(shard)`` yields its rows in order; one that cannot be read carries an ``error``. Raises SourceError where
      the file as a whole is gone, damaged or not the one that was planned. Who asks for the rows counts them.
    * ``pick(cut, rows)``: the cut of those rows, counted from 0 within the cut, ascending.
    * ``write(sink, shard, images)`` puts a shard into the output, rows with an error left out or, where
      ``sink.keep_failed``, without their image, and returns the name of the output by row number, or the error of a
      row whose output cannot have its name. The same images make the same bytes, whatever an earlier attempt left
      there.
    * ``renamed(shards, suffix)`` is what ``Sink.renamed`` holds.
    * ``written(out)``: the files below an output that a job over this container wrote, which overwriting removes.
    * ``outputs(shards, joins, suffix)``: the names of the files of the output that those shards write, of
      ``Plan.joins``.
    * ``joining(shards, joins)`` is what ``Sink.join`` does, of ``Plan.joins``; None of a container whose shards write
      the files themselves. Images that failed stand in files that are joined as they were.
    * ``has_columns``: its images stand in a column that can be named; ``has_members``: they are members of samples
      whose extensions can be; ``keeps_failed``: its ``write`` can keep what else a row holds whose image failed;
      ``grows(looks)``: whether what a plan says of these, the first of a listing, stays when others join them; None
      where it never does.
    """

    kind: str
    noun: str
    suffixes: frozenset[str]
    plan: Callable[[Listing, Mapping[str, Look]], Plan]
    read: Callable[[Shard], Iterator[Row]]
    pick: Callable[[Any, Sequence[int]], Any]
    write: Callable[[Sink, Shard, Images], Outputs]
    outputs: Callable[[Sequence[Shard], Any, str], Iterable[str]]
    renamed: Callable[[Sequence[Shard], str], dict[str, str]] = no_names
    written: Callable[[Place], Iterable[str]] = recorded_outputs
    joining: Callable[[Sequence[Shard], Any], Callable[[Sink], None]] | None = None
    look: Callable[[Place, Asked], Look] | None = None
    hidden: str = "."
    has_columns: bool = False
    has_members: bool = False
    keeps_failed: bool = False
    grows: Callable[[Mapping[str, Look]], bool] | None = None
