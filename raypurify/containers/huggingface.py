"""What Hugging Face's library says of the columns of a table, in the metadata of its schema."""

import json
from typing import Any

import pyarrow as pa


def features(schema: pa.Schema) -> dict[str, Any]:
    """The features by their column; none where the schema is no such, or its metadata is of another form."""
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def class_names(schema: pa.Schema, column: str) -> list[str]:
    """The names of the classes that a column holds the numbers of; none where there are none."""
    feature = features(schema).get(column)
    names = feature.get("names") if isinstance(feature, dict) else None
    return [str(name) for name in names] if isinstance(names, list) else []


def image_columns(schema: pa.Schema) -> list[str]:
    """The columns of the type ``Image``."""
    return [
        name for name, about in features(schema).items() if isinstance(about, dict) and about.get("_type") == "Image"
    ]
