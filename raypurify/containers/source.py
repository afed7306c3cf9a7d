"""An input, in whatever container → shards of rows, for ``fit`` and ``purify`` alike.

A shard is the unit of work and of commit: about ``shard_rows`` rows that one task reads, purifies and writes. The
order of shards and rows depends on names alone, so a rerun cuts the same shards.
"""

import os
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from raypurify.containers.contract import Container, Listing, Plan
from raypurify.containers.ledger import STATE
from raypurify.containers.registry import CONTAINERS, container_of
from raypurify.containers.rows import Row, Shard, counted
from raypurify.errors import SourceError
from raypurify.storage import Place, Stamp, common_folder, redact, resolve, same_store

_SHOWN_REASONS = 8
_REMEDIES = {
    "links to folders": " (`cp -rL` makes folders of them)",
    "links in tars": " (`tar --dereference` packs what they lead to)",
}


@dataclass(frozen=True)
class Source:
    """An input: its shards, the total of rows, the class names (None without labels), a ``digest`` of names, sizes and
    Parquet footers (not of contents), and what was passed over: ``ignored`` counts it by its reason. Of tables,
    ``image_column`` holds the images, and ``ids`` says what names the rows: "column id", or "file and row"."""

    kind: str
    uris: tuple[str, ...]
    places: tuple[Place, ...]
    shards: tuple[Shard, ...]
    rows: int
    classes: tuple[str, ...] | None
    digest: str
    ignored: dict[str, int] = field(default_factory=dict)
    image_column: str | None = None
    ids: str | None = None


