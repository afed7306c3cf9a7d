"""What an earlier job left in an output goes before another begins there; files of others stay, and a stop on the way
loses nothing.

While it goes, a file says that what is recorded there counts no more (:func:`raypurify.containers.ledger.disown`). It
comes before the first file is removed, so that no shard is taken for committed whose files are gone, and stays until
the next job is recorded; the names of what is still to be removed are recorded to the end. Whoever claims an output
with that file goes on.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from raypurify.containers import ledger
from raypurify.containers.ledger import STATE
from raypurify.containers.registry import CONTAINERS
from raypurify.containers.rows import stays_below
from raypurify.containers.source import Source
from raypurify.errors import SinkError
from raypurify.images import SUFFIX
from raypurify.storage import Place, Stamp

# What stands in an output, by its path there; no stamp of what is no file to read.
There = Mapping[str, Stamp | str]


@contextmanager
def begun_anew(out: Place, old: dict | None, source: Source, format: str) -> Iterator[None]:
    """Remove what the job ``old`` wrote to an output, None where its record is damaged or gone, and no other file. In
    the block the next job is to be recorded.

    Raises SinkError where the next job, of the ``source`` and ``format``, would write over a file of others, or records
    cannot be read, OSError where the output cannot be listed or written.
    """
    # Below links to folders as well: the next job would write there.
    found = out.walk({}) if out.kind == "folder" else ()
    there = {path: stamp for path, stamp in found if not path.startswith(f"{STATE}/")}
    names = _of_job(out, old, source, there)
    _check_others(out, there, names, source, format)
    ledger.disown(out)
    for name in names:
        (out / name).delete()
    ledger.forget(out)
    yield
    ledger.own(out)


def _of_job(out: Place, old: dict | None, source: Source, there: There) -> set[str]:
    """The files of an output that a job wrote."""
    container = CONTAINERS.get(old["source"]["kind"]) if old else None
    names = {*(container.written(out) if container else ledger.recorded_outputs(out))}
    if old and container and old["source"]["digest"] == source.digest:
        # Those of shards that were not committed too.
        names.update(there.keys() & container.outputs(source.shards, source.joins, SUFFIX[old["format"]]))
    # An output may come from others, and its records then name what they like.
    return {*filter(stays_below, names)}


def _check_others(out: Place, there: There, names: Collection[str], source: Source, format: str) -> None:
    """Raises SinkError where a file that stays has the name of an output. What is not older than the record of a job
    may be of a shard that was not committed."""
    job = out / STATE / "job.json"
    since = job.stamp[1] if job.kind == "file" else None
    for name in CONTAINERS[source.kind].outputs(source.shards, source.joins, SUFFIX[format]):
        stamp = there.get(name)
        if stamp is None or name in names or (since is not None and not isinstance(stamp, str) and stamp[1] >= since):
            continue
        raise SinkError(
            f"{out / name}: no job of raypurify wrote this file, and an output is to have its name; move it away, or "
            "choose another output"
        )
