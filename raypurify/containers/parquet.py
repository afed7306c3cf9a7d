"""Parquet files as a source: which rows make a shard, what their ids, labels and classes are, reading a row range."""

import hashlib
import json
import posixpath
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raypurify.containers.rows import MAX_FILE_BYTES, Row, Shard
from raypurify.errors import ImageError, SourceError
from raypurify.storage import Place, Stamp

_READ_ROWS = 64
_MAX_CLASSES = 100_000


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


def plan_shards(
    root: Place, paths: Sequence[str], shard_rows: int, image_column: str
) -> tuple[tuple[Shard, ...], tuple[str, ...] | None, str]:
    """Shards, classes and digest of the files ``paths`` below ``root``."""
    keys = unique_keys(paths)
    digest = hashlib.sha256()
    planned: list[tuple[str, str, Place, Stamp, int, int]] = []
    ids, pairs, schemas = [], set(), []
    for key, path in zip(keys, paths):
        place = root / path
        stamp = place.stamp
        with open_file(place) as file:
            _check_columns(place, file.schema_arrow, image_column)
            digest.update(f"{path}\0{_footer(place)}\n".encode("utf-8", "surrogateescape"))
            schemas.append(file.schema_arrow)
            ids.append(_ids(file, place, key))
            pairs |= _label_pairs(file)
            groups = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
        folder = posixpath.dirname(path)
        planned += [(f"{key}-{k:05d}", folder, place, stamp, *cut) for k, cut in enumerate(cut(groups, shard_rows))]
    _check_unique(pa.chunked_array([chunk for part in ids for chunk in part.chunks], pa.large_string()), root)
    if not planned:
        raise SourceError(f"{root}: the Parquet files hold no rows")
    classes = _classes(pairs, schemas[0], root)
    shards, first = [], 0
    for index, (name, folder, place, stamp, start, rows) in enumerate(planned):
        key = name.rpartition("-")[0]
        place_of = {"start": start, "key": key, "folder": folder, "image_column": image_column}
        shards.append(Shard(index, name, "parquet", place, first, rows, **place_of, classes=classes, stamps=(stamp,)))
        first += rows
    return tuple(shards), classes, digest.hexdigest()


def read_rows(shard: Shard) -> Iterator[Row]:
    """The rows of a Parquet shard; see :func:`raypurify.containers.source.read_shard`."""
    index = {name: number for number, name in enumerate(shard.classes or ())}
    row = shard.first_row
    for batch in read_batches(shard, ("id", "label", "label_name", shard.image_column)):
        count = batch.num_rows
        at = row - shard.first_row
        offsets = (shard.picked or range(shard.rows))[at : at + count]
        names = set(batch.schema.names)
        ids = _strings(batch["id"]) if "id" in names else [f"{shard.key}-{shard.start + k}" for k in offsets]
        label_column = "label" if "label" in names else "label_name"
        labels = batch[label_column].to_pylist() if index and label_column in names else [None] * count
        column = batch[shard.image_column]
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


def read_batches(shard: Shard, columns: Sequence[str], rows: int = _READ_ROWS) -> Iterator[pa.RecordBatch]:
    """The shard's rows in record batches of those ``columns`` that exist (``a.b`` is a field of a struct)."""
    check_stamp(shard)
    with open_file(shard.place) as file:
        present = set(file.schema_arrow.names)
        wanted = [column for column in columns if column in present or column.partition(".")[0] in present]
        groups, skip, first = [], 0, 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if first < shard.start + shard.span and first + count > shard.start:
                if not groups:
                    skip = shard.start - first
                groups.append(group)
            first += count
        left = shard.span
        try:
            for batch in file.iter_batches(rows, row_groups=groups, columns=wanted):
                part = batch.slice(skip, left)
                skip = max(0, skip - batch.num_rows)
                at = shard.span - left
                left -= part.num_rows
                if shard.picked is not None:
                    low, high = (bisect_left(shard.picked, edge) for edge in (at, at + part.num_rows))
                    part = part.take(pa.array([k - at for k in shard.picked[low:high]], pa.int64()))
                if part.num_rows:
                    yield part
                if not left:
                    return
        except (pa.ArrowException, OSError) as error:
            raise SourceError(f"{shard.place}: damaged in the rows of shard {shard.name}: {error}") from error


def check_stamp(shard: Shard) -> None:
    """Raises SourceError where the file of a shard is not the one that the job was planned with."""
    try:
        found = shard.place.stamp
    except OSError as error:
        raise SourceError(f"{shard.place}: cannot be opened: {error.strerror or error}") from error
    if found != shard.stamps[0]:
        raise SourceError(f"{shard.place}: changed since the job was planned")


