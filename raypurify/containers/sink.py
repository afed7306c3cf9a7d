"""Rows → the same container as the source, committed shard by shard, each exactly once.

A shard's images are written first, its record last (:mod:`raypurify.containers.ledger`). A job killed at any point
leaves shards that are recorded and whole, or not recorded and done again; both ways end in the same bytes.
"""

import copy
import io
import json
import os
import posixpath
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raypurify.containers import ledger
from raypurify.containers.ledger import STATE, Status, Summary
from raypurify.containers.parquet import open_file, read_batches
from raypurify.containers.rows import Row, Shard, file_id
from raypurify.containers.source import Source
from raypurify.containers.webdataset import read_samples
from raypurify.errors import ImageError, SinkError
from raypurify.images import SUFFIX
from raypurify.storage import Place, overlapped, redact, resolve, within


@dataclass(frozen=True)
class Sink:
    """An output that belongs to one job. ``renamed`` holds the few output names that are not stem + suffix."""

    place: Place
    kind: str
    format: str
    shards: tuple[str, ...]
    rows: int
    ignored: int
    renamed: dict[str, str]


@dataclass(frozen=True)
class ShardStats:
    """One shard in numbers: ``written`` + ``failed`` = its rows, ``bytes`` of images written."""

    shard: str
    written: int
    failed: int
    flagged: int
    bytes: int


