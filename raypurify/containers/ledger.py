"""What a job keeps beside its output, in ``OUT/_raypurify``: whose output it is, what is done, what became of each row.

    job.json                       the job: source, settings, format; another job may not write here
    plan/*.arrow                   what was found in the files of the input (:mod:`raypurify.containers.looking`)
    lease*.json                    who is writing here now (:mod:`raypurify.containers.lease`)
    overwriting                    there while what is recorded here is being removed, and counts no more
    pixels/, arrays.json           images of arrays before these are joined (:mod:`raypurify.containers.array_files`)
    errors/<shard>.parquet         the rows of a shard that could not be purified
    provenance/<shard>.parquet     what was done to the others; written last, so it marks the shard as committed
    provenance.parquet, errors.parquet, summary.json      the same for the whole job, once every shard is committed

Nothing in these files but ``plan`` depends on when, where or in which order the shards were worked on.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raypurify.containers.rows import named_by_id
from raypurify.errors import RaypurifyError, SinkError
from raypurify.storage import Place, overlapped

STATE, LEASE, PLAN = "_raypurify", "lease", "plan"
_JOB, _DISOWNED = "job.json", "overwriting"
FORMAT_VERSION = 1
PROVENANCE = pa.schema(
    [
        ("id", pa.string()),
        ("cluster", pa.int32()),
        ("class", pa.string()),
        ("distance", pa.float32()),
        ("flagged", pa.bool_()),
        ("relative_change", pa.float32()),
        ("iterations", pa.int32()),
        ("mode", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("bundle", pa.string()),
        ("output", pa.string()),
        ("region", pa.list_(pa.int32())),
        ("region_share", pa.float32()),
    ]
)
# What not every method says; in parts of jobs that were begun before there were such, they are missing.
OPTIONAL = ("region", "region_share")
# What a purifier says of an image.
FACTS = pa.schema([field for field in PROVENANCE if field.name not in ("id", "output")])
ERRORS = pa.schema([("id", pa.string()), ("reason", pa.string()), ("message", pa.string()), ("shard", pa.string())])
_MERGE_ROWS = 1 << 16
# So many footers are read at once, of a store by as many connections as pyarrow has to it.
_FOOTERS = 24
# What job.json says, or follows from the settings.
_UNRECORDED = ("first", "passed_over", "kept", "unpurified", "damaged")


@dataclass(frozen=True)
class Summary:
    """A whole job in numbers: ``rows`` = ``written`` + ``failed``; ``reasons`` counts the failed by reason; ``flagged``
    lie further from every cluster than the calibrated clean images; ``mean_relative_change`` over the written.
    ``first`` names the first of each reason that failed, ``passed_over`` says of what was ``ignored`` how much it was
    by its reason, ``kept`` how many of the failed stand in the output without their image, ``unpurified`` how many as
    they were, ``damaged`` why files of the input cannot be used; none of these is recorded."""

    rows: int
    written: int
    failed: int
    flagged: int
    ignored: int
    shards: int
    reasons: dict[str, int]
    classes: dict[str, int]
    mean_relative_change: float | None
    first: dict[str, str] = field(default_factory=dict)
    passed_over: dict[str, int] = field(default_factory=dict)
    kept: int = 0
    unpurified: int = 0
    damaged: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Status:
    """How far a job is: counts over the committed shards, and the job as it was recorded."""

    job: dict
    shards: int
    committed: int
    rows: int
    written: int
    failed: int

    @property
    def complete(self) -> bool:
        """Whether every shard is committed, of all files of the input."""
        return self.committed == self.shards and not self.growing

    @property
    def growing(self) -> bool:
        """Whether there are files of the input that the job had not looked into yet."""
        return "planned" in self.job["source"]


def to_bytes(table: pa.Table, **options: Any) -> bytes:
    """The bytes of a Parquet file of ``table``; ``options`` are those of ``pyarrow.parquet.write_table``."""
    out = pa.BufferOutputStream()
    pq.write_table(table, out, **options)
    return out.getvalue().to_pybytes()


def read_job(out: Place) -> dict | None:
    """The job recorded in an output, None where there is none. Raises :class:`SinkError` on a damaged record."""
    file = out / STATE / _JOB
    if file.kind is None:
        return None
    try:
        job = json.loads(file.read())
        if job["format_version"] != FORMAT_VERSION:
            version = job["format_version"]
            shown = version if isinstance(version, int) else "of another kind"
            raise SinkError(f"{file}: format version {shown}, this raypurify knows {FORMAT_VERSION}; upgrade it")
        if not all(isinstance(job[part], dict) for part in ("source", "settings")):
            raise TypeError("of another form")
        if not all(isinstance(job["source"][count], int) for count in ("shards", "rows")):
            raise TypeError("of another form")
        return job
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        # Not what the error says: it may hold the bytes of whatever file this is.
        raise SinkError(
            f"{file}: is damaged ({type(error).__name__}); choose another output, or replace this one by --overwrite"
        ) from error


def known_job(out: Place) -> dict:
    """The job recorded in an output of raypurify. Raises :class:`SinkError` where there is none, it is damaged, or it
    is being replaced by another."""
    if disowned(out):
        raise SinkError(
            f"{out}: what an earlier job wrote here is being removed by --overwrite; wait for its end, or run the same "
            "purify command again if it was ended"
        )
    job = read_job(out)
    if job is None:
        raise SinkError(f"{out}: holds no {STATE}/{_JOB}, so it is no output of raypurify; check the path")
    return job


def write_job(out: Place, job: dict) -> None:
    """Record the job that an output belongs to, whole or not at all."""
    text = json.dumps(job, indent=2, sort_keys=True) + "\n"
    (out / STATE / _JOB).write(text.encode(), scratch(out))


def differing(old: dict, new: dict, prefix: str = "") -> list[str]:
    """The settings in which two jobs differ, as ``dotted.key (old → new)``.

    >>> differing({"a": {"b": 1, "c": 2}}, {"a": {"b": 3, "c": 2}})
    ['a.b (1 → 3)']
    """
    found = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differing(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key} ({_short(before)} → {_short(after)})")
    return found


def scratch(out: Place) -> Place:
    """The folder of an output's temporary files, each of which is renamed into place or left by a kill."""
    return out / STATE / "tmp"


