"""Bulk purification: shards of a source through a pool of purifier actors into a sink of the same container."""

import os
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from raypurify import ledger, sinks
from raypurify.bundle import load_bundle
from raypurify.errors import ImageError, SinkError
from raypurify.lease import held
from raypurify.ledger import Summary
from raypurify.pictures import Pair, contact_sheet
from raypurify.pipeline.display import shown
from raypurify.pipeline.metrics import ShardMetrics
from raypurify.pipeline.progress import Progress
from raypurify.purifiers.batch import MAX_PIXELS, purify_files
from raypurify.rows import Shard
from raypurify.selection import select, shards_of
from raypurify.sinks import Sink
from raypurify.sources import Source, open_source, read_shard
from raypurify.storage import redact

SMALL = 2048


@dataclass(frozen=True)
class _Work:
    """What every actor needs to do any shard."""

    bundle: str
    sink: Sink
    max_pixels: int
    pictured: frozenset[int]
    device: str = "cpu"


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
    part: tuple[int, int] | None = None,
    retry_failed: bool = False,
    address: str | None = None,
) -> Summary | None:
    """Purify every image of ``inputs`` (a folder, Parquet files) into ``output``, the same container.

    Runs on the Ray cluster there is, or starts one. Shards that an earlier run committed are kept; a bad image becomes
    a row of ``errors.parquet`` and stops nothing. ``sheet`` input/output pairs, a seeded choice, are drawn into
    ``output/_raypurify/sheet.png`` (0: none). ``limit`` and ``sample`` take part of the images
    (:mod:`raypurify.selection`); ``part`` (i, n) does every n-th shard, beside jobs that do the others.
    ``retry_failed`` does shards with bad images again. One job at a time writes an output, or a part of it.

    Returns the summary, or None where other parts are not done. Raises SourceError, SinkError or BundleError.
    """
    source = planned(inputs, limit, sample)
    settings = {"bundle": load_bundle(bundle).digest, "max_pixels": max_pixels}
    if part and overwrite:
        raise SinkError(f"{output}: overwriting in a part would remove what other parts wrote; choose another output")
    with held(sinks.output_of(output, source), part) as lease:
        arguments = _arguments(inputs, bundle, limit, sample)
        sink = sinks.open_sink(
            output, source, settings=settings, format=format, overwrite=overwrite, arguments=arguments
        )
        if retry_failed:
            sinks.reopen_failed(output)
        mine = shards_of(source.shards, part)
        todo = [shard for shard in mine if not sinks.committed(sink, shard)]
        if todo:
            rows = [np.arange(shard.first_row, shard.first_row + shard.rows) for shard in mine]
            chosen = np.random.default_rng(0).permutation(np.concatenate(rows))[:sheet]
            work = _Work(_absolute(bundle), sink, max_pixels, frozenset(chosen.tolist()))
            pairs = _run(todo, work, sum(shard.rows for shard in mine), address, lease)
            if pairs:
                picture = contact_sheet(sorted(pairs, key=lambda pair: pair.title))
                (sink.place / ledger.STATE / "sheet.png").write(picture, ledger.scratch(sink.place))
        if part and sinks.missing(sink):
            return None
        return sinks.finish(sink, alone=part is None)


def retry(output: str, *, address: str | None = None) -> Summary:
    """Do the shards of an output again in which images failed, from the inputs and with the bundle of the job that is
    recorded there. Raises SinkError where that cannot be read off, and what ``purify`` raises."""
    job = sinks.recorded_job(output)
    arguments, settings = job.get("arguments", {}), job["settings"]
    if not arguments:
        raise SinkError(
            f"{output}: its record names no inputs (an older version wrote it, or they hold a password); "
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
        retry_failed=True,
        address=address,
    )


def planned(inputs: list[str], limit: int | None = None, sample: int | None = None) -> Source:
    """The images to purify in shards of 256; smaller ones where that would leave a laptop's second core idle."""
    source = open_source(inputs)
    if source.rows >= SMALL:
        return select(source, limit, sample)
    return select(open_source(inputs, shard_rows=max(16, -(-source.rows // 8))), limit, sample)


def _arguments(inputs: list[str], bundle: str, limit: int | None, sample: int | None) -> dict[str, Any]:
    """What ``retry`` needs to know; nothing where that would record a password."""
    uris = [_absolute(uri) for uri in inputs]
    if [*map(redact, uris)] != uris:
        return {}
    return {"inputs": uris, "bundle": _absolute(bundle), "limit": limit, "sample": sample}


def _run(todo: list[Shard], work: _Work, total: int, address: str | None, lease) -> list[Pair]:
    from raypurify.pipeline.session import ray_session

    with ray_session(address):
        import ray

        gpus = int(ray.cluster_resources().get("GPU", 0))
        shared = ray.put(replace(work, device="cuda" if gpus else "cpu"))
        results = ray.data.from_items([{"shard": shard} for shard in todo], override_num_blocks=len(todo)).map_batches(
            _ShardPurifier,
            fn_constructor_args=(shared,),
            batch_size=1,
            num_cpus=1,
            num_gpus=1 if gpus else None,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=gpus or min(len(todo), os.cpu_count() or 1)),
        )
        pairs = []
        waiting = sum(shard.rows for shard in todo)
        progress, failed = Progress(None, total, "images", start=total - waiting), 0
        with shown("purify", lambda: progress.state):
            for row in results.iter_rows():
                lease.check()
                failed += row["failed"]
                progress.add(row["written"] + row["failed"], note=f"{failed} failed" if failed else None)
                pairs += row["pairs"]
        return pairs


class _ShardPurifier:
    """Reads, purifies and commits one shard a call; only numbers and the few pictured images travel on."""

    def __init__(self, work):
        import ray

        import raypurify

        torch.set_num_threads(1)
        self.work: _Work = ray.get(work)
        self.purifier = raypurify.load(self.work.bundle, self.work.device)
        self.metrics = ShardMetrics()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        (shard,), begun = batch["shard"], time.perf_counter()
        results, readable, pairs = [], {}, []
        for row in read_shard(shard):
            if row.error is not None:
                results.append((row, row.error, None))
            else:
                readable[row.row] = row
        work = self.work
        files = ((number, row.data) for number, row in readable.items())
        for number, image, facts in purify_files(self.purifier, files, work.sink.format, work.max_pixels):
            row = readable[number]
            results.append((row, image, facts))
            if number in work.pictured and not isinstance(image, ImageError):
                atoms = self.purifier.dictionaries[facts["cluster"]].cpu().numpy()
                caption = f"{facts['class']}, distance {facts['distance']:.1f}"
                pairs.append(Pair(row.id, row.data, image, caption, atoms))
        stats = sinks.write_shard(work.sink, shard, results)
        outcomes = Counter(image.reason if isinstance(image, ImageError) else "purified" for _, image, _ in results)
        self.metrics.add(outcomes, stats.flagged, stats.bytes, time.perf_counter() - begun)
        return {"written": [stats.written], "failed": [stats.failed], "flagged": [stats.flagged], "pairs": [pairs]}


def _absolute(path: str) -> str:
    """Actors, and later runs, have another working directory: a relative path is made absolute, a name or URI stays."""
    return os.path.abspath(path) if os.path.exists(path) else path