def open_source(
    uris: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    shard_rows: int | Callable[[int], int] = 256,
    image_column: str | None = None,
    labels: bool = True,
) -> Source:
    """Look at a folder of images, at Parquet files or tars or a folder of them, or at a list of such.

    Paths may be local, ``file://`` or any URI that pyarrow or fsspec knows. Every file is looked at once.
    ``shard_rows`` is about how many rows a shard gets, or a function that tells it by the number of all rows.
    **Folder:** every regular file below with an image suffix is a row; its id is the path relative to the folder (for a
    list: to the deepest folder that holds all of it), a name that is not UTF-8 is percent-encoded; if every image lies
    in a subfolder, the first level of subfolders are the classes, sorted. Names starting with a dot and links to
    folders are passed over. **Parquet:** ``image_column`` is binary or a struct with a field ``bytes``; where none is
    named, it is ``image``, or the only image column of a name such as ``img`` or ``jpg``, or the only image column.
    ``id``, ``label``, ``label_name`` are optional; files and folders whose name starts with ``_`` or a dot are passed
    over. **WebDataset:** tars, as :mod:`raypurify.containers.webdataset` reads them; the id is the tar's path and the
    sample's key, ``.cls`` its label.

    Without ``labels`` the source has no classes, and the columns ``id``, ``label`` and ``label_name`` may hold
    anything: where ids are not there, not text or integers, or not unique, rows are named by file and row.

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
    files, ignored = _list_files(places, kinds, root)
    where = ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")
    container, paths = _choose(files, ignored, where)
    if image_column is not None and not container.has_columns:
        raise SourceError(
            f"{where}: --image-column {image_column} is for Parquet files, the input holds {container.noun}s; "
            "leave it out"
        )
    plan = container.plan(Listing(root, {path: files[path] for path in paths}, image_column, labels))
    if not labels:
        plan = replace(plan, classes=None)
    shards = _number(container.kind, plan, shard_rows(plan.rows) if callable(shard_rows) else shard_rows)
    passed_over = dict(sorted((ignored + Counter(plan.passed)).items()))
    return Source(
        kind=container.kind,
        uris=shown,
        places=places,
        shards=shards,
        rows=plan.rows,
        classes=plan.classes,
        digest=plan.digest,
        ignored=passed_over,
        image_column=plan.image_column,
        ids=plan.ids,
    )


def read_shard(shard: Shard) -> Iterator[Row]:
    """The rows of one shard, in order, read as they are asked for. A row that cannot be read carries an ``error``.

    Raises :class:`SourceError` where the whole file is gone or damaged since ``open_source``, or does not hold exactly
    the rows that were planned.
    """
    return counted(shard, CONTAINERS[shard.kind].read(shard))


def passed_over_text(ignored: dict[str, int]) -> str:
    """What was passed over of an input, for people: the most frequent reasons, and what to do where there is something.

    >>> passed_over_text({".txt files": 2, "links to folders": 1})
    '2 .txt files, 1 links to folders (`cp -rL` makes folders of them)'
    """
    # Links may be whole classes, however few they are.
    most = sorted(ignored, key=lambda reason: (not reason.startswith("links"), -ignored[reason]))
    shown = [f"{ignored[reason]:,} {reason}{_REMEDIES.get(reason, '')}" for reason in sorted(most[:_SHOWN_REASONS])]
    rest = sum(ignored[reason] for reason in most[_SHOWN_REASONS:])
    return ", ".join(shown + [f"{rest:,} others"] * bool(rest))


def _number(kind: str, plan: Plan, shard_rows: int) -> tuple[Shard, ...]:
    shards: list[Shard] = []
    first = 0
    for index, (name, place, rows, cut) in enumerate(plan.portions(shard_rows)):
        shards.append(Shard(index, name, kind, place, first, rows, cut, plan.classes))
        first += rows
    if first != plan.rows:
        raise SourceError(f"{shards[0].place}: the shards hold {first} rows, the input {plan.rows}; report this")
    return tuple(shards)


def _choose(files: dict[str, Stamp], ignored: Counter[str], where: str) -> tuple[Container, list[str]]:
    """The one container of which there are files, and these in order; the others are added to ``ignored``."""
    found: dict[str, list[str]] = {kind: [] for kind in CONTAINERS}
    for path in sorted(files):
        if container := container_of(path):
            found[container.kind].append(path)
        else:
            ignored[_suffix_reason(path)] += 1
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
            f"{where}: holds no {', '.join(nouns)} or {last} "
            f"({passed_over_text(ignored) or 'nothing is there'}); check the path; known: {known}"
        )
    return held[0]


def _find(uri: str | os.PathLike) -> Place:
    try:
        place = resolve(uri)
        if place.kind is not None:
            return place
    except (OSError, ValueError, ImportError) as error:
        raise SourceError(f"{redact(uri)}: cannot be reached: {error}; check the path") from error
    raise SourceError(f"{redact(uri)}: no such file or folder; check the path")


def _list_files(
    places: Sequence[Place], kinds: Sequence[str | None], root: Place
) -> tuple[dict[str, Stamp], Counter[str]]:
    """The files by their path below ``root``, and by its reason how much is hidden or no regular file."""
    files: dict[str, Stamp] = {}
    ignored: Counter[str] = Counter()
    for place, kind in zip(places, kinds):
        below = posixpath.relpath(place.path, root.path)
        try:
            if kind == "file":
                files[below] = place.stamp
                continue
            for path, stamp in place.walk():
                if _hidden(path):
                    ignored["hidden names"] += 1
                elif isinstance(stamp, str):
                    ignored[stamp] += 1
                else:
                    files[posixpath.normpath(posixpath.join(below, path))] = stamp
        except OSError as error:
            raise SourceError(f"{place}: cannot be listed: {error}; check its permissions") from error
    return files, ignored


def _hidden(path: str) -> bool:
    container = container_of(path)
    marks = container.hidden if container else "."
    return any(part[0] in marks or part == STATE for part in path.split("/"))


def _suffix_reason(path: str) -> str:
    suffix = posixpath.splitext(path)[1].lower()
    if not suffix:
        return "files without a suffix"
    # Numbers and texts after a dot are no suffixes, and may be as many as there are files.
    return f"{suffix} files" if re.fullmatch(r"\.(?=.*[a-z])[a-z0-9]{1,8}", suffix) else "other files"
