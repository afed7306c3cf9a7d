"""Small whole files and the identity of what is made from settings: JSON, row counts, fingerprints."""

import hashlib
import json
import struct
import zipfile
import zlib
from typing import Any

from raypurify.storage import Where, resolve

# What Python raises over a damaged zip, its directory or a member: ValueError where a name is no text.
DAMAGED_ZIP = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, ValueError)


def write_json(where: Where, tree: Any) -> None:
    """Replace a JSON file in one step."""
    resolve(where).write(json.dumps(tree, indent=1).encode() + b"\n")


def read_json(where: Where) -> Any:
    """The content of a JSON file, None where it is missing or not whole. Raises OSError where it cannot be read now:
    a store that is out of reach does not say that there is nothing."""
    try:
        return json.loads(resolve(where).read())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def parquet_rows(where: Where) -> int:
    """How many rows a Parquet file has, by its footer."""
    # Imported late: most who want a JSON file have no use for it.
    import pyarrow.parquet as pq

    with resolve(where).open() as file:
        return pq.read_metadata(file).num_rows


def fingerprint(*parts: Any) -> str:
    """SHA-256 of settings and input digests, the identity of what is made from them.

    >>> fingerprint("a", {"x": 1, "y": 2}) == fingerprint("a", {"y": 2, "x": 1})
    True
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
