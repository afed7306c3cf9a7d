"""Parquet files as a container: one row is an image with its other columns, and every shard becomes a file.

The image column is binary, or a struct with a binary field ``bytes``; ``id``, ``label`` and ``label_name`` are
optional. Outputs are named after their shard and keep the schema, every other column, and the rows of images that
failed, with a null for the image.
"""

import hashlib
import posixpath
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raypurify.containers.contract import Container, Images, Listing, Plan, Portion, Sink
from raypurify.containers.cuts import bytes_before_in_groups, cut_bytes, cut_rows
from raypurify.containers.image_column import check_columns, find_image_column
from raypurify.containers.packed import FileCut, check_stamp, numbered_files, pick_rows, put_file, unique_keys
from raypurify.containers.parquet_labels import Pair, classes_of, label_pairs
from raypurify.containers.plain_types import nests_dictionaries, plain_batch, plain_schema, plain_type, written_as
from raypurify.containers.rows import MAX_FILE_BYTES, Row, Shard, counted
from raypurify.errors import ImageError, SourceError
from raypurify.storage import Place

_READ_ROWS, _READ_BYTES = 64, 16 << 20
_FOOTER, _AGAIN = "is damaged in its footer", "get or write it again"


@dataclass(frozen=True, kw_only=True)
class ParquetCut(FileCut):
    """Rows of a Parquet file from row ``start`` on. ``key`` is the file's part of ids, where it has no column ``id``
    or not ``own_ids``; ``column`` holds the images."""

    start: int
    key: str
    column: str
    own_ids: bool = True


@dataclass(frozen=True)
class _Table:
    """One file as planned: its row groups have the rows ``groups`` and bytes ``sizes``; the cut is of all of it."""

    place: Place
    groups: tuple[int, ...]
    sizes: tuple[int, ...]
    whole: ParquetCut


def plan(listing: Listing) -> Plan:
    """Rows, classes and shards of Parquet files (``Container.plan``). Footers, ids and labels are read.

    A job that asks for no labels needs no ids of the user's either: those that do not serve are left alone.
    """
    root, column, paths = listing.root, listing.image_column, list(listing.stamps)
    digest = hashlib.sha256()
    tables: list[_Table] = []
    pairs: set[Pair] = set()
    schemas: list[pa.Schema] = []
    ids: list[pa.ChunkedArray] | None = []
    for key, path in zip(unique_keys(paths), paths):
        place = root / path
        stamp = place.stamp
        with open_file(place) as file:
            column = find_image_column(place, file.schema_arrow, column)
            check_columns(place, file.schema_arrow, column)
            groups = _group_rows(file, place)
            sizes = tuple(_group_bytes(file, number) for number in range(len(groups)))
            digest.update(f"{path}\0{_footer(place)}\n".encode("utf-8", "surrogateescape"))
            schemas.append(file.schema_arrow)
            ids = _with_ids(ids, file, place, key, needed=listing.labels)
            if listing.labels:
                pairs |= label_pairs(file)
        folder = posixpath.dirname(path)
        whole = ParquetCut(stamp=stamp, folder=folder, span=sum(groups), start=0, key=key, column=column)
        tables.append(_Table(place, groups, sizes, whole))
    own_ids = ids is not None and _are_unique(ids, root, needed=listing.labels)
    tables = [replace(table, whole=replace(table.whole, own_ids=own_ids)) for table in tables]
    rows = sum(table.whole.span for table in tables)
    if not rows:
        raise SourceError(f"{root}: the Parquet files hold no rows")
    if column != "image":
        digest.update(f"images in {column}\n".encode())
    return Plan(
        rows=rows,
        classes=classes_of(pairs, schemas[0], root) if listing.labels else None,
        digest=digest.hexdigest(),
        portions=partial(_portions, tables),
        image_column=column,
        ids="column id" if own_ids and any("id" in schema.names for schema in schemas) else "file and row",
    )


def read(shard: Shard) -> Iterator[Row]:
    """The rows of a Parquet shard (``Container.read``), a few at a time."""
    cut: ParquetCut = shard.cut
    index = {name: number for number, name in enumerate(shard.classes or ())}
    row = shard.first_row
    asked = ("id",) * cut.own_ids + ("label", "label_name") * bool(index)
    for batch in read_batches(shard, (*asked, cut.column)):
        count = batch.num_rows
        at = row - shard.first_row
        names = set(batch.schema.names)
        numbers = cut.numbers[at : at + count]
        own = cut.own_ids and "id" in names
        ids = _strings(batch["id"]) if own else [f"{cut.key}-{cut.start + number}" for number in numbers]
        label_column = "label" if "label" in names else "label_name"
        labels = batch[label_column].to_pylist() if index and label_column in names else [None] * count
        column = batch[cut.column]
        if pa.types.is_struct(column.type):
            column = pc.struct_field(column, "bytes")
        for identity, label, data in zip(ids, labels, column):
            data = data.as_py()
            label = index.get(label) if isinstance(label, str) else label if label is not None and label >= 0 else None
            error = None
            if not data:
                data, error = None, ImageError("empty", f"{shard.place}: row {identity} holds no image bytes")
            elif len(data) > MAX_FILE_BYTES:
                message = f"{shard.place}: row {identity} holds {len(data):,} bytes, the limit is {MAX_FILE_BYTES:,}"
                data, error = None, ImageError("too-large", message)
            yield Row(identity, row, data, label, error)
            row += 1


