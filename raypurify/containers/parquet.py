"""Parquet files as a container: one row is an image with its other columns, and every shard becomes a file.

The image column is binary, or a struct with a binary field ``bytes``; ``id``, ``label`` and ``label_name`` are
optional, and the user may name other columns for them. Outputs are named after their shard and keep the schema, every
other column, and the rows of images that failed, with a null for the image.
"""

import hashlib
import posixpath
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raypurify.containers.contract import Container, Images, Listing, Outputs, Plan, Portion, Sink
from raypurify.containers.cuts import bytes_before, bytes_before_in_groups, cut_bytes, cut_rows
from raypurify.containers.image_column import (
    check_column,
    check_names,
    files_and_paths,
    find_image_column,
    image_values,
    nothing_there,
)
from raypurify.containers.look import Asked, Look
from raypurify.containers.packed import (
    FileCut,
    check_stamp,
    digest_of,
    keyed,
    numbered_files,
    pick_rows,
    put_file,
    shard_files,
)
from raypurify.containers.parquet_ids import ids_in, own_ids
from raypurify.containers.parquet_labels import classes_of, label_pairs
from raypurify.containers.plain_types import nests_dictionaries, plain_batch, plain_schema, write_as
from raypurify.containers.rows import MAX_FILE_BYTES, Row, Shard, counted
from raypurify.errors import ImageError, SourceError
from raypurify.storage import Place

_READ_ROWS, _READ_BYTES = 64, 16 << 20
# Arrow holds a row group several times while it is written. Images of more than the one get groups of the other.
_MOST_GROUP_BYTES, _GROUP_BYTES = 160 << 20, 64 << 20
_FOOTER, _AGAIN = "is damaged in its footer", "get or write it again"


@dataclass(frozen=True, kw_only=True)
class ParquetCut(FileCut):
    """Rows of a Parquet file from row ``start`` on. ``key`` is the file's part of ids, where it has no column
    ``id_column`` or that is None; ``column`` holds the images, ``label_column`` the labels where it has a name of its
    own."""

    start: int
    key: str
    column: str
    id_column: str | None = "id"
    label_column: str | None = None


def look(place: Place, asked: Asked) -> Look:
    """The rows of a Parquet file's row groups, its footer's digest, schema and ids (``Container.look``), and where
    labels are asked for the pairs of label and name that it holds."""
    stamp = place.stamp
    with open_file(place) as file:
        schema = file.schema_arrow
        check_names(place, schema)
        groups = _group_rows(file, place)
        sizes = [_group_bytes(file, number) for number in range(len(groups))]
        arrays = {"groups": pa.array(groups, pa.int64()), "sizes": pa.array(sizes, pa.int64())}
        arrays |= {"schema": pa.array([schema.serialize().to_pybytes()])}
        facts: dict[str, Any] = {}
        if (id_column := asked.id_column or "id") in schema.names:
            try:
                arrays["ids"] = ids_in(file, place, id_column)
            except SourceError as error:
                facts["ids"] = str(error)
        elif asked.id_column:
            raise SourceError(
                f"{place}: has no column {id_column!r}; its columns are {', '.join(schema.names)}; name the one that "
                "holds the ids with --id-column (id_column in Python and in a grid)"
            )
        if asked.labels:
            facts["labels"] = sorted(map(list, label_pairs(file, place, asked.label_column)), key=repr)
    return Look(stamp, _footer(place), sum(groups), facts=facts, arrays=arrays)


def plan(listing: Listing, looks: Mapping[str, Look]) -> Plan:
    """Rows, classes and shards of Parquet files (``Container.plan``).

    A job that asks for no labels needs no ids of the user's either: those that do not serve are left alone.
    """
    looks, column, refused = _with_images(listing, looks)
    rows = sum(one.rows for one in looks.values())
    if not rows:
        raise next(
            iter(refused.values()), SourceError(f"{listing.root}: the Parquet files hold no rows; check the path")
        )
    asked = listing.asked
    id_column = (asked.id_column or "id") if own_ids(listing, looks) else None
    named = id_column and any("ids" in one.arrays for one in looks.values())
    classes = None
    if asked.labels:
        pairs = {(label, name) for one in looks.values() for label, name in one.facts["labels"]}
        schema = _schema(next(iter(looks.values())))
        classes = classes_of(pairs, schema, listing.root, asked.label_column or "label")
    parts = {path: one.digest for path, one in looks.items()}
    own = (("images", column, "image"), ("ids", asked.id_column, "id"), ("labels", asked.label_column, "label"))
    mark = "".join(f"{what} in {name}\n" for what, name, usual in own if name not in (None, usual))
    return Plan(
        rows=rows,
        classes=classes,
        digest=digest_of(parts, mark),
        portions=partial(_portions, listing, looks, column, id_column),
        image_column=column,
        ids=f"column {id_column}" if named else "file and row",
        parts=parts,
        mark=mark,
        refused=refused,
    )


