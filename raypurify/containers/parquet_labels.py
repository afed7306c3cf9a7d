"""The classes of Parquet files, from their columns ``label`` and ``label_name``, or the one that is named, or what
Hugging Face says of them."""

import pyarrow as pa
import pyarrow.parquet as pq

from raypurify.containers.huggingface import class_names
from raypurify.containers.plain_types import plain_batch, plain_type
from raypurify.errors import SourceError
from raypurify.storage import Place

_MAX_CLASSES = 100_000
Pair = tuple[int | str | None, str | None]


def label_pairs(file: pq.ParquetFile, place: Place, named: str | None) -> set[Pair]:
    """The pairs of label and name that a file holds, of the column that is ``named`` without names.

    Raises SourceError where the named one is not there, or it or a column ``label`` holds what is no label.
    """
    schema = file.schema_arrow
    if named is not None and named not in schema.names:
        raise SourceError(
            f"{place}: has no column {named!r}; its columns are {', '.join(schema.names)}; name the one that holds the "
            "labels with --label-column (label_column in Python and in a grid)"
        )
    column = named or "label"
    if column in schema.names and not _is_label(kind := schema.field(column).type):
        raise SourceError(
            f"{place}: column {column!r} is {kind}; expected integers or strings for labels: convert it, or name "
            "another with --label-column (label_column in Python and in a grid)"
        )
    asked = ("label", "label_name") if named is None else (named,)
    names = [name for name in asked if name in schema.names and _is_label(schema.field(name).type)]
    pairs: set[Pair] = set()
    if names:
        for batch in map(plain_batch, file.iter_batches(1 << 16, columns=names)):
            table = pa.table([_plain(batch[name]) for name in names], names).group_by(names).aggregate([])
            held = {name: table[name].to_pylist() for name in names}
            pairs |= set(zip(*(held.get(name, [None] * len(table)) for name in (column, "label_name"))))
    return pairs


def _is_label(kind: pa.DataType) -> bool:
    kind = plain_type(kind.value_type if pa.types.is_dictionary(kind) else kind)
    return pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def classes_of(pairs: set, schema: pa.Schema, root: Place, column: str = "label") -> tuple[str, ...] | None:
    """The names of the classes in order of their index, None without labels, of which ``column`` is said to hold some.

    Raises SourceError where labels are mixed or too large, or a class has two names.
    """
    labels = {label for label, _ in pairs if label is not None}
    if not labels:
        return tuple(sorted({str(name) for _, name in pairs if name is not None})) or None
    if all(isinstance(label, str) for label in labels):
        return tuple(sorted(labels))
    if any(isinstance(label, str) or label >= _MAX_CLASSES for label in labels):
        raise SourceError(f"{root}: column {column!r} must hold class indices below {_MAX_CLASSES:,} or class names")
    named: dict[int, str] = {}
    for label, name in pairs:
        if label is not None and name is not None and label >= 0 and named.setdefault(label, str(name)) != str(name):
            both = " and ".join(sorted(repr(str(n)) for l, n in pairs if l == label))  # noqa: E741
            raise SourceError(f"{root}: label {label} has more than one name: {both}; give each class one name")
    known = class_names(schema, column) if not named else []
    count = max(max(labels) + 1, len(known))
    return tuple(known[i] if i < len(known) else named.get(i, str(i)) for i in range(count)) or None
