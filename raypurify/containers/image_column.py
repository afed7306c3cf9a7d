"""The images of a table: which column holds them, the one that is named or the only one that it can be, and that
column made anew of others."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypurify.containers.huggingface import image_columns
from raypurify.containers.plain_types import plain_type
from raypurify.errors import SourceError
from raypurify.storage import Place

# Names of image columns in public data sets, in lower case.
_KNOWN = ("image", "img", "jpg", "png", "webp", "jpeg")
_MOST_SHOWN = 100


def find_image_column(place: Place, schema: pa.Schema, named: str | None) -> str:
    """The column that is ``named``; else ``image``, the one image column of a known name, or the only image column, or
    of several the one that is of Hugging Face's type ``Image``.

    Raises SourceError where there is none or more than one, naming them; :func:`check_column` says whether it serves.
    """
    if named is not None or "image" in schema.names:
        return named or "image"
    images = [field.name for field in schema if is_image(field.type)]
    found = likely(images)
    if len(found) > 1 and len(typed := [name for name in image_columns(schema) if name in found]) == 1:
        found = typed
    if len(found) > 1:
        raise SourceError(
            f"{place}: its images may be in {' or '.join(found)}; say which: --image-column {found[0]} "
            f"(image_column={found[0]!r} in Python and in a grid)"
        )
    if not found:
        columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
        kinds = [field.type for field in schema if field.name.lower().rstrip("s") in _KNOWN]
        hints = "".join(dict.fromkeys(map(_hint, kinds)))
        raise SourceError(
            f"{place}: has no column of images; its columns are {columns}; expected one that is binary (the bytes of "
            f"an image file) or a struct with a binary field 'bytes'{hints}"
        )
    return found[0]


def likely(columns: list[str]) -> list[str]:
    """The columns of a known name among those that can be images; all of them where none has one.

    >>> likely(["cls", "JPG"]), likely(["thumbnail", "photo"])
    (['JPG'], ['thumbnail', 'photo'])
    """
    return [name for name in columns if name.lower() in _KNOWN] or columns


def check_names(place: Place, schema: pa.Schema) -> None:
    """Raises SourceError where two columns have one name."""
    for name in schema.names:
        if (count := schema.names.count(name)) > 1:
            raise SourceError(f"{place}: has {count} columns named {name!r}; rename one of them")


def check_column(place: Place, schema: pa.Schema, column: str) -> None:
    """Raises SourceError where ``column`` is missing or holds no image files."""
    if column not in schema.names:
        raise SourceError(
            f"{place}: has no column {column!r}; its columns are {', '.join(schema.names)}; "
            "name the one that holds the image files with --image-column (image_column in Python and in a grid)"
        )
    kind = schema.field(column).type
    if not is_image(kind):
        others = [field.name for field in schema if is_image(field.type)]
        named = f"; if the images are in {' or '.join(others)}, say so: --image-column {others[0]}" if others else ""
        raise SourceError(
            f"{place}: column {column!r} is {kind}; expected binary (the bytes of an image file) "
            f"or a struct with a binary field 'bytes'{_hint(kind)}{named}"
        )


def is_image(kind: pa.DataType) -> bool:
    """Whether values of this type can be the bytes of image files."""
    kind = plain_type(kind)
    inner = kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
    return pa.types.is_binary(inner) or pa.types.is_large_binary(inner)


def files_and_paths(column: pa.Array) -> tuple[pa.Array, pa.Array]:
    """The bytes of the image files of a column, and the paths, as bytes, that Hugging Face's structs may have instead.

    >>> [part.to_pylist() for part in files_and_paths(pa.array([{"bytes": None, "path": "1.png"}, None]))]
    [[None, None], [b'1.png', None]]
    """
    if not pa.types.is_struct(column.type):
        return column, pa.nulls(len(column))
    at = column.type.get_field_index("path")
    named = at >= 0 and (pa.types.is_string(column.type[at].type) or pa.types.is_large_string(column.type[at].type))
    paths = pc.struct_field(column, "path").cast(pa.large_binary()) if named else pa.nulls(len(column))
    return pc.struct_field(column, "bytes"), paths


def nothing_there(path: bytes | None) -> str:
    """What is wrong with a row that has no bytes, but may have a path."""
    if not path:
        return "holds no image bytes"
    shown = path.decode("utf-8", "replace")
    return (
        f"holds no image bytes, only the path {shown[:_MOST_SHOWN]!r}; put the files themselves there "
        "(embed_table_storage of datasets.table)"
    )


def _hint(kind: pa.DataType) -> str:
    kind = plain_type(kind)
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return _hint(kind.field("bytes").type)
    if pa.types.is_dictionary(kind):
        plain = "; write it without a dictionary first (astype(object) in pandas, cast('binary') in PyArrow)"
        return _hint(kind.value_type) or plain
    if pa.types.is_fixed_size_binary(kind):
        return "; for values of one length: write them as binary first (cast('binary') in PyArrow)"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "; for text, as URLs or base64: put the bytes of the files themselves there (b64decode; img2dataset)"
    if isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType | pa.ListViewType | pa.LargeListViewType):
        return "; for several images in a row: give each a row of its own first (explode in pandas and Polars)"
    return ""


def image_values(field: pa.Field, images: list[bytes | None], old: pa.ChunkedArray | None) -> pa.Array:
    """The images as a column, None for those that failed; the fields of a struct besides them are those of ``old``."""
    if not pa.types.is_struct(field.type):
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
