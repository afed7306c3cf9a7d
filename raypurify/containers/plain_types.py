"""Tables with types that Arrow reads and writes but cannot take, filter or slice: views of strings and of bytes.

They are read as the plain types of the same values, and written so under the schema that they came with, which Parquet
keeps beside the values; so the files are those that Arrow would have written, and readers find the types of the input.
"""

import base64
from collections.abc import Iterable
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type of the same values without views, at any depth; the type itself where it holds none.

    >>> plain_type(pa.list_(pa.string_view()))
    ListType(list<item: string>)
    """
    if not _has_views(kind):
        return kind
    if kind == pa.string_view():
        return pa.string()
    if kind == pa.binary_view():
        return pa.binary()
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, plain_type(kind.value_type), kind.ordered)
    if pa.types.is_struct(kind):
        return pa.struct([_plain_field(part) for part in kind])
    if pa.types.is_map(kind):
        return pa.map_(_plain_field(kind.key_field), _plain_field(kind.item_field), kind.keys_sorted)
    value = _plain_field(kind.value_field)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(value, kind.list_size)
    wide = pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind)
    return pa.large_list(value) if wide else pa.list_(value)


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The schema of plain types; the same names and metadata."""
    return pa.schema([_plain_field(field) for field in schema], schema.metadata)


def plain_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The values of a batch as plain types; columns without views are those of the batch."""
    schema = plain_schema(batch.schema)
    return pa.RecordBatch.from_arrays([_plain(column) for column in batch.columns], schema=schema)


def write_as(file: BinaryIO, tables: Iterable[pa.Table], schema: pa.Schema, **options: Any) -> None:
    """Write a Parquet file of tables of plain types, a row group each, whose readers find it in the types of
    ``schema``."""
    plain = plain_schema(schema)
    same = plain.equals(schema)
    with pq.ParquetWriter(file, plain, store_schema=same, **options) as writer:
        for table in tables:
            writer.write_table(table)
        if not same:
            stored = base64.b64encode(schema.serialize().to_pybytes())
            writer.add_key_value_metadata({**(schema.metadata or {}), b"ARROW:schema": stored})


def nests_dictionaries(kind: pa.DataType, inside: bool = False) -> bool:
    """Whether a type has dictionaries inside of lists, structs or maps, which Arrow reads of one row group alone."""
    if pa.types.is_dictionary(kind):
        return inside
    return any(nests_dictionaries(part, True) for part in _parts(kind))


def _has_views(kind: pa.DataType) -> bool:
    return kind in (pa.string_view(), pa.binary_view()) or any(map(_has_views, _parts(kind)))


def _parts(kind: pa.DataType) -> list[pa.DataType]:
    if isinstance(kind, pa.BaseExtensionType):
        return [kind.storage_type]
    if pa.types.is_dictionary(kind):
        return [kind.value_type]
    if pa.types.is_map(kind):
        return [kind.key_type, kind.item_type]
    return [kind.field(number).type for number in range(kind.num_fields)]


def _plain_field(field: pa.Field) -> pa.Field:
    return field.with_type(plain_type(field.type))


def _plain(column: pa.Array) -> pa.Array:
    kind = plain_type(column.type)
    if kind == column.type:
        return column
    if isinstance(column, pa.ExtensionArray):
        return _plain(column.storage)
    # Arrow casts neither extensions inside of others nor lists that are views themselves; of the latter it makes lists
    # whose offsets are not valid.
    return column.cast(kind) if _casts(column.type) else pa.array(column.to_pylist(), kind)


def _casts(kind: pa.DataType) -> bool:
    special = pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind) or isinstance(kind, pa.BaseExtensionType)
    return not special and all(map(_casts, _parts(kind)))