def unique_keys(paths: Sequence[str]) -> list[str]:
    """A short name for each file, for its shards: its stem, with a number in front where stems repeat."""
    stems = [re.sub(r"[^A-Za-z0-9._-]", "_", path.rpartition("/")[2].rsplit(".", 1)[0]) for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    return [f"{number:05d}-{stem}" for number, stem in enumerate(stems)]


def _check_columns(place: Place, schema: pa.Schema, image_column: str) -> None:
    if image_column not in schema.names:
        raise SourceError(
            f"{place}: has no column {image_column!r}; its columns are {', '.join(schema.names)}; "
            "name the one that holds the image files"
        )
    kind = schema.field(image_column).type
    inner = kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
    if not (pa.types.is_binary(inner) or pa.types.is_large_binary(inner)):
        raise SourceError(
            f"{place}: column {image_column!r} is {kind}; expected binary (the bytes of an image file) "
            "or a struct with a binary field 'bytes'"
        )


def _footer(place: Place) -> str:
    # The footer holds every size, offset and statistic of the file: a digest of it is cheap and sees nearly any change.
    with place.open() as file:
        end = file.seek(0, 2) or file.tell()
        file.seek(end - 8)
        length = int.from_bytes(file.read(8)[:4], "little")
        file.seek(end - 8 - length)
        return f"{end}:{hashlib.sha256(file.read(length)).hexdigest()}"


def cut(groups: Sequence[int], shard_rows: int) -> Iterator[tuple[int, int]]:
    """(start, rows) of each shard: small row groups are merged whole, one of two shards or more is cut evenly."""
    start = held = 0
    for count in groups:
        if held and held + count > shard_rows:
            yield start, held
            start, held = start + held, 0
        held += count
        if held >= 2 * shard_rows:
            parts = -(-held // shard_rows)
            for part in range(parts):
                low, high = held * part // parts, held * (part + 1) // parts
                yield start + low, high - low
            start, held = start + held, 0
    if held:
        yield start, held


def _strings(column: pa.Array | pa.ChunkedArray) -> list[str]:
    return pc.cast(column, pa.large_string()).to_pylist()


def _ids(file: pq.ParquetFile, place: Place, key: str) -> pa.ChunkedArray:
    schema = file.schema_arrow
    if "id" not in schema.names:
        return pa.chunked_array([[f"{key}-{row}" for row in range(file.metadata.num_rows)]], pa.large_string())
    kind = schema.field("id").type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
        raise SourceError(f"{place}: column 'id' is {kind}; expected strings or integers")
    column = file.read(columns=["id"])["id"]
    if column.null_count:
        raise SourceError(f"{place}: column 'id' has {column.null_count} empty rows; every row needs an id")
    return pc.cast(column, pa.large_string())


def _check_unique(ids: pa.ChunkedArray, root: Place) -> None:
    if pc.count_distinct(ids).as_py() == len(ids):
        return
    counted = pc.value_counts(ids)
    first = counted.filter(pc.greater(counted.field("counts"), 1))[0].as_py()
    raise SourceError(f"{root}: the id {first['values']!r} appears {first['counts']} times; ids must be unique")


def _label_pairs(file: pq.ParquetFile) -> set[tuple[int | str | None, str | None]]:
    schema = file.schema_arrow
    names = [name for name in ("label", "label_name") if name in schema.names and _is_label(schema.field(name).type)]
    pairs = set()
    if names:
        for batch in file.iter_batches(1 << 16, columns=names):
            table = pa.table([_plain(batch[name]) for name in names], names).group_by(names).aggregate([])
            held = {name: table[name].to_pylist() for name in names}
            pairs |= set(zip(*(held.get(name, [None] * len(table)) for name in ("label", "label_name"))))
    return pairs


def _is_label(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _classes(pairs: set, schema: pa.Schema, root: Place) -> tuple[str, ...] | None:
    labels = {label for label, _ in pairs if label is not None}
    if not labels:
        return tuple(sorted({str(name) for _, name in pairs if name is not None})) or None
    if all(isinstance(label, str) for label in labels):
        return tuple(sorted(labels))
    if any(isinstance(label, str) or label >= _MAX_CLASSES for label in labels):
        raise SourceError(f"{root}: column 'label' must hold class indices below {_MAX_CLASSES:,} or class names")
    named: dict[int, str] = {}
    for label, name in pairs:
        if label is not None and name is not None and label >= 0 and named.setdefault(label, str(name)) != str(name):
            both = " and ".join(sorted(repr(str(n)) for l, n in pairs if l == label))  # noqa: E741
            raise SourceError(f"{root}: label {label} has more than one name: {both}; give each class one name")
    known = _feature_names(schema) if not named else []
    count = max(max(labels) + 1, len(known))
    return tuple(known[i] if i < len(known) else named.get(i, str(i)) for i in range(count)) or None


def _feature_names(schema: pa.Schema) -> list[str]:
    # Hugging Face datasets keep the class names in the schema's metadata.
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features["label"]["names"]]
    except (KeyError, TypeError, ValueError):
        return []
