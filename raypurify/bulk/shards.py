"""Shards through a pool of actors that read, decode, purify, encode and commit; only numbers travel back."""

import os
import time
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch

import raypurify
from raypurify.bulk.metrics import ShardMetrics
from raypurify.bundle import load_bundle
from raypurify.containers.contract import Sink
from raypurify.containers.rows import Row, Shard
from raypurify.containers.sink import write_shard
from raypurify.containers.source import read_shard
from raypurify.errors import ConfigError, ImageError, RaypurifyError, SinkError, SourceError
from raypurify.pictures import Pair
from raypurify.purifiers.batch import purify_files, purify_pixels
from raypurify.runtime.display import shown
from raypurify.runtime.progress import Progress
from raypurify.runtime.resources import cluster_resources

ENGINES = ("actors", "serve")
# Decoding and encoding keep this many cores busy for one GPU.
MOST_ON_A_GPU = 8


@dataclass(frozen=True)
class ActorShape:
    """What one actor asks of the cluster: CPUs, which are also its threads, and a part of a GPU.

    Without ``gpus`` an actor takes none where the cluster has none; else as many actors share each GPU as there are
    CPUs for, eight at most, because images are decoded and encoded on CPUs.
    """

    cpus: float = 1
    gpus: float | None = None

    def __post_init__(self) -> None:
        if self.cpus <= 0:
            raise ConfigError(f"an actor with {self.cpus:g} CPUs: give it a part of one, e.g. 0.5, or more")
        if self.gpus is not None and (self.gpus < 0 or (self.gpus > 1 and self.gpus % 1)):
            raise ConfigError(f"an actor with {self.gpus:g} GPUs: give it a part of one, e.g. 0.25, or 0, or 1")


@dataclass(frozen=True)
class Work:
    """What every actor needs to do any shard; ``pictured`` are the rows that go into the contact sheet."""

    bundle: str
    sink: Sink
    max_pixels: int
    pictured: frozenset[int]
    engine: str = "actors"
    device: str = "cpu"
    threads: int = 1


@dataclass(frozen=True)
class ShardOutcome:
    """What became of a shard: how many ``images`` by outcome ("purified", or the reason of an error row) and the pairs
    to draw, or the error that left it undone."""

    shard: str
    images: Counter = field(default_factory=Counter)
    pairs: tuple[Pair, ...] = ()
    error: RaypurifyError | None = None


def work_off_shards(
    shards: list[Shard], work: Work, shape: ActorShape, total: int, check: Callable[[], None], address: str | None
) -> list[Pair]:
    """Do every shard and commit it. ``total`` counts also the images of shards that are done; ``check`` is called at
    every shard and may raise. Returns the pairs for the contact sheet.

    Raises SinkError at the first shard that cannot be written, SourceError after all others where some cannot be read.
    """
    from raypurify.runtime.session import ray_session

    with ray_session(address):
        import ray

        if work.engine == "serve":
            from raypurify.serve.client import check_endpoint

            check_endpoint(load_bundle(work.bundle).digest)
            shape = replace(shape, gpus=0)
        shape, size, most = fit_pool(shape, len(shards), **_resources(address))
        work = replace(work, device="cuda" if shape.gpus else "cpu", threads=max(1, int(shape.cpus)))
        todo = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards))
        results = todo.map_batches(
            _ShardPurifier,
            fn_constructor_args=(ray.put(work),),
            batch_size=1,
            num_cpus=shape.cpus,
            num_gpus=shape.gpus or None,
            compute=ray.data.ActorPoolStrategy(min_size=1, initial_size=size, max_size=most),
        )
        waiting = sum(shard.rows for shard in shards)
        progress = Progress(None, total, "images", start=total - waiting)
        pairs: list[Pair] = []
        unread: list[ShardOutcome] = []
        failed: Counter[str] = Counter()
        with shown("purify", lambda: progress.state):
            for row in results.iter_rows():
                check()
                outcome: ShardOutcome = row["outcome"]
                if isinstance(outcome.error, SinkError):
                    raise outcome.error
                if outcome.error:
                    unread.append(outcome)
                    continue
                failed.update({reason: n for reason, n in outcome.images.items() if reason != "purified"})
                note = ", ".join(f"{n:,} {reason}" for reason, n in sorted(failed.items()))
                progress.add(outcome.images.total(), note=note)
                pairs += outcome.pairs
        if unread:
            raise SourceError(
                f"{len(unread)} of {len(shards)} shards could not be done, {unread[0].shard} first: {unread[0].error}; "
                "all others are; the same command does the rest when this is mended"
            )
        return pairs