def write(sink: Sink, shard: Shard, images: Images) -> dict[int, str]:
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
    columns[field.name] = _image_column(field, good, columns.get(field.name))
    table = pa.table([columns[name] for name in schema.names], schema=schema)
    # Encoded images neither compress nor repeat.
    data = written_as(table, stored, use_dictionary=others, compression=dict.fromkeys((field.name,), "NONE"))
    return put_file(sink, shard, ".parquet", data)


PARQUET = Container(
    kind="parquet",
    noun="Parquet file",
    suffixes=frozenset((".parquet",)),
    plan=plan,
    read=read,
    pick=pick_rows,
    write=write,
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
        raise SourceError(f"{place}: cannot be opened: {error.strerror or error}") from error
    with raw:
        try:
            file = pq.ParquetFile(raw, buffer_size=4 << 20)
        except (pa.ArrowException, OSError) as error:
            raise SourceError(f"{place}: is no readable Parquet file: {error}") from error
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
            raise SourceError(f"{shard.place}: damaged in the rows of shard {shard.name}: {error}") from error
        if cut.column in wanted and not left:
            _check_values(file, shard, groups)


def _portions(tables: Sequence[_Table], shard_rows: int) -> Iterator[Portion]:
    for table in tables:
        before = bytes_before_in_groups(table.groups, table.sizes)
        for number, (start, rows) in enumerate(cut_bytes(cut_rows(table.groups, shard_rows), before)):
            cut = replace(table.whole, start=start, span=rows)
            yield Portion(f"{cut.key}-{number:05d}", table.place, rows, cut)


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


def _with_ids(
    ids: list[pa.ChunkedArray] | None, file: pq.ParquetFile, place: Place, key: str, needed: bool
) -> list[pa.ChunkedArray] | None:
    """The ``ids`` with those of one more file; None where they do not serve and are not ``needed``."""
    try:
        return None if ids is None else [*ids, _ids(file, place, key)]
    except SourceError:
        if needed:
            raise
        return None


def _ids(file: pq.ParquetFile, place: Place, key: str) -> pa.ChunkedArray:
    schema = file.schema_arrow
    if "id" not in schema.names:
        return pa.chunked_array([[f"{key}-{row}" for row in range(file.metadata.num_rows)]], pa.large_string())
    kind = plain_type(schema.field("id").type)
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
        raise SourceError(f"{place}: column 'id' is {kind}; expected strings or integers")
    column = file.read(columns=["id"])["id"]
    if column.null_count:
        raise SourceError(f"{place}: column 'id' has {column.null_count} empty rows; every row needs an id")
    return pc.cast(column, pa.large_string())


def _are_unique(parts: Sequence[pa.ChunkedArray], root: Place, needed: bool) -> bool:
    """Whether no id comes twice. Raises SourceError where one does and they are ``needed``."""
    ids = pa.chunked_array([chunk for part in parts for chunk in part.chunks], pa.large_string())
    if pc.count_distinct(ids).as_py() == len(ids):
        return True
    if not needed:
        return False
    counted = pc.value_counts(ids)
    first = counted.filter(pc.greater(counted.field("counts"), 1))[0].as_py()
    raise SourceError(f"{root}: the id {first['values']!r} appears {first['counts']} times; ids must be unique")


def _is_struct(field: pa.Field) -> bool:
    return pa.types.is_struct(field.type)


def _image_column(field: pa.Field, images: list[bytes | None], old: pa.ChunkedArray | None) -> pa.Array:
    """The images as a column, None for those that failed; the fields of a struct besides them are those of ``old``."""
    if not _is_struct(field):
        return _files(images, field)
    held = None if old is None else pa.concat_arrays(old.chunks) if old.num_chunks else pa.array([], old.type)
    others = iter([] if held is None else range(held.type.num_fields))
    parts = [
        _files(images, part) if part.name == "bytes" else pc.struct_field(held, [next(others)]) for part in field.type
    ]
    lost = held.is_null() if held is not None and held.null_count else None
    return pa.StructArray.from_arrays(parts, fields=list(field.type), mask=lost)


def _files(images: list[bytes | None], field: pa.Field) -> pa.Array:
    # Where a column allows no nulls, no bytes stand for no image.
    held = images if field.nullable else [image or b"" for image in images]
    sizes = np.array([len(image or b"") for image in held], np.int64)
    if field.type != pa.binary() or sizes.sum() >= 1 << 31:
        return pa.array(held, field.type)
    # Arrow's own way from a list takes up to thrice the memory.
    there = pa.array([image is not None for image in held], pa.bool_()).buffers()[1]
    offsets = pa.py_buffer(np.concatenate([[0], sizes.cumsum()]).astype(np.int32))
    data = pa.py_buffer(b"".join(image or b"" for image in held))
    return pa.Array.from_buffers(field.type, len(held), [there, offsets, data])
