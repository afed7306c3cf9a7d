"""Small whole files and the identity of what is made from settings: JSON, row counts, fingerprints."""

import hashlib
import json
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from raypurify.errors import RaypurifyError, SourceError, of_file
from raypurify.storage import Where, resolve

if TYPE_CHECKING:
    import pyarrow.parquet

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
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None


def read_object(where: Where) -> dict[str, Any] | None:
    """The object in a JSON file, None where the file is missing. Raises ValueError, which says why, where it is damaged
    or holds anything else, OSError as ``read_json``."""
    try:
        found = json.loads(resolve(where).read())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except RecursionError as e:
        raise ValueError("it is too deep") from e
    if not isinstance(found, dict):
        raise ValueError("it holds no JSON object")
    return found


@contextmanager
def reading(file: Where) -> Iterator[None]:
    """Turn what is wrong with a file that a stage wrote, and that the block reads, into a SourceError that names it."""
    try:
        yield
    except (RaypurifyError, MemoryError):
        raise
    except Exception as e:  # Arrow, numpy, safetensors and torch have many
        raise SourceError(
            f"{file}: cannot be read: {of_file(e)}; where it is damaged, delete the folder of the stage that wrote it, "
            "and run the same command again"
        ) from e


@contextmanager
def open_parquet(where: Where, columns: Sequence[str] = ()) -> "Iterator[pyarrow.parquet.ParquetFile]":
    """A Parquet file that a stage wrote, opened to be read in the block. Raises SourceError as ``reading``, and where
    it lacks one of ``columns``."""
    # Imported late: most who want a JSON file have no use for it.
    import pyarrow.parquet as pq

    place = resolve(where)
    with reading(place), place.open() as opened, pq.ParquetFile(opened, buffer_size=1 << 20) as file:
        for name in columns:
            file.schema_arrow.field(name)
        yield file


def parquet_rows(where: Where) -> int:
    """How many rows a Parquet file that a stage wrote has, by its footer. Raises SourceError where it is damaged."""
    with open_parquet(where) as file:
        return file.metadata.num_rows


def fingerprint(*parts: Any) -> str:
    """SHA-256 of settings and input digests, the identity of what is made from them.

    >>> fingerprint("a", {"x": 1, "y": 2}) == fingerprint("a", {"y": 2, "x": 1})
    True
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