def read(shard: Shard) -> Iterator[Row]:
    """The rows of a Parquet shard (``Container.read``), a few at a time."""
    cut: ParquetCut = shard.cut
    index = {name: number for number, name in enumerate(shard.classes or ())}
    row = shard.first_row
    labels_in = ("label", "label_name") if cut.label_column is None else (cut.label_column,)
    asked = [*filter(None, (cut.id_column,)), *(labels_in if index else ())]
    for batch in read_batches(shard, (*asked, cut.column)):
        count = batch.num_rows
        at = row - shard.first_row
        names = set(batch.schema.names)
        numbers = cut.numbers[at : at + count]
        own = cut.id_column in names
        ids = _strings(batch[cut.id_column]) if own else [f"{cut.key}-{cut.start + number}" for number in numbers]
        labelled = next((name for name in labels_in if index and name in names), None)
        labels = batch[labelled].to_pylist() if labelled else [None] * count
        for identity, label, data, path in zip(ids, labels, *files_and_paths(batch[cut.column])):
            data = data.as_py()
            label = index.get(label) if isinstance(label, str) else label if label is not None and label >= 0 else None
            error = None
            if not data:
                data, error = None, ImageError("empty", f"{shard.place}: row {identity} {nothing_there(path.as_py())}")
            elif len(data) > MAX_FILE_BYTES:
                message = f"{shard.place}: row {identity} holds {len(data):,} bytes, the limit is {MAX_FILE_BYTES:,}"
                data, error = None, ImageError("too-large", message)
            yield Row(identity, row, data, label, error)
            row += 1


def write(sink: Sink, shard: Shard, images: Images) -> Outputs:
    """One Parquet file of the shard's rows, the schema and every other column as they were (``Container.write``)."""
    with open_file(shard.place) as file:
        stored = file.schema_arrow
    schema = plain_schema(stored)
    field = schema.field(shard.cut.column)
    kept = np.array([sink.keep_failed or not isinstance(image, ImageError) for _, image in images], bool)
    good = [None if isinstance(image, ImageError) else image for (_, image), keep in zip(images, kept) if keep]
    others = [name for name in schema.names if name != field.name]
    inner = [f"{field.name}.{part.name}" for part in field.type if part.name != "bytes"] if _is_struct(field) else []
    columns = {}
    if others or inner:
        table = pa.Table.from_batches(read_batches(shard, [*others, *inner], rows=shard.rows))
        table = table.filter(pa.array(kept)).combine_chunks()
        columns = {name: table[name] for name in table.schema.names}

    def tables() -> Iterator[pa.Table]:
        for start, rows in _row_groups(good):
            held = {name: column.slice(start, rows) for name, column in columns.items()}
            held[field.name] = image_values(field, good[start : start + rows], held.get(field.name))
            yield pa.table([held[name] for name in schema.names], schema=schema)

    # Encoded images neither compress nor repeat.
    options = {"use_dictionary": others, "compression": dict.fromkeys((field.name,), "NONE")}
    return put_file(sink, shard, ".parquet", lambda file: write_as(file, tables(), stored, **options))


PARQUET = Container(
    kind="parquet",
    noun="Parquet file",
    suffixes=frozenset((".parquet",)),
    look=look,
    plan=plan,
    read=read,
    pick=pick_rows,
    write=write,
    outputs=partial(shard_files, own=".parquet"),
    written=partial(numbered_files, suffix=".parquet"),
    hidden="._",
    has_columns=True,
    keeps_failed=True,
)


@contextmanager
def open_file(place: Place) -> Iterator[pq.ParquetFile]:
    """Open one file; its columns are read through a bounded buffer, never as a whole."""
    try:
        raw = place.open()
    except OSError as error:
        raise SourceError(f"{place}: cannot be opened: {error.strerror or error}; check its permissions") from error
    with raw:
        try:
            file = pq.ParquetFile(raw, buffer_size=4 << 20)
        except (pa.ArrowException, OSError) as error:
            raise SourceError(f"{place}: is no readable Parquet file: {error}; get or write it again") from error
        yield file


def read_batches(shard: Shard, columns: Sequence[str], rows: int = _READ_ROWS) -> Iterator[pa.RecordBatch]:
    """The shard's rows in record batches of plain types, of those ``columns`` that exist (``a.b`` is a field of a
    struct), of ``rows`` rows at most, and of heavy rows fewer.

    Raises SourceError where the file is gone, damaged, or holds fewer rows.
    """
    return counted(shard, _read_batches(shard, columns, rows), lambda batch: batch.num_rows)


