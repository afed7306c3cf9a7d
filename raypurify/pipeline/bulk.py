"""Bulk purification: shards of a source through a pool of purifier actors into a sink of the same container."""

import os
from dataclasses import dataclass
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
from raypurify.pipeline.progress import Progress
from raypurify.purifiers.batch import MAX_PIXELS, purify_files
from raypurify.rows import Shard
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
    device: str


def purify(
    inputs: list[str],
    output: str,
    bundle: str = "cifar10",
    *,
    format: str = "png",
    overwrite: bool = False,
    max_pixels: int = MAX_PIXELS,
    sheet: int = 8,
    retry_failed: bool = False,
    address: str | None = None,
) -> Summary:
    """Purify every image of ``inputs`` (a folder, Parquet files) into ``output``, the same container.

    Runs on the Ray cluster there is, or starts one. Shards that an earlier run committed are kept; a bad image becomes
    a row of ``errors.parquet`` and stops nothing. ``sheet`` input/output pairs, a seeded choice, are drawn into
    ``output/_raypurify/sheet.png`` (0: none). ``retry_failed`` does shards with such rows again. One job at a time
    writes an output. Raises SourceError, SinkError or BundleError.
    """
    source = _open(inputs)
    settings = {"bundle": load_bundle(bundle).digest, "max_pixels": max_pixels}
    arguments = {"inputs": [_absolute(uri) for uri in inputs], "bundle": _absolute(bundle)}
    if [*map(redact, arguments["inputs"])] != arguments["inputs"]:
        arguments = {}
    with held(sinks.output_of(output, source)) as lease:
        sink = sinks.open_sink(
            output, source, settings=settings, format=format, overwrite=overwrite, arguments=arguments
        )
        if retry_failed:
            sinks.reopen_failed(output)
        todo = [shard for shard in source.shards if not sinks.committed(sink, shard)]
        if todo:
            chosen = np.random.default_rng(0).permutation(source.rows)[:sheet]
            pairs = _run(todo, bundle, sink, max_pixels, frozenset(chosen.tolist()), source.rows, address, lease)
            if pairs:
                picture = contact_sheet(sorted(pairs, key=lambda pair: pair.title))
                (sink.place / ledger.STATE / "sheet.png").write(picture, ledger.scratch(sink.place))
        return sinks.finish(sink)


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
        retry_failed=True,
        address=address,
    )


def _open(inputs: list[str]) -> Source:
    """Shards of 256 rows; smaller ones where that would leave a laptop's second core idle."""
    source = open_source(inputs)
    if source.rows >= SMALL:
        return source
    return open_source(inputs, shard_rows=max(16, -(-source.rows // 8)))


def _run(todo: list[Shard], bundle, sink, max_pixels, pictured, total: int, address: str | None, lease) -> list[Pair]:
    from raypurify.pipeline.session import ray_session

    with ray_session(address):
        import ray

        gpus = int(ray.cluster_resources().get("GPU", 0))
        work = ray.put(_Work(_absolute(bundle), sink, max_pixels, pictured, "cuda" if gpus else "cpu"))
        results = ray.data.from_items([{"shard": shard} for shard in todo], override_num_blocks=len(todo)).map_batches(
            _ShardPurifier,
            fn_constructor_args=(work,),
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

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        (shard,) = batch["shard"]
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
                pairs.append(Pair(row.id, row.data, image, f"{facts['class']}, distance {facts['distance']:.1f}"))
        stats = sinks.write_shard(work.sink, shard, results)
        return {"written": [stats.written], "failed": [stats.failed], "flagged": [stats.flagged], "pairs": [pairs]}


def _absolute(path: str) -> str:
    """Actors, and later runs, have another working directory: a relative path is made absolute, a name or URI stays."""
    return os.path.abspath(path) if os.path.exists(path) else path