def open_sink(
    uri: str | os.PathLike,
    source: Source,
    *,
    settings: dict,
    format: str = "png",
    overwrite: bool = False,
    arguments: dict | None = None,
) -> Sink:
    """Claim an output for this job, or take up the same job again.

    ``settings`` is everything else that decides the output's bytes (the bundle's digest among them), JSON values only;
    ``arguments`` are recorded beside it and need not be the same when the job is taken up again.
    **Folder:** ``a/b.jpg`` becomes ``a/b.png``; where two inputs would meet (``b.jpg``, ``b.bmp``), the one that
    already has the suffix keeps its name, the others become ``b.jpg.png``. **Parquet, WebDataset:** one file per
    shard, named after it, in the sub-folder of its input. ``overwrite`` first removes what an earlier job of raypurify
    has committed there, and no other file.

    Raises :class:`SinkError` where the output belongs to another job (naming the settings that differ), holds other
    files, cannot be written, or is, holds or lies in the input.
    """
    if format not in SUFFIX:
        raise SinkError(f"unknown image format {format!r}; use one of {', '.join(SUFFIX)}")
    shown = redact(uri)
    try:
        out = output_of(uri, source)
        job = {
            "format_version": ledger.FORMAT_VERSION,
            "format": format,
            "source": {
                "kind": source.kind,
                "digest": source.digest,
                "rows": source.rows,
                "shards": len(source.shards),
                "uris": list(source.uris),
            },
            "settings": settings,
            "arguments": arguments or {},
        }
        _claim(out, shown, json.loads(json.dumps(job)), overwrite)
    except (OSError, ValueError, ImportError, pa.ArrowException) as error:
        raise SinkError(f"{shown}: cannot be written: {error}; check the path and its permissions") from error
    renamed = _renamed([path for shard in source.shards for path in shard.paths], SUFFIX[format])
    names = tuple(shard.name for shard in source.shards)
    return Sink(out, source.kind, format, names, source.rows, source.ignored, renamed)


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
    or why there is none, and its provenance (the columns of ``ledger.PROVENANCE`` but ``id`` and ``output``).

    Raises :class:`SinkError` where rows are missing, strange or twice, or the output cannot be written.
    """
    results = sorted(results, key=lambda result: result[0].row)
    expected = range(shard.first_row, shard.first_row + shard.rows)
    if [row.row for row, _, _ in results] != list(expected):
        raise SinkError(f"shard {shard.name}: got {len(results)} results that are not its {shard.rows} rows, each once")
    good = [(row, data, facts) for row, data, facts in results if not isinstance(data, ImageError)]
    errors = [
        {"id": row.id, "reason": data.reason, "message": _text(data), "shard": shard.name}
        for row, data, _ in results
        if isinstance(data, ImageError)
    ]
    try:
        outputs = _WRITERS[sink.kind](sink, shard, results)
        provenance = [
            {"id": row.id, "output": outputs[row.row], **{name: facts[name] for name in _FACTS}}
            for row, _, facts in good
        ]
        ledger.commit(sink.place, shard.name, provenance, errors)
    except OSError as error:
        raise SinkError(f"{sink.place}: cannot write shard {shard.name}: {error}; run again when mended") from error
    return ShardStats(
        shard=shard.name,
        written=len(good),
        failed=len(errors),
        flagged=sum(bool(facts["flagged"]) for _, _, facts in good),
        bytes=sum(len(data) for _, data, _ in good),
    )


def missing(sink: Sink) -> list[str]:
    """The shards that are not committed."""
    done = set((sink.place / STATE / "provenance").names())
    return [name for name in sink.shards if f"{name}.parquet" not in done]


def finish(sink: Sink, alone: bool = True) -> Summary:
    """Write the job's provenance, errors and summary; not ``alone``, leave temporary files, which may be another's.

    Raises :class:`SinkError` while shards are not committed.
    """
    if left := missing(sink):
        raise SinkError(f"{sink.place}: {len(left)} of {len(sink.shards)} shards are not done yet, {left[0]} first")
    try:
        summary = ledger.merge(sink.place, sink.shards, sink.rows, sink.ignored)
        if alone:
            ledger.scratch(sink.place).delete_folder()
    except OSError as error:
        raise SinkError(f"{sink.place}: cannot be written: {error}; run again when mended") from error
    return summary


def status(uri: str | os.PathLike) -> Status:
    """How far the job of an output folder is; reads files only. Raises :class:`SinkError` where it is no output."""
    with _reached(uri) as out:
        return ledger.read_status(out)


def reopen_failed(uri: str | os.PathLike) -> list[str]:
    """Let the next run do every shard with failed rows again. Returns the names of these shards."""
    with _reached(uri) as out:
        ledger.known_job(out)
        return ledger.reopen_failed(out)


_FACTS = tuple(name for name in ledger.PROVENANCE.names if name not in ("id", "output"))


@contextmanager
def _reached(uri: str | os.PathLike) -> Iterator[Place]:
    """The output that a URI names; trouble on the way to it, then or later in the block, is a SinkError."""
    try:
        yield resolve(uri)
    except (OSError, ValueError, ImportError) as error:
        raise SinkError(f"{redact(uri)}: cannot be reached: {error}; check the path and its permissions") from error


def _text(error: ImageError) -> str:
    return str(error).encode("utf-8", "backslashreplace").decode()


def _check_apart(out: Place, source: Source) -> None:
    for place in source.places:
        if within(out, place) or within(place, out):
            raise SinkError(f"{out}: the output and the input {place} overlap; write to a folder beside the input")


def _claim(out: Place, shown: str, job: dict, overwrite: bool) -> None:
    try:
        old = ledger.read_job(out)
    except SinkError:
        if not overwrite:
            raise
        old = None
    if overwrite:
        if old is not None:
            _remove_output(out, old)
        ledger.forget(out)
    elif old is not None:
        differences = ", ".join(ledger.differing(_identity(old), _identity(job)))
        if differences:
            raise SinkError(f"{shown}: belongs to another job, with other {differences}; choose another or overwrite")
        return
    elif set(out.names()) - {STATE}:
        raise SinkError(f"{shown}: is not empty and no output of raypurify; choose another folder or overwrite")
    ledger.write_job(out, job)


def _identity(job: dict) -> dict:
    source = {key: value for key, value in job["source"].items() if key != "uris"}
    return {key: value for key, value in job.items() if key != "arguments"} | {"source": source}


def _remove_output(out: Place, job: dict) -> None:
    if (kind := job["source"]["kind"]) in ("parquet", "tar"):
        below = (path for path, _ in out.walk() if not path.startswith(f"{STATE}/"))
        doomed = [path for path in below if re.fullmatch(rf".*-\d{{5,}}\.{kind}", path, re.DOTALL)]
    else:
        doomed = ledger.outputs(out)
    for name in doomed:
        (out / name).delete()


def _renamed(paths: Sequence[str], suffix: str) -> dict[str, str]:
    plain = {path: posixpath.splitext(path)[0] + suffix for path in paths}
    wanted = Counter(plain.values())
    taken = {path for path in paths if plain[path] == path}
    renamed = {}
    for path in sorted(path for path in paths if plain[path] != path and wanted[plain[path]] > 1):
        name = path + suffix
        while name in taken or wanted[name]:
            name += suffix
        taken.add(name)
        renamed[path] = name
    return renamed


def _write_files(sink: Sink, shard: Shard, results: Sequence) -> dict[int, str]:
    def write(path: str, row: Row, data: bytes | ImageError) -> tuple[int, str | None]:
        name = sink.renamed.get(path) or posixpath.splitext(path)[0] + SUFFIX[sink.format]
        if isinstance(data, ImageError):
            # A killed attempt may have written an image that can no longer be read.
            (sink.place / name).delete()
            return row.row, None
        (sink.place / name).write(data, ledger.scratch(sink.place))
        return row.row, file_id(name)

    files = ((path, row, data) for path, (row, data, _) in zip(shard.paths, results))
    return dict(overlapped(lambda file: write(*file), files))


def _write_table(sink: Sink, shard: Shard, results: Sequence) -> dict[int, str]:
    with open_file(shard.place) as file:
        schema = file.schema_arrow
    field = schema.field(shard.image_column)
    kept = np.array([not isinstance(data, ImageError) for _, data, _ in results])
    images = [data for _, data, _ in results if not isinstance(data, ImageError)]
    others = [name for name in schema.names if name != field.name]
    inner = [f"{field.name}.{part.name}" for part in field.type if part.name != "bytes"] if _is_struct(field) else []
    columns = {}
    if others or inner:
        table = pa.Table.from_batches(read_batches(shard, [*others, *inner], rows=shard.rows))
        table = table.filter(pa.array(kept)).combine_chunks()
        columns = {name: table[name] for name in table.schema.names}
    columns[field.name] = _image_column(field, images, columns.get(field.name))
    table = pa.table([columns[name] for name in schema.names], schema=schema)
    name = posixpath.join(shard.folder, f"{shard.name}.parquet")
    # Encoded images neither compress nor repeat.
    data = ledger.to_bytes(table, use_dictionary=others, compression=dict.fromkeys((field.name,), "NONE"))
    (sink.place / name).write(data, ledger.scratch(sink.place))
    return {row.row: file_id(name) for row, _, _ in results}


def _write_tar(sink: Sink, shard: Shard, results: Sequence) -> dict[int, str]:
    name, buffer = posixpath.join(shard.folder, f"{shard.name}.tar"), io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape"
    ) as tar:
        for sample, (row, data, _) in zip(read_samples(shard), results):
            if file_id(f"{shard.key}/{sample.key}") != row.id:
                raise SinkError(f"{shard.place}: changed while shard {shard.name} was worked on; run again")
            if isinstance(data, ImageError):
                continue
            for number, (member, held) in enumerate(sample.members):
                entry = copy.copy(member)
                if number == sample.image:
                    entry.name, held = sample.key + SUFFIX[sink.format], data
                entry.size, entry.pax_headers = len(held), {}
                tar.addfile(entry, io.BytesIO(held))
    (sink.place / name).write(buffer.getvalue(), ledger.scratch(sink.place))
    return {row.row: file_id(name) for row, _, _ in results}


_WRITERS = {"folder": _write_files, "parquet": _write_table, "tar": _write_tar}


def _is_struct(field: pa.Field) -> bool:
    return pa.types.is_struct(field.type)


def _image_column(field: pa.Field, images: list[bytes], old: pa.ChunkedArray | None) -> pa.Array:
    if not _is_struct(field):
        return pa.array(images, field.type)
    parts = []
    for part in field.type:
        if part.name == "bytes":
            parts.append(pa.array(images, part.type))
        else:
            parts.append(pa.array([row[part.name] for row in old.to_pylist()], part.type))
    return pa.StructArray.from_arrays(parts, fields=list(field.type))