def _read_batches(shard: Shard, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
    check_stamp(shard)
    cut: ParquetCut = shard.cut
    with open_file(shard.place) as file:
        present = set(file.schema_arrow.names)
        wanted = [column for column in columns if column in present or column.partition(".")[0] in present]
        groups: list[int] = []
        skip, first = 0, 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if first < cut.start + cut.span and first + count > cut.start:
                if not groups:
                    skip = cut.start - first
                groups.append(group)
            first += count
        held = sum(file.metadata.row_group(group).num_rows for group in groups)
        mean = sum(_group_bytes(file, group) for group in groups) / max(1, held)
        rows = max(1, min(rows, int(_READ_BYTES / max(1, mean))))
        left = cut.span
        try:
            alone = any(nests_dictionaries(field.type) for field in file.schema_arrow)
            runs = [[group] for group in groups] if alone else [groups]
            batches = (batch for run in runs for batch in file.iter_batches(rows, row_groups=run, columns=wanted))
            for batch in map(plain_batch, batches):
                part = batch.slice(skip, left)
                skip = max(0, skip - batch.num_rows)
                at = cut.span - left
                left -= part.num_rows
                if cut.picked is not None:
                    low, high = (bisect_left(cut.picked, edge) for edge in (at, at + part.num_rows))
                    part = part.take(pa.array([k - at for k in cut.picked[low:high]], pa.int64()))
                if part.num_rows:
                    yield part
                if not left:
                    break
        except (pa.ArrowException, OSError) as error:
            raise SourceError(
                f"{shard.place}: cannot be read in the rows of shard {shard.name}: {error}; get it again, or read "
                f"it with a newer pyarrow than {pa.__version__}"
            ) from error
        if cut.column in wanted and not left:
            _check_values(file, shard, groups)


def _portions(
    listing: Listing, looks: Mapping[str, Look], column: str, id_column: str | None, shard_rows: int
) -> Iterator[Portion]:
    for key, path, one in keyed(listing, looks):
        folder = posixpath.dirname(path)
        groups, sizes = (one.arrays[name].to_pylist() for name in ("groups", "sizes"))
        cuts = cut_bytes(cut_rows(groups, shard_rows), bytes_before_in_groups(groups, sizes))
        for number, (start, rows) in enumerate(cuts):
            cut = ParquetCut(
                stamp=one.stamp,
                folder=folder,
                span=rows,
                start=start,
                key=key,
                column=column,
                id_column=id_column,
                label_column=listing.asked.label_column,
            )
            yield Portion(f"{key}-{number:05d}", listing.root / path, rows, cut)


def _group_rows(file: pq.ParquetFile, place: Place) -> tuple[int, ...]:
    """The rows of each row group. Raises SourceError where the footer counts other rows in all."""
    groups = tuple(file.metadata.row_group(number).num_rows for number in range(file.num_row_groups))
    if sum(groups) != file.metadata.num_rows or any(count < 0 for count in groups):
        raise SourceError(
            f"{place}: is damaged in its footer, which counts {file.metadata.num_rows} rows, and {sum(groups)} in "
            "its row groups; get or write it again"
        )
    return groups


def _group_bytes(file: pq.ParquetFile, number: int) -> int:
    """The bytes of a row group when it is unpacked, of all its columns."""
    return max(0, file.metadata.row_group(number).total_byte_size)


def _check_values(file: pq.ParquetFile, shard: Shard, groups: Sequence[int]) -> None:
    """Raises SourceError where row groups hold more images than rows by the footer, of which Arrow reads as many as it
    says. To be called once they are read, because pyarrow dies of asking a damaged footer for a column."""
    column = shard.cut.column
    path = f"{column}.bytes" if _is_struct(file.schema_arrow.field(column)) else column
    leaf = next(k for k in range(len(file.schema)) if file.schema.column(k).path == path)
    for number in groups:
        group = file.metadata.row_group(number)
        if group.column(leaf).num_values != group.num_rows:
            raise SourceError(
                f"{shard.place}: is damaged in its footer: row group {number} has {group.num_rows} rows and "
                f"{group.column(leaf).num_values} images; get or write it again"
            )


def _footer(place: Place) -> str:
    # The footer holds every size, offset and statistic of the file: a digest of it is cheap and sees nearly any change.
    with place.open() as file:
        end = file.seek(0, 2) or file.tell()
        file.seek(end - 8)
        length = int.from_bytes(file.read(8)[:4], "little")
        file.seek(end - 8 - length)
        return f"{end}:{hashlib.sha256(file.read(length)).hexdigest()}"


def _strings(column: pa.Array | pa.ChunkedArray) -> list[str]:
    return pc.cast(column, pa.large_string()).to_pylist()


def _with_images(listing: Listing, looks: Mapping[str, Look]) -> tuple[dict[str, Look], str, dict[str, SourceError]]:
    """The files that hold images in the column of the listing, or of the first that has one; that column; and the
    errors of the others."""
    column, found, refused = listing.image_column, {}, {}
    for path, one in looks.items():
        try:
            name = find_image_column(listing.root / path, _schema(one), column)
            check_column(listing.root / path, _schema(one), name)
            found[path], column = one, name
        except SourceError as error:
            refused[path] = error
    return found, column or "", refused


def _schema(one: Look) -> pa.Schema:
    return pa.ipc.read_schema(pa.BufferReader(one.arrays["schema"][0].as_py()))


def _row_groups(images: Sequence[bytes | None]) -> Iterator[tuple[int, int]]:
    """Where each row group starts, and its rows: one for all, unless memory would have to hold very much at once."""
    before = bytes_before([len(image or b"") for image in images])
    whole = iter([(0, len(images))])
    return cut_bytes(whole, before, _GROUP_BYTES) if before(len(images)) > _MOST_GROUP_BYTES else whole


def _is_struct(field: pa.Field) -> bool:
    return pa.types.is_struct(field.type)