def marker(out: Place, shard: str) -> Place:
    """The provenance of one shard, whose presence says that the shard is committed."""
    return out / STATE / "provenance" / f"{shard}.parquet"


def errors_part(out: Place, shard: str) -> Place:
    """The table of one shard's rows that could not be purified."""
    return out / STATE / "errors" / f"{shard}.parquet"


def disown(out: Place) -> None:
    """From now on, and until :func:`own`, nothing that is recorded in an output counts."""
    (out / STATE / _DISOWNED).write(b"run the purify command again that was ended\n", scratch(out))


def disowned(out: Place) -> bool:
    """Whether what is recorded in an output counts no more, as it is being removed, or was when that was ended."""
    return (out / STATE / _DISOWNED).kind is not None


def own(out: Place) -> None:
    """What is recorded in an output counts again."""
    (out / STATE / _DISOWNED).delete()


def forget(out: Place) -> None:
    """Remove every record of an output but that of its job, which the next one replaces, and the lease of who is about
    to write there."""
    for name in (out / STATE).names():
        if name not in (_JOB, _DISOWNED) and not name.startswith(LEASE):
            (out / STATE / name).delete()
            (out / STATE / name).delete_folder()


def commit(out: Place, shard: str, provenance: list[dict], errors: list[dict]) -> None:
    """Record a shard whose output is in place. After this call, and not before, the shard counts as done."""
    errors_part(out, shard).write(to_bytes(pa.Table.from_pylist(errors, ERRORS)), scratch(out))
    marker(out, shard).write(to_bytes(pa.Table.from_pylist(provenance, PROVENANCE)), scratch(out))


def merge_parts(out: Place, shards: Sequence[str], rows: int, ignored: dict[str, int]) -> Summary:
    """Join the parts of all ``shards`` into one provenance, one errors table and the summary, and return it. One row
    group at a time is in memory.

    Raises :class:`SinkError` where a part cannot be read, or they do not hold all ``rows``.
    """
    reasons: Counter[str] = Counter()
    first: dict[str, str] = {}
    classes: Counter[str] = Counter()
    change, flagged = 0.0, 0
    written = failed = 0
    for name, schema, part in (("provenance", PROVENANCE, marker), ("errors", ERRORS, errors_part)):
        with (out / STATE / f"{name}.parquet").writing(scratch(out)) as file, pq.ParquetWriter(file, schema) as writer:
            held: list[pa.Table] = []
            waiting = 0
            places = [part(out, shard) for shard in shards]
            for table in overlapped(partial(_read_part, schema=schema), places):
                # Most tables of errors are empty, and as many as there are shards.
                held += [table] * bool(len(table))
                waiting += len(table)
                if name == "provenance":
                    written += len(table)
                    flagged += pc.sum(table["flagged"]).as_py() or 0
                    change += pc.sum(pc.cast(table["relative_change"], pa.float64())).as_py() or 0.0
                    classes.update(name for name in table["class"].to_pylist() if name is not None)
                else:
                    failed += len(table)
                    reasons.update(table["reason"].to_pylist())
                    for reason, name in zip(table["reason"].to_pylist(), table["id"].to_pylist()):
                        first.setdefault(reason, name)
                if waiting >= _MERGE_ROWS:
                    writer.write_table(pa.concat_tables(held))
                    held, waiting = [], 0
            writer.write_table(pa.concat_tables([schema.empty_table(), *held]))
    if written + failed != rows:
        raise SinkError(
            f"{out}: the parts hold {written + failed} rows, the source {rows}; purify again with --overwrite"
        )
    summary = Summary(
        rows=rows,
        written=written,
        failed=failed,
        flagged=flagged,
        ignored=sum(ignored.values()),
        shards=len(shards),
        reasons=dict(sorted(reasons.items())),
        classes=dict(sorted(classes.items())),
        mean_relative_change=change / written if written else None,
        first=first,
        passed_over=ignored,
    )
    recorded = {name: value for name, value in asdict(summary).items() if name not in _UNRECORDED}
    text = json.dumps(recorded, indent=2, ensure_ascii=False) + "\n"
    (out / STATE / "summary.json").write(text.encode(), scratch(out))
    return summary


