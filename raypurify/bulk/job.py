"""Bulk purification: the shards of a source into a sink of the same container, each exactly once."""

import os
from typing import Any

import numpy as np

from raypurify.bulk.actor import Work
from raypurify.bulk.shards import ENGINES, ActorShape, work_off_shards
from raypurify.bundle import load_bundle
from raypurify.containers.lease import held
from raypurify.containers.ledger import STATE, Summary
from raypurify.containers.selection import select, shards_of
from raypurify.containers.sink import finish, missing, open_sink, output_of, recorded_job, reopen_failed
from raypurify.containers.source import Source, open_source
from raypurify.errors import ConfigError, SinkError, SourceError
from raypurify.pictures import contact_sheet
from raypurify.purifiers.batch import MAX_PIXELS
from raypurify.storage import redact

SMALL = 2048


def purify(
    inputs: list[str],
    output: str,
    bundle: str = "cifar10",
    *,
    format: str = "png",
    overwrite: bool = False,
    max_pixels: int = MAX_PIXELS,
    sheet: int = 8,
    limit: int | None = None,
    sample: int | None = None,
    image_column: str | None = None,
    drop_failed: bool = False,
    part: tuple[int, int] | None = None,
    retry_failed: bool = False,
    engine: str = "actors",
    actor: ActorShape | None = None,
    address: str | None = None,
) -> Summary | None:
    """Purify every image of ``inputs`` (a folder, Parquet files, WebDataset tars) into ``output``, the same container.

    Runs on the Ray cluster there is, or starts one. Shards that an earlier run committed are kept; a bad image becomes
    a row of ``errors.parquet`` and stops nothing, nor does a container that cannot be read any more: its shards stay
    undone, and a SourceError at the end says so. ``sheet`` input/output pairs, a seeded choice, are drawn into
    ``output/_raypurify/sheet.png`` (0: none). ``limit`` and ``sample`` take part of the images
    (:mod:`raypurify.containers.selection`). ``image_column`` holds the images of Parquet files; where it is not given,
    it is that of the job that ``output`` belongs to, or is found (:func:`raypurify.containers.source.open_source`).
    Rows of Parquet files whose image failed keep their other columns, and with ``drop_failed`` are left out. ``part``
    (i, n) does every n-th shard, beside jobs that do the others. ``retry_failed`` does shards with bad images again.
    One job at a time writes an output, or a part of it.
    ``engine`` says who purifies: actors of this job, each of the shape ``actor`` (what suits the cluster where it is
    None), or ``"serve"``, the application "raypurify" that runs on this cluster with the same bundle.

    Returns the summary, or None where other parts are not done. Raises SourceError, SinkError or BundleError.
    """
    if engine not in ENGINES:
        raise ConfigError(f"unknown engine {engine!r}; use one of {', '.join(ENGINES)}")
    source = planned_for(output, inputs, limit, sample, image_column, overwrite)
    settings = {"bundle": load_bundle(bundle).digest, "max_pixels": max_pixels}
    if part and overwrite:
        raise SinkError(
            f"{redact(output)}: overwriting in a part would remove what other parts wrote; choose another output"
        )
    with held(output_of(output, source), part) as lease:
        arguments = _arguments(inputs, bundle, limit, sample)
        sink = open_sink(
            output,
            source,
            settings=settings,
            format=format,
            overwrite=overwrite,
            arguments=arguments,
            drop_failed=drop_failed,
        )
        if retry_failed:
            reopen_failed(output)
        mine = shards_of(source.shards, part)
        left = set(missing(sink))
        todo = [shard for shard in mine if shard.name in left]
        if todo:
            rows = [np.arange(shard.first_row, shard.first_row + shard.rows) for shard in mine]
            chosen = np.random.default_rng(0).permutation(np.concatenate(rows))[:sheet]
            work = Work(_absolute(bundle), sink, max_pixels, frozenset(chosen.tolist()), engine)
            pairs = work_off_shards(todo, mine, work, actor or ActorShape(), lease.check, address)
            if pairs:
                picture = contact_sheet(sorted(pairs, key=lambda pair: pair.title))
                sink.put(f"{STATE}/sheet.png", picture)
        if part and missing(sink):
            return None
        return finish(sink, alone=part is None)


def retry(output: str, *, address: str | None = None) -> Summary | None:
    """Do the shards of an output again in which images failed, from the inputs and with the bundle of the job that is
    recorded there. Raises SinkError where that cannot be read off, and what ``purify`` raises."""
    job = recorded_job(output)
    arguments, settings = job.get("arguments", {}), job["settings"]
    if not arguments:
        raise SinkError(
            f"{redact(output)}: its record names no inputs (an older version wrote it, or they hold a password); "
            "run the same purify command with --retry-failed"
        )
    return purify(
        arguments["inputs"],
        output,
        arguments["bundle"],
        format=job["format"],
        max_pixels=settings["max_pixels"],
        sheet=0,
        limit=arguments["limit"],
        sample=arguments["sample"],
        image_column=settings.get("image_column"),
        # Jobs that were recorded before there was a choice left them out.
        drop_failed=settings.get("drop_failed", True),
        retry_failed=True,
        address=address,
    )


def planned(
    inputs: list[str], limit: int | None = None, sample: int | None = None, image_column: str | None = None
) -> Source:
    """The images to purify in shards of 256; smaller ones where that would leave a laptop's second core idle."""
    source = open_source(inputs, shard_rows=_shard_rows, image_column=image_column, labels=False)
    return select(source, limit, sample)


def planned_for(
    output: str, inputs: list[str], limit: int | None, sample: int | None, image_column: str | None, overwrite: bool
) -> Source:
    """What :func:`planned` gives for a job that goes on: where no column is named, with that of the job ``output``
    belongs to, unless it is to be overwritten."""
    recorded = None if image_column or overwrite else _recorded_column(output)
    if recorded:
        try:
            return planned(inputs, limit, sample, recorded)
        except SourceError:
            # Maybe another input, for which the output will be refused in words that fit.
            pass
    return planned(inputs, limit, sample, image_column)


def _recorded_column(output: str) -> str | None:
    try:
        return recorded_job(output)["settings"].get("image_column")
    except SinkError:
        # Whoever claims the output says what is wrong with it.
        return None


def _shard_rows(rows: int) -> int:
    return 256 if rows >= SMALL else max(16, -(-rows // 8))


def _arguments(inputs: list[str], bundle: str, limit: int | None, sample: int | None) -> dict[str, Any]:
    """What ``retry`` needs to know; nothing where that would record a password."""
    uris = [_absolute(uri) for uri in (*inputs, bundle)]
    if [*map(redact, uris)] != uris:
        return {}
    return {"inputs": uris[:-1], "bundle": uris[-1], "limit": limit, "sample": sample}


def _absolute(path: str) -> str:
    """Actors, and later runs, have another working directory: a relative path is made absolute, a name or URI stays."""
    return os.path.abspath(path) if os.path.exists(path) else path
