"""Which column of a table holds the images: the one that is named, or the only one that it can be."""

import pyarrow as pa

from raypurify.containers.plain_types import plain_type
from raypurify.errors import SourceError
from raypurify.storage import Place

# Names of image columns in public data sets, in lower case.
_KNOWN = ("image", "img", "jpg", "png", "webp", "jpeg")


def find_image_column(place: Place, schema: pa.Schema, named: str | None) -> str:
    """The column that is ``named``; else ``image``, the one image column of a known name, or the only image column.

    Raises SourceError where there is none or more than one, naming them; :func:`check_column` says whether it serves.
    """
    if named is not None or "image" in schema.names:
        return named or "image"
    images = [field.name for field in schema if is_image(field.type)]
    found = [name for name in images if name.lower() in _KNOWN] or images
    if len(found) > 1:
        raise SourceError(
            f"{place}: its images may be in {' or '.join(found)}; say which: --image-column {found[0]} "
            f"(image_column={found[0]!r} in Python and in a grid)"
        )
    if not found:
        columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
        likely = [field.type for field in schema if field.name.lower().rstrip("s") in _KNOWN]
        hints = "".join(dict.fromkeys(map(_hint, likely)))
        raise SourceError(
            f"{place}: has no column of images; its columns are {columns}; expected one that is binary (the bytes of "
            f"an image file) or a struct with a binary field 'bytes'{hints}"
        )
    return found[0]


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


def _hint(kind: pa.DataType) -> str:
    kind = plain_type(kind)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "; for text, as URLs or base64: put the bytes of the files themselves there (b64decode; img2dataset)"
    if isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType | pa.ListViewType | pa.LargeListViewType):
        return "; for several images in a row: give each a row of its own first (explode in pandas and Polars)"
    return ""