def committed(out: Place) -> list[str]:
    """The names of the shards of an output that are committed, with all that is recorded of them."""
    whole = {*_shards(out / STATE / "errors")}
    return [shard for shard in marked(out) if shard in whole]


def marked(out: Place) -> list[str]:
    """The names of the shards of an output of which there is a provenance."""
    return _shards(out / STATE / "provenance")


def read_counts(out: Place, shard: str) -> tuple[int, Counter[str]]:
    """How many rows of a committed shard were written, and how many failed by reason. Raises :class:`SinkError` where
    that cannot be read."""
    failed = _read_part(errors_part(out, shard), ERRORS)
    with _opened(marker(out, shard)) as written:
        return written.metadata.num_rows, Counter(failed["reason"].to_pylist())


def read_status(out: Place) -> Status:
    """How far the job of an output is. Raises :class:`SinkError` where the folder is no output of raypurify."""
    job = known_job(out)
    shards = committed(out)
    written = sum(_counts(out / STATE / "provenance", PROVENANCE, shards).values())
    failed = sum(_counts(out / STATE / "errors", ERRORS, shards).values())
    return Status(job, job["source"]["shards"], len(shards), job["source"]["rows"], written, failed)


def reopen_failed(out: Place) -> list[str]:
    """Take back the commit of every shard with failed rows, so that the next run does it again. Returns their names."""
    shards = _shards(out / STATE / "errors")
    reopened = sorted(_counts(out / STATE / "errors", ERRORS, shards))
    for shard in reopened:
        marker(out, shard).delete()
    return reopened


def recorded_outputs(out: Place) -> list[str]:
    """The files that the recorded shards of an output have written, of which their provenance has the ids."""
    parts = [marker(out, shard) for shard in marked(out)]
    tables = overlapped(partial(_read_part, schema=PROVENANCE), parts)
    ids = (identity for table in tables for identity in dict.fromkeys(table["output"].to_pylist()))
    return [name if (name := named_by_id(one)) == one or (out / name).kind else one for one in ids]


def _shards(folder: Place) -> list[str]:
    return [name.removesuffix(".parquet") for name in folder.names() if name.endswith(".parquet")]


def _read_part(place: Place, schema: pa.Schema) -> pa.Table:
    with _opened(place) as file:
        table = file.read()
    for name in OPTIONAL:
        if name in schema.names and name not in table.column_names:
            table = table.append_column(schema.field(name), pa.nulls(len(table), schema.field(name).type))
    return table.cast(schema)


def _counts(folder: Place, schema: pa.Schema, shards: Sequence[str]) -> dict[str, int]:
    """The rows of the parts of those shards, where there are some. A part of an empty one's size is not opened."""
    empty = len(to_bytes(schema.empty_table()))
    names = {f"{shard}.parquet": shard for shard in shards}
    found = folder.entries() if folder.kind == "folder" else ()
    sizes = {name: stamp[0] for name, stamp in found if name in names and isinstance(stamp, tuple)}
    # Damaged, should it be gone: its shard is committed.
    asked = [(folder / name, sizes.get(name, 0)) for name in names if sizes.get(name) != empty]
    counts = overlapped(lambda part: _count(*part), asked, at_once=_FOOTERS)
    return {names[place.name]: count for (place, _), count in zip(asked, counts) if count}


def _count(place: Place, size: int) -> int:
    if place.remote is None:
        with _opened(place) as file:
            return file.metadata.num_rows
    from pyarrow.dataset import ParquetFileFormat

    with _readable(place):
        # A store is asked once where the size is known.
        return ParquetFileFormat().make_fragment(place.path, place.remote, file_size=size).metadata.num_rows


@contextmanager
def _opened(place: Place) -> Iterator[pq.ParquetFile]:
    # Whole: a part is small, and a store is asked for every piece of it.
    with _readable(place), pq.ParquetFile(pa.BufferReader(place.read())) as file:
        yield file


@contextmanager
def _readable(place: Place) -> Iterator[None]:
    try:
        yield
    except RaypurifyError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise SinkError(f"{place}: cannot be read ({error}); delete this file and run the job again") from error


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else text[:20] + "…"