def fit_pool(shape: ActorShape, shards: int, cpus: float, gpus: float, grows: bool) -> tuple[ActorShape, int, int]:
    """The shape with its part of a GPU, and how many actors to begin with and to have at most, on a cluster of so many
    CPUs and GPUs. One that ``grows`` may get as many as there are shards.

    >>> fit_pool(ActorShape(), 100, cpus=16, gpus=1, grows=False)
    (ActorShape(cpus=1, gpus=0.125), 8, 8)
    """
    room = max(1, int(cpus / shape.cpus))
    if shape.gpus is None:
        share = min(MOST_ON_A_GPU, max(1, int(room / gpus))) if gpus else 0
        # Ray counts GPUs in ten-thousandths.
        shape = replace(shape, gpus=int(1e4 / share) / 1e4 if share else 0)
    if shape.gpus:
        room = max(1, min(room, int(gpus / shape.gpus)))
    size = min(shards, room)
    return shape, size, shards if grows else size


def _resources(address: str | None) -> dict:
    """What :func:`fit_pool` asks about the cluster."""
    has = cluster_resources()
    grows = address is not None or has.nodes > 1
    # A local Ray may count more CPUs than the machine has.
    cpus = has.cpus if grows else min(has.cpus, os.cpu_count() or 1)
    return {"cpus": cpus, "gpus": has.gpus, "grows": grows}


class _ShardPurifier:
    """Does one shard a call."""

    def __init__(self, work: Any) -> None:
        import ray

        self.work: Work = ray.get(work)
        torch.set_num_threads(self.work.threads)
        self.metrics = ShardMetrics()
        if self.work.engine == "serve":
            from raypurify.serve.client import purify_there

            self.purify, self.atoms = purify_there, load_bundle(self.work.bundle).dictionaries
        else:
            purifier = raypurify.load(self.work.bundle, self.work.device)
            self.purify, self.atoms = partial(purify_pixels, purifier), purifier.dictionaries

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[ShardOutcome]]:
        (shard,) = batch["shard"]
        try:
            return {"outcome": [self._do(shard)]}
        except RaypurifyError as error:
            # Ray Data would end the whole job, and make text of the error.
            return {"outcome": [ShardOutcome(shard.name, error=error)]}

    def _do(self, shard: Shard) -> ShardOutcome:
        work, begun = self.work, time.perf_counter()
        results: list[tuple[Row, bytes | ImageError, dict | None]] = []
        readable: dict[Hashable, Row] = {}
        pairs: list[Pair] = []
        for row in read_shard(shard):
            if row.error is not None:
                results.append((row, row.error, None))
            else:
                readable[row.row] = row
        files = ((number, row.data) for number, row in readable.items() if row.data is not None)
        for number, image, facts in purify_files(self.purify, files, work.sink.format, work.max_pixels):
            row = readable[number]
            results.append((row, image, facts))
            if number in work.pictured and row.data and facts and not isinstance(image, ImageError):
                caption = f"{facts['class']}, distance {facts['distance']:.1f}"
                pairs.append(Pair(row.id, row.data, image, caption, self.atoms[facts["cluster"]].cpu().numpy()))
        stats = write_shard(work.sink, shard, results)
        outcomes = stats.reasons + Counter(purified=stats.written)
        self.metrics.add(outcomes, stats.flagged, stats.bytes, time.perf_counter() - begun)
        return ShardOutcome(shard.name, outcomes, tuple(pairs))
