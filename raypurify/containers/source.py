"""An input, in whatever container → shards of rows, for ``fit`` and ``purify`` alike.

A shard is the unit of work and of commit: about ``shard_rows`` rows that one task reads, purifies and writes. The
order of shards and rows depends on names alone, so a rerun cuts the same shards.
"""

import os
import posixpath
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from raypurify.containers.contract import Container, Listing, Plan
from raypurify.containers.ledger import STATE
from raypurify.containers.registry import CONTAINERS, container_of
from raypurify.containers.rows import Row, Shard
from raypurify.errors import SourceError
from raypurify.storage import Place, Stamp, common_folder, redact, resolve, same_store


@dataclass(frozen=True)
class Source:
    """An input: its shards, the total of rows, the class names (None without labels), the number of files that were
    passed over because they are no images, and a ``digest`` of names, sizes and Parquet footers (not of contents)."""

    kind: str
    uris: tuple[str, ...]
    places: tuple[Place, ...]
    shards: tuple[Shard, ...]
    rows: int
    classes: tuple[str, ...] | None
    digest: str
    ignored: int = 0


def open_source(
    uris: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    shard_rows: int | Callable[[int], int] = 256,
    image_column: str = "image",
) -> Source:
    """Look at a folder of images, at Parquet files or tars or a folder of them, or at a list of such.

    Paths may be local, ``file://`` or any URI that pyarrow or fsspec knows. Every file is looked at once.
    ``shard_rows`` is about how many rows a shard gets, or a function that tells it by the number of all rows.
    **Folder:** every regular file below with an image suffix is a row; its id is the path relative to the folder (for a
    list: to the deepest folder that holds all of it), a name that is not UTF-8 is percent-encoded; if every image lies
    in a subfolder, the first level of subfolders are the classes, sorted. Names starting with a dot and links to
    folders are passed over. **Parquet:** ``image_column`` is binary or a struct with a field ``bytes``; ``id``,
    ``label``, ``label_name`` are optional; files and folders whose name starts with ``_`` or a dot are passed over.
    **WebDataset:** tars, as :mod:`raypurify.containers.webdataset` reads them; the id is the tar's path and the
    sample's key, ``.cls`` its label.

    Raises :class:`SourceError` naming what is missing, empty, mixed, not readable or not unique.

    >>> open_source("/no/such/folder")
    Traceback (most recent call last):
    ...
    raypurify.errors.SourceError: /no/such/folder: no such file or folder; check the path
    """
    if not callable(shard_rows) and shard_rows < 1:
        raise SourceError(f"shard_rows is {shard_rows}; it must be 1 or more")
    given = [uris] if isinstance(uris, str | os.PathLike) else list(uris)
    if not given:
        raise SourceError("no input given; name a folder of images or Parquet files")
    shown = tuple(redact(uri) for uri in given)
    places = tuple(dict.fromkeys(_find(uri) for uri in given))
    if not all(same_store(places[0], place) for place in places):
        raise SourceError(f"{', '.join(shown)}: inputs of two stores cannot be mixed; run one job for each")
    kinds = [place.kind for place in places]
    root = common_folder([place if kind == "folder" else place.parent for place, kind in zip(places, kinds)])
    files, hidden = _list_files(places, kinds, root)
    where = ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")
    container, paths = _choose(files, hidden, where)
    plan = container.plan(Listing(root, {path: files[path] for path in paths}, image_column))
    shards = _number(container.kind, plan, shard_rows(plan.rows) if callable(shard_rows) else shard_rows)
    ignored = hidden + len(files) - len(paths)
    return Source(container.kind, shown, places, shards, plan.rows, plan.classes, plan.digest, ignored)


def read_shard(shard: Shard) -> Iterator[Row]:
    """The rows of one shard, in order, read as they are asked for. A row that cannot be read carries an ``error``.

    Raises :class:`SourceError` where the whole file is gone or damaged since ``open_source``.
    """
    return CONTAINERS[shard.kind].read(shard)


def _number(kind: str, plan: Plan, shard_rows: int) -> tuple[Shard, ...]:
    shards: list[Shard] = []
    first = 0
    for index, (name, place, rows, cut) in enumerate(plan.portions(shard_rows)):
        shards.append(Shard(index, name, kind, place, first, rows, cut, plan.classes))
        first += rows
    return tuple(shards)


def _choose(files: dict[str, Stamp], hidden: int, where: str) -> tuple[Container, list[str]]:
    """The one container of which there are files, and these in order."""
    found: dict[str, list[str]] = {kind: [] for kind in CONTAINERS}
    for path in sorted(files):
        if container := container_of(path):
            found[container.kind].append(path)
    held = [(CONTAINERS[kind], paths) for kind, paths in found.items() if paths]
    if len(held) > 1:
        (one, first), (other, second) = held[:2]
        raise SourceError(
            f"{where}: holds both {one.noun}s ({first[0]}) and {other.noun}s ({second[0]}); name files of one kind"
        )
    if not held:
        *nouns, last = (container.noun for container in CONTAINERS.values())
        known = " ".join(suffix for container in CONTAINERS.values() for suffix in sorted(container.suffixes))
        raise SourceError(
            f"{where}: holds no {', '.join(nouns)} or {last} ({hidden + len(files)} others); known: {known}"
        )
    return held[0]


def _find(uri: str | os.PathLike) -> Place:
    try:
        place = resolve(uri)
        if place.kind is not None:
            return place
    except (OSError, ValueError, ImportError) as error:
        raise SourceError(f"{redact(uri)}: cannot be reached: {error}") from error
    raise SourceError(f"{redact(uri)}: no such file or folder; check the path")


def _list_files(places: Sequence[Place], kinds: Sequence[str | None], root: Place) -> tuple[dict[str, Stamp], int]:
    """The files by their path below ``root``, and how many are hidden or no regular files."""
    files: dict[str, Stamp] = {}
    ignored = 0
    for place, kind in zip(places, kinds):
        below = posixpath.relpath(place.path, root.path)
        try:
            if kind == "file":
                files[below] = place.stamp
                continue
            for path, stamp in place.walk():
                if stamp is None or _hidden(path):
                    ignored += 1
                else:
                    files[posixpath.normpath(posixpath.join(below, path))] = stamp
        except OSError as error:
            raise SourceError(f"{place}: cannot be listed: {error}") from error
    return files, ignored


def _hidden(path: str) -> bool:
    container = container_of(path)
    marks = container.hidden if container else "."
    return any(part[0] in marks or part == STATE for part in path.split("/"))
