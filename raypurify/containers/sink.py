"""An output of the same container as its source, claimed for one job and committed shard by shard, each exactly once.

A shard's images are written first, its record last (:mod:`raypurify.containers.ledger`). A job killed at any point
leaves shards that are recorded and whole, or not recorded and done again; both ways end in the same bytes.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

import pyarrow as pa

from raypurify.containers import ledger
from raypurify.containers.array_rows import PIECES
from raypurify.containers.contract import Sink
from raypurify.containers.ledger import STATE, Status, Summary
from raypurify.containers.overwriting import begun_anew
from raypurify.containers.patterns import would_name
from raypurify.containers.registry import CONTAINERS
from raypurify.containers.rows import Row, Shard, file_id
from raypurify.containers.source import Source
from raypurify.errors import DataError, ImageError, RaypurifyError, SinkError
from raypurify.images import SUFFIX, check_encoding
from raypurify.storage import Place, overlapping, redact, resolve

# What jobs did that were recorded before these settings were.
_EARLIER = {"drop_failed": True, "image_column": "image", "image_member": None, "compression": "small"}


@dataclass(frozen=True)
class ShardStats:
    """One shard in numbers: ``written`` + ``failed`` = its rows, ``bytes`` of images written, ``reasons`` counts the
    failed by reason."""

    shard: str
    written: int
    failed: int
    flagged: int
    bytes: int
    reasons: Counter[str] = field(default_factory=Counter)


def open_sink(
    uri: str | os.PathLike,
    source: Source,
    *,
    settings: dict,
    format: str = "png",
    compression: str = "small",
    overwrite: bool = False,
    arguments: dict | None = None,
    drop_failed: bool = False,
    alone: bool = True,
) -> Sink:
    """Claim an output for this job, or take up the same job again.

    ``format`` and ``compression`` are those of :func:`raypurify.images.encode_image`.
    ``settings`` is everything else that decides the output's bytes (the bundle's digest among them), JSON values only;
    ``arguments`` are recorded beside it and need not be the same when the job is taken up again.
    How outputs are named says the container of the source: an image of a folder keeps its name but for the suffix, the
    others make one file per shard, named after it, in the sub-folder of its input. ``overwrite`` first removes what an
    earlier job of raypurify has written there, and no other file: one that has the name of an output is refused before,
    so that a source must not grow then (:func:`holds_files`). Where that was ended on the way, whoever claims the
    output next goes on with it, and has to be ``alone`` there. What else a row holds whose image failed is kept, where
    the container can do that, unless ``drop_failed``. A job that was begun while files of its input were damaged
    is the same job when they are mended, and has their shards to do.

    Raises :class:`SinkError` where the output belongs to another job (naming the settings that differ), holds other
    files, cannot be written, or is, holds or lies in the input.

    For a source that grows (:func:`raypurify.containers.source.growing_source`) this is called each time.
    """
    try:
        check_encoding(format, compression)
    except DataError as error:
        raise SinkError(f"{error}") from error
    shown = redact(uri)
    try:
        out = output_of(uri, source)
        container = CONTAINERS[source.kind]
        settings = settings | {"compression": compression}
        if container.has_columns:
            settings = settings | {"image_column": source.image_column}
            if source.id_column:
                settings = settings | {"id_column": source.id_column}
        if container.has_members:
            settings = settings | {"image_member": source.image_member}
        if container.keeps_failed:
            settings = settings | {"drop_failed": drop_failed}
        if container.joining and drop_failed:
            raise SinkError(
                f"{shown}: --drop-failed cannot leave images out of {container.noun}s, which keep their length; leave "
                "it out: errors.parquet will name the images that failed"
            )
        job = {
            "format_version": ledger.FORMAT_VERSION,
            "format": format,
            "source": {
                "kind": source.kind,
                "digest": source.digest,
                "rows": source.rows,
                "shards": len(source.shards),
                "uris": list(source.uris),
                **({"ids": source.ids} if source.ids else {}),
                # Where damaged files are mended, the shards of the others are to be cut as they are now.
                "shard_rows": source.shard_rows,
                **({"damaged": source.damaged} if source.damaged else {}),
                # Work begins before all files are known.
                **({"planned": {"to": source.seen_to, "names": source.names}} if source.seen_to else {}),
            },
            "settings": settings,
            "arguments": arguments or {},
        }
        _claim(out, shown, json.loads(json.dumps(job)), source, overwrite, alone)
    except RaypurifyError:
        raise
    except (OSError, ValueError, ImportError, pa.ArrowException) as error:
        raise SinkError(f"{shown}: cannot be written: {error}; check the path and its permissions") from error
    renamed = container.renamed(source.shards, SUFFIX[format])
    names = tuple(shard.name for shard in source.shards)
    return Sink(
        place=out,
        format=format,
        compression=compression,
        shards=names,
        rows=source.rows,
        ignored=source.ignored,
        renamed=renamed,
        keep_failed=container.keeps_failed and not drop_failed,
        damaged=source.damaged,
        join=container.joining(source.shards, source.joins) if container.joining else None,
    )


def check_claimable(uri: str | os.PathLike, overwrite: bool, inputs: Sequence[str | os.PathLike] = ()) -> None:
    """Raises :class:`SinkError` where a folder cannot become the output of any job, or of one over the ``inputs``, of
    which those count that are named without a pattern."""
    with _reached(uri) as out:
        if not overwrite and out.kind == "folder" and not ledger.disowned(out) and ledger.read_job(out) is None:
            places = []
            for name in inputs:
                # What is the matter with an input, who reads it says.
                with suppress(OSError, ValueError, ImportError):
                    places.append(resolve(name))
            _check_overlap(out, places)
            _check_empty(out, redact(uri))


def holds_files(uri: str | os.PathLike) -> bool:
    """Whether an output holds anything but what jobs record. Raises :class:`SinkError` where it cannot be reached."""
    with _reached(uri) as out:
        return bool({*out.names()} - {STATE})


def output_of(uri: str | os.PathLike, source: Source) -> Place:
    """The folder that an output would be, which may not be there yet. Raises :class:`SinkError` where it is a file, or
    is, holds or lies in the input."""
    with _reached(uri) as out:
        _check_apart(out, source)
        if out.kind == "file":
            raise SinkError(f"{redact(uri)}: is a file; name a folder for the output")
        return out


def recorded_job(uri: str | os.PathLike) -> dict:
    """The job of an output folder, as it was recorded. Raises :class:`SinkError` where it is no output."""
    with _reached(uri) as out:
        return ledger.known_job(out)


def write_shard(sink: Sink, shard: Shard, results: Sequence[tuple[Row, bytes | ImageError, dict | None]]) -> ShardStats:
    """Write one shard and commit it. ``results`` holds each of its rows once, in any order: the row, its encoded image
    or why there is none, and its provenance (the columns of ``ledger.FACTS``).

    Raises :class:`SinkError` where rows are missing, strange or twice, or the output cannot be written.
    """
    results = sorted(results, key=lambda result: result[0].row)
    expected = range(shard.first_row, shard.first_row + shard.rows)
    if [row.row for row, _, _ in results] != list(expected):
        raise SinkError(
            f"shard {shard.name}: got {len(results)} results that are not its {shard.rows} rows, each once; report this"
        )
    try:
        outputs = CONTAINERS[shard.kind].write(sink, shard, [(row, image) for row, image, _ in results])
        good, failed, size = [], [], 0
        for row, image, facts in results:
            output = image if isinstance(image, ImageError) else outputs[row.row]
            if isinstance(output, ImageError):
                failed.append({"id": row.id, "reason": output.reason, "message": _text(output), "shard": shard.name})
            else:
                size += len(image) if isinstance(image, bytes) else 0
                said = dict.fromkeys(ledger.OPTIONAL) | (facts or {})
                good.append({"id": row.id, "output": output, **{name: said[name] for name in ledger.FACTS.names}})
        sink.commit(shard.name, good, failed)
    except RaypurifyError:
        raise
    except OSError as error:
        raise SinkError(f"{sink.place}: cannot write shard {shard.name}: {error}; run again when mended") from error
    return ShardStats(
        shard=shard.name,
        written=len(good),
        failed=len(failed),
        flagged=sum(bool(row["flagged"]) for row in good),
        bytes=size,
        reasons=Counter(row["reason"] for row in failed),
    )


def missing(sink: Sink) -> list[str]:
    """The shards that are not committed."""
    done = set(ledger.committed(sink.place))
    return [name for name in sink.shards if name not in done]


def finish(sink: Sink, alone: bool = True) -> Summary:
    """Write what is of the whole job: the files that shards share, provenance, errors and summary; not
    ``alone``, temporary files stay, as they may be another's.

    Raises :class:`SinkError` while shards are not committed.
    """
    if left := missing(sink):
        raise SinkError(
            f"{sink.place}: {len(left)} of {len(sink.shards)} shards are not done yet, {left[0]} first; "
            "run the same command again"
        )
    try:
        if sink.join:
            sink.join(sink)
        summary = ledger.merge_parts(sink.place, sink.shards, sink.rows, sink.ignored)
        if alone:
            ledger.scratch(sink.place).delete_folder()
            if sink.join and not (pieces := sink.place / PIECES).names():
                pieces.delete_folder()
    except RaypurifyError:
        raise
    except OSError as error:
        raise SinkError(f"{sink.place}: cannot be written: {error}; run again when mended") from error
    # Of an output that could not have its name there is nothing.
    kept = summary.failed - summary.reasons.get("bad-name", 0) if sink.keep_failed else 0
    return replace(summary, kept=kept, unpurified=summary.failed if sink.join else 0, damaged=sink.damaged)


def status(uri: str | os.PathLike) -> Status:
    """How far the job of an output folder is; reads files only. Raises :class:`SinkError` where it is no output."""
    with _reached(uri) as out:
        return ledger.read_status(out)


def reopen_failed(uri: str | os.PathLike) -> list[str]:
    """Let the next run do every shard with failed rows again. Returns the names of these shards."""
    with _reached(uri) as out:
        ledger.known_job(out)
        return ledger.reopen_failed(out)


@contextmanager
def _reached(uri: str | os.PathLike) -> Iterator[Place]:
    """The output that a URI names; trouble on the way to it, then or later in the block, is a SinkError."""
    try:
        yield resolve(uri)
    except RaypurifyError:
        raise
    except (OSError, ValueError, ImportError) as error:
        raise SinkError(f"{redact(uri)}: cannot be reached: {error}; check the path and its permissions") from error


def _text(error: ImageError) -> str:
    return str(error).encode("utf-8", "backslashreplace").decode()


def _check_overlap(out: Place, places: Sequence[Place]) -> None:
    if place := overlapping(out, places):
        raise SinkError(f"{out}: the output and the input {place} overlap; write to a folder beside the input")


def _check_apart(out: Place, source: Source) -> None:
    _check_overlap(out, source.places)
    if pattern := next((uri for uri in source.uris if would_name(uri, out)), None):
        raise SinkError(
            f"{out}: the next run would take the output for an input, as {pattern} fits it; name it otherwise"
        )


def _claim(out: Place, shown: str, job: dict, source: Source, overwrite: bool, alone: bool) -> None:
    old, anew = _standing(out, shown, overwrite)
    if anew and not alone:
        raise SinkError(
            f"{shown}: what an earlier job wrote is removed only in part; run the same command without --shard, which "
            "goes on with it"
        )
    if anew:
        with begun_anew(out, old, source, job["format"]):
            ledger.write_job(out, job)
        return
    if old is not None:
        before = {name: value for name, value in _EARLIER.items() if name in job["settings"]}
        old = old | {"settings": before | old["settings"]}
        damaged, planned = old["source"].get("damaged", {}).keys(), old["source"].get("planned")
        if planned and planned["names"] != source.names:
            raise SinkError(
                f"{shown}: its job was ended before all of its input was known, and files have come or gone since; "
                "choose another output, or replace this one by --overwrite"
            )
        unseen = {path for path in (*source.parts, *source.damaged) if planned and path > planned["to"]}
        if gone := damaged - source.damaged.keys() - source.parts.keys():
            raise SinkError(
                f"{shown}: its job was begun with {min(gone)}, damaged, which is not there any more; put it back, "
                "mended or not, choose another output, or replace this one by --overwrite"
            )
        mended, since = (damaged | unseen) & source.parts.keys(), source.damaged.keys() - damaged - unseen
        if since:
            raise SinkError(
                f"{shown}: belongs to a job that did not leave out {file_id(min(since))}, which cannot be used now: "
                f"{source.damaged[min(since)]}; mend it, choose another output or overwrite"
            )
        seen = job | {"source": job["source"] | {"digest": source.digest_without(mended)}}
        more = bool(mended or planned)
        differences = ledger.differing(_identity(old, more), _identity(seen, more))
        if differences:
            others = ", ".join(differences)
            drops = not job["settings"].get("drop_failed", True) and old["settings"]["drop_failed"]
            remedy = "--drop-failed goes on with it; or " if drops and len(differences) == 1 else ""
            if any(name.startswith("source.digest") for name in differences):
                remedy = "files of its input have changed since: put them back, "
            elif len(differences) == 1 and differences[0].startswith("settings.bundle "):
                remedy = "go on with the --bundle that it was begun with, "
            raise SinkError(
                f"{shown}: belongs to another job, with other {others}; {remedy}"
                "choose another output, or replace this one by --overwrite"
            )
        if not more:
            return
        if strange := {*ledger.committed(out)} - {shard.name for shard in source.shards}:
            raise SinkError(
                f"{shown}: its shard {min(strange)} has another name now that other files are known; choose another "
                "output, or replace this one by --overwrite --strict"
            )
    ledger.write_job(out, job)


def _standing(out: Place, shown: str, overwrite: bool) -> tuple[dict | None, bool]:
    """The job that an output belongs to, and whether all that is recorded there has to go before another begins."""
    anew = overwrite or ledger.disowned(out)
    try:
        old = ledger.read_job(out)
        if old is None and not anew:
            _check_empty(out, shown)
            # Without their job, shards are committed to none; but another part may have begun in this moment.
            if anew := bool(ledger.marked(out)):
                old = ledger.read_job(out)
                anew = old is None
        return old, anew
    except SinkError:
        if not anew:
            raise
        return None, True


def _check_empty(out: Place, shown: str) -> None:
    if set(out.names()) - {STATE}:
        raise SinkError(
            f"{shown}: is not empty and no output of raypurify; "
            "choose another folder, or write beside what is there by --overwrite, which replaces no file of others"
        )


def _identity(job: dict, more: bool) -> dict:
    # What names the rows follows from the input, and how many there are where no file of it is new.
    loose = ("uris", "damaged", "shard_rows", "planned") + (("rows", "shards") if more else ("ids",))
    source = {key: value for key, value in job["source"].items() if key not in loose}
    return {key: value for key, value in job.items() if key != "arguments"} | {"source": source}
