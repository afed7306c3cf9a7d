"""What an earlier job left in an output goes before another begins there, and a stop on the way loses nothing.

While it goes, a file says that what is recorded there counts no more (:func:`raypurify.containers.ledger.disown`). It
comes before the first file is removed, so that no shard is taken for committed whose files are gone, and stays until
the next job is recorded; the names of what is still to be removed are recorded to the end. Whoever claims an output
with that file goes on.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from raypurify.containers import ledger
from raypurify.containers.registry import CONTAINERS
from raypurify.containers.rows import stays_below
from raypurify.containers.source import Source
from raypurify.images import SUFFIX
from raypurify.storage import Place


@contextmanager
def begun_anew(out: Place, old: dict | None, source: Source) -> Iterator[None]:
    """Remove what the job ``old`` wrote to an output, None where its record is damaged or gone, and no other file. In
    the block the next job is to be recorded. Raises SinkError where records cannot be read, OSError."""
    names = _names(out, old, source)
    ledger.disown(out)
    # An output may come from others, and its records then name what they like.
    for name in filter(stays_below, names):
        (out / name).delete()
    ledger.forget(out)
    yield
    ledger.own(out)


def _names(out: Place, old: dict | None, source: Source) -> set[str]:
    """The files of an output that a job wrote."""
    container = CONTAINERS.get(old["source"]["kind"]) if old else None
    names = {*(container.written(out) if container else ledger.recorded_outputs(out))}
    if old and container and old["source"]["digest"] == source.digest:
        names.update(container.unfinished(out, source.shards, SUFFIX[old["format"]]))
    return names
