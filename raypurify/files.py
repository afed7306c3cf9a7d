"""Whole files and their identity: written beside and renamed, JSON read and written, fingerprints of settings."""

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, which takes its place when the block ends: readers see it whole or not at all.

    The folder is made where it is missing. Several processes may write one file; the last to end remains.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with replacing(folder / "a.txt") as temporary:
    ...     _ = temporary.write_text("whole")
    >>> [file.name for file in folder.iterdir()]
    ['a.txt']
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name that no other process has: a killed writer's successor may run beside it for a while.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, tree: Any) -> None:
    """Replace a JSON file in one step."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(tree, indent=1) + "\n", "utf-8")


def read_json(path: Path) -> Any:
    """The content of a JSON file, None where it is missing or not whole."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def fingerprint(*parts: Any) -> str:
    """SHA-256 of settings and input digests, the identity of what is made from them.

    >>> fingerprint("a", {"x": 1, "y": 2}) == fingerprint("a", {"y": 2, "x": 1})
    True
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
