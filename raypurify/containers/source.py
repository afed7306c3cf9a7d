"""An input, in whatever container → shards of rows, for ``fit`` and ``purify`` alike.

A shard is the unit of work and of commit: about ``shard_rows`` rows that one task reads, purifies and writes. The
order of shards and rows depends on names alone, so a rerun cuts the same shards.
"""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from raypurify.containers.contract import Listing, Plan
from raypurify.containers.kinds import choose
from raypurify.containers.listing import list_inputs
from raypurify.containers.look import Asked
from raypurify.containers.looking import Looking, Seen, look_into
from raypurify.containers.packed import digest_of
from raypurify.containers.registry import CONTAINERS, KINDS
from raypurify.containers.rows import Row, Shard, counted
from raypurify.containers.tar_names import named_members
from raypurify.errors import SourceError
from raypurify.storage import Place, overlapping, redact


@dataclass(frozen=True)
class Source:
    """An input: its shards, the total of rows, the class names (None without labels), a ``digest`` of names, sizes and
    Parquet footers (not of contents), and what was passed over: ``ignored`` counts it by its reason. ``places`` are
    those of :class:`raypurify.containers.listing.Inputs`. Of tables, ``image_column`` holds the images, and ``ids``
    says what names the rows: "column id", or "file and row"; ``id_column`` is the one that was asked for, None where it
    has the usual name. Of tars, ``image_member`` names the extensions of images where that was asked for.

    ``parts`` are the digests of files that hold many images, by path, and ``mark`` what else the digest is made of;
    ``damaged`` says of files why they cannot be used: nothing else is about them. ``shard_rows`` is about how many rows
    a shard has.

    ``joins`` is what the container has to know to make files of several shards (``Plan.joins``).

    ``seen_to`` is the last file of which the source tells where it does not tell of all yet, and ``names`` a digest of
    the names of all."""

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
    id_column: str | None = None
    image_member: str | None = None
    parts: dict[str, str] = field(default_factory=dict)
    mark: str = ""
    joins: Any = None
    damaged: dict[str, str] = field(default_factory=dict)
    shard_rows: int = 0
    seen_to: str | None = None
    names: str = ""

    def digest_without(self, paths: Collection[str]) -> str:
        """The digest that the source would have without some of its files."""
        parts = {path: part for path, part in self.parts.items() if path not in paths}
        return digest_of(parts, self.mark) if len(parts) < len(self.parts) else self.digest


def open_source(
    uris: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    shard_rows: int | Callable[[int], int] = 256,
    image_column: str | None = None,
    id_column: str | None = None,
    label_column: str | None = None,
    image_member: str | None = None,
    labels: bool = True,
    kind: str | None = None,
    follow_links: bool = False,
    looking: Looking | None = None,
) -> Source:
    """Look at a folder of images, at Parquet files, tars or arrays or a folder of them, or at a list of such.

    Paths may be local, ``file://`` or any URI that pyarrow or fsspec knows, and patterns as shells know them
    (:mod:`raypurify.containers.patterns`). Every file is looked at once. ``kind``, "images", "parquet", "tars" or
    "arrays", says which files to read where there are several; Parquet files and arrays without images beside others
    are passed over.
    ``shard_rows`` is about how many rows a shard gets, or a function that tells it by the number of all rows.
    **Folder:** every regular file below with an image suffix is a row; its id is the path relative to the folder (for a
    list: to the deepest folder that holds all of it), a name that is not UTF-8 is percent-encoded; if every image lies
    in a subfolder, the first level of subfolders are the classes, sorted. Names starting with a dot are passed over,
    and links to folders, unless ``follow_links`` makes folders of them. **Parquet:** ``image_column`` is binary or a
    struct with a field ``bytes``; where none is named, it is ``image``, or the only image column of a name such as
    ``img`` or ``jpg``, or the only image column, or of several the only one of Hugging Face's type ``Image``. ``id``,
    ``label``, ``label_name`` are optional; ``id_column`` and ``label_column`` (class indices or names) are named where
    they are called otherwise, and must then serve. Files and folders whose name starts with ``_`` or a dot are passed
    over. **WebDataset:** tars, as
    :mod:`raypurify.containers.webdataset` reads them; the id is the tar's path and the sample's key, ``.cls`` its
    label; ``image_member`` ("jpg", "left.png,right.png") are the extensions of images, where these are not all
    members with the suffix of an image file that is no mask. **Arrays:** ``.npy`` and ``.npz`` files, as
    :mod:`raypurify.containers.arrays` reads them.

    Without ``labels`` the source has no classes, and the columns ``id``, ``label`` and ``label_name`` may hold
    anything: where ids are not there, not text or integers, or not unique, rows are named by file and row.

    ``looking`` says how files are looked into. Where it has someone to tell of damaged ones, these are left out.

    Raises :class:`SourceError` naming what is missing, empty, mixed, not readable or not unique.

    >>> open_source("/no/such/folder")
    Traceback (most recent call last):
    ...
    raypurify.errors.SourceError: /no/such/folder: no such file or folder; check the path
    """
    (source,) = growing_source(
        uris,
        shard_rows=shard_rows,
        image_column=image_column,
        id_column=id_column,
        label_column=label_column,
        image_member=image_member,
        labels=labels,
        kind=kind,
        follow_links=follow_links,
        looking=looking or Looking(),
        enough=lambda seen: False,
    )
    return source


