"""What one file of a container holds, as plain data: found once, kept as an Arrow file, merged into a plan with others.

A look holds JSON values and Arrow arrays, so that it can be sent to another process and kept on disk without being
code; only the container that made it knows what they mean.
"""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from raypurify.errors import SourceError
from raypurify.storage import Stamp

_STAMP = pa.list_(pa.int64(), 2)
_PLAIN = pa.schema(
    [
        ("path", pa.binary()),
        ("listed", _STAMP),
        ("stamp", _STAMP),
        ("digest", pa.string()),
        ("rows", pa.int64()),
        ("passed", pa.string()),
        ("facts", pa.string()),
    ]
)
_ARRAY, _MARK = "array ", b"mark"


@dataclass(frozen=True)
class Asked:
    """What is asked of every file of an input: their classes too where ``labels``. ``image_member`` names the
    extensions of a tar's members that are images, None where their names tell; ``id_column`` and ``label_column`` are
    those of tables, None where they are called ``id`` and ``label``."""

    labels: bool = True
    image_member: str | None = None
    id_column: str | None = None
    label_column: str | None = None


@dataclass(frozen=True)
class Look:
    """One file as it was looked into: ``stamp`` is that of the file then, ``digest`` tells its content from another as
    far as it is cheap to read, ``rows`` is how many it holds, ``passed`` counts by its reason what inside of it is no
    part of any row. ``facts`` (JSON values) and ``arrays`` are the container's own."""

    stamp: Stamp
    digest: str
    rows: int
    passed: dict[str, int] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, pa.Array] = field(default_factory=dict)


# By the path of a file: the stamp that it was listed with, and what was found in it.
Looks = dict[str, tuple[Stamp, Look]]


def looks_to_bytes(looks: Looks, mark: str) -> bytes:
    """An Arrow IPC stream of looks of one container, a row for each with its arrays as lists, and behind it the SHA-256
    of its bytes. ``mark`` says how they were made."""
    rows = [
        {
            "path": path.encode("utf-8", "surrogateescape"),
            "listed": listed,
            "stamp": look.stamp,
            "digest": look.digest,
            "rows": look.rows,
            "passed": json.dumps(look.passed),
            "facts": json.dumps(look.facts),
        }
        for path, (listed, look) in looks.items()
    ]
    columns = dict(zip(_PLAIN.names, pa.RecordBatch.from_pylist(rows, _PLAIN).columns))
    held = [look.arrays for _, look in looks.values()]
    for name in dict.fromkeys(name for arrays in held for name in arrays):
        columns[_ARRAY + name] = _lists([arrays.get(name) for arrays in held])
    batch = pa.record_batch(columns, metadata={_MARK: mark})
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, batch.schema) as writer:
        writer.write_batch(batch)
    data = out.getvalue().to_pybytes()
    return data + hashlib.sha256(data).digest()


def looks_from_bytes(data: bytes, mark: str) -> Looks:
    """What :func:`looks_to_bytes` has written. Raises SourceError where it is damaged, or has another ``mark``."""
    if hashlib.sha256(data[:-32]).digest() != data[-32:]:
        raise SourceError("what was found in the input is kept in a file that is damaged; delete it")
    try:
        batch = pa.ipc.open_stream(data).read_next_batch()
        if (batch.schema.metadata or {}).get(_MARK) != mark.encode():
            raise SourceError("what was found in the input was found in another way; delete the file that keeps it")
        arrays = {name.removeprefix(_ARRAY): batch[name] for name in batch.schema.names[len(_PLAIN) :]}
        looks: Looks = {}
        for number, row in enumerate(batch.select(_PLAIN.names).to_pylist()):
            held = {name: column[number].values for name, column in arrays.items() if column[number].is_valid}
            facts, passed = json.loads(row["facts"]), json.loads(row["passed"])
            look = Look(tuple(row["stamp"]), row["digest"], row["rows"], passed, facts, held)
            looks[row["path"].decode("utf-8", "surrogateescape")] = tuple(row["listed"]), look
        return looks
    except SourceError:
        raise
    except (pa.ArrowException, ValueError, TypeError, KeyError, OSError) as error:
        raise SourceError(
            f"what was found in the input is kept in a file of another form: {error}; delete it"
        ) from error


def _lists(arrays: list[pa.Array | None]) -> pa.LargeListArray:
    """A column of those arrays, null where there is none."""
    present = [array for array in arrays if array is not None]
    ends = np.cumsum([0, *(0 if array is None else len(array) for array in arrays)])
    missing = pa.array([array is None for array in arrays])
    return pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), pa.concat_arrays(present), mask=missing)