def growing_source(
    uris: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    shard_rows: int | Callable[[int], int],
    image_column: str | None,
    image_member: str | None,
    labels: bool,
    kind: str | None,
    follow_links: bool,
    looking: Looking,
    enough: Callable[[Seen], bool],
    id_column: str | None = None,
    label_column: str | None = None,
) -> Iterator[Source]:
    """The source of the first files of an input, and again of more of them, while others are looked into; in the end
    that of all, which is what :func:`open_source` gives and takes. The shards of one are the first of the next.

    ``enough`` is asked whether what is seen so far is worth one; not where the shards of a container could change with
    what is found in other files.
    """
    if not callable(shard_rows) and shard_rows < 1:
        raise SourceError(f"shard_rows is {shard_rows}; it must be 1 or more")
    if kind is not None and kind not in KINDS:
        raise SourceError(f"unknown kind {kind!r}; use one of {', '.join(KINDS)}")
    given = [uris] if isinstance(uris, str | os.PathLike) else list(uris)
    if not given:
        raise SourceError("no input given; name a folder of images or Parquet files")
    shown = tuple(redact(uri) for uri in given)
    where = ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")
    inputs = list_inputs(given, follow_links)
    container, paths, ignored = choose(inputs, kind, where)
    for option, column in (("image", image_column), ("id", id_column), ("label", label_column)):
        if column is not None and not container.has_columns:
            raise SourceError(
                f"{where}: --{option}-column {column} is for Parquet files, the input holds {container.noun}s; "
                "leave it out"
            )
    if image_member is not None and not container.has_members:
        raise SourceError(
            f"{where}: --image-member {image_member} is for tars, the input holds {container.noun}s; leave it out"
        )
    image_member = None if image_member is None else named_members(image_member)
    stamps = {path: inputs.files[path] for path in paths}
    asked = Asked(labels, image_member, id_column, None if label_column == "label" else label_column)
    listing = Listing(inputs.root, stamps, image_column, asked, follow_links)
    if looking.out is not None and overlapping(looking.out, inputs.places):
        # It will be refused; nothing is written into an input.
        looking = replace(looking, out=None)

    def source(seen: Seen) -> Source:
        plan = container.plan(listing, seen.looks)
        for error in plan.refused.values():
            looking.refuse(error)
        if not labels:
            plan = replace(plan, classes=None)
        about = shard_rows(plan.rows) if callable(shard_rows) else shard_rows
        return Source(
            kind=container.kind,
            uris=shown,
            places=inputs.places,
            shards=_number(container.kind, plan, about),
            rows=plan.rows,
            classes=plan.classes,
            digest=plan.digest,
            ignored=dict(sorted((ignored + Counter(plan.passed)).items())),
            image_column=plan.image_column,
            ids=plan.ids,
            id_column=None if id_column == "id" else id_column,
            image_member=image_member,
            parts=plan.parts,
            mark=plan.mark,
            joins=plan.joins,
            damaged={path: str(error) for path, error in sorted((seen.refused | plan.refused).items())},
            shard_rows=about,
            seen_to=seen.to,
            names=digest_of(dict.fromkeys(paths, "")) if container.grows else "",
        )

    known: list[str] = []
    for seen in look_into(container, listing, looking):
        if seen.to is None:
            if seen.refused and not seen.looks:
                raise next(iter(seen.refused.values()))
            whole = source(seen)
            if known != [shard.name for shard in whole.shards[: len(known)]]:
                raise SourceError(
                    f"{where}: work has begun, and now that all files are known, shards have other names, because of "
                    "tars in tars; wait for all files by --strict, with --overwrite for an output that was begun"
                )
            yield whole
        elif container.grows and enough(seen) and container.grows(seen.looks):
            try:
                part = source(seen)
            except SourceError:
                # What is missing may still come.
                continue
            known = [shard.name for shard in part.shards]
            yield part


def read_shard(shard: Shard) -> Iterator[Row]:
    """The rows of one shard, in order, read as they are asked for. A row that cannot be read carries an ``error``.

    Raises :class:`SourceError` where the whole file is gone or damaged since ``open_source``, or does not hold exactly
    the rows that were planned.
    """
    return counted(shard, CONTAINERS[shard.kind].read(shard))


def _number(kind: str, plan: Plan, shard_rows: int) -> tuple[Shard, ...]:
    shards: list[Shard] = []
    first = 0
    for index, (name, place, rows, cut) in enumerate(plan.portions(shard_rows)):
        shards.append(Shard(index, name, kind, place, first, rows, cut, plan.classes))
        first += rows
    if first != plan.rows:
        raise SourceError(f"{shards[0].place}: the shards hold {first} rows, the input {plan.rows}; report this")
    return tuple(shards)
