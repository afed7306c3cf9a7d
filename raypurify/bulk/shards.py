"""The shards of a purify job through a pool of actors: which of them lives, what each death means, how far it is."""

import logging
import math
import os
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from raypurify.bulk.actor import ShardActor
from raypurify.bulk.tally import More, Tally, say
from raypurify.bulk.work import Sign, Work
from raypurify.containers.rows import Shard
from raypurify.errors import ConfigError, RaypurifyError, one_line
from raypurify.methods import checked_facts
from raypurify.pictures import Pair
from raypurify.runtime.observed import actor_lost
from raypurify.runtime.poison import LIVES, Losses
from raypurify.runtime.pool import Event, Pool
from raypurify.runtime.resources import cluster_resources
from raypurify.runtime.session import ray_session

# What an actor takes that only reads, decodes, encodes and writes, while replicas purify.
SUBMITTER_CPUS = 0.1
# Decoding and encoding keep this many cores busy for one GPU.
MOST_ON_A_GPU = 8
# An actor ends by itself when a step takes too long; one that cannot do even that is given up after these seconds more.
GRACE_S = 300.0
ROOM_S = 60.0


@dataclass(frozen=True)
class ActorShape:
    """What one actor asks of the cluster: CPUs, which are also its threads, and a part of a GPU.

    Without ``gpus`` an actor takes none where the cluster has none; else as many actors share each GPU as there are
    CPUs for, eight at most, because images are decoded and encoded on CPUs. Of a machine with more CPUs, alone, these
    eight have as many more, if ``cpus`` is 1.
    """

    cpus: float = 1
    gpus: float | None = None

    def __post_init__(self) -> None:
        if self.cpus <= 0:
            raise ConfigError(f"an actor with {self.cpus:g} CPUs: give it a part of one, e.g. 0.5, or more")
        if self.gpus is not None and (self.gpus < 0 or (self.gpus > 1 and self.gpus % 1)):
            raise ConfigError(f"an actor with {self.gpus:g} GPUs: give it a part of one, e.g. 0.25, or 0, or 1")


def work_off_shards(
    shards: list[Shard],
    mine: list[Shard],
    work: Work,
    shape: ActorShape,
    check: Callable[[], None],
    address: str | None,
    more: Callable[[], More | None] | None = None,
) -> list[Pair]:
    """Do every shard of those of ``mine`` that are left, and commit it. ``check`` and ``more`` are called every second
    at least and may raise; ``more`` says what else there is to do, until it says that this is the last. Returns the
    pairs for the contact sheet.

    An actor that dies is replaced, and its shard begun again by the first that is free
    (:mod:`raypurify.runtime.poison`). Raises SinkError at the first shard that cannot be written, and after all others,
    where some could not be done, SourceError or RaypurifyError.
    """
    # A Ray that is started has a process ready for each CPU that it counts.
    with ray_session(address, max(os.cpu_count() or 1, math.ceil(shape.cpus))):
        import ray

        if work.engine == "serve":
            from raypurify.serve.client import check_endpoint

            check_endpoint(checked_facts(work.bundle).digest)
        count = sys.maxsize if more else len(shards)
        shape, size, most = fit_pool(shape, count, **_resources(address), engine=work.engine)
        work = for_shape(work, shape, "cuda" if shape.gpus else "cpu")
        asks: dict[str, Any] = {"num_cpus": shape.cpus} | ({"num_gpus": shape.gpus} if shape.gpus else {})
        actor = ray.remote(**asks)(ShardActor)
        given, losses = ray.put(work), Losses()

        def call(one: Any, shard: Shard) -> Any:
            # A value is sent only when the one before has been taken: what an actor said last is known when it dies.
            options = {"num_returns": "streaming", "_generator_backpressure_num_objects": 1}
            return one.do.options(**options).remote(shard, losses.care(shard.name))

        pool = Pool(
            shards,
            start=lambda: actor.remote(given),
            call=call,
            size=size,
            most=most,
            ready=lambda one: one.start.remote(),
            patience=work.step_s + GRACE_S,
        )
        pool.more = more is not None
        job = _Job(mine, shards, pool, losses, shape, str(work.sink.place))
        with job.observed(), closing(pool.events()) as events:
            for event in events:
                check()
                job.hear(event)
                if more and pool.more and (found := more()):
                    job.add(found)
        job.refuse_undone()
        return job.pairs


class _Job(Tally):
    """What is known of a job of actors while it runs."""

    def __init__(
        self, mine: list[Shard], shards: list[Shard], pool: Pool[Shard], losses: Losses, shape: ActorShape, run: str
    ) -> None:
        super().__init__(mine, shards, run, "actors start", pool.more)
        self.pool, self.losses, self.shape = pool, losses, shape
        self._probed: dict[str, int | None] = {}
        self._false_starts = 0
        self._begun, self._alive = False, time.monotonic()

    def hear(self, event: Event) -> None:
        """Take note of what has happened. Raises SinkError where nothing can be written, and RaypurifyError where no
        actor can be started."""
        if self.pool.alive:
            self._alive = time.monotonic()
        elif time.monotonic() - self._alive > ROOM_S:
            self._alive = time.monotonic()
            asked = f"{self.shape.cpus:g} CPUs" + f" and {self.shape.gpus:g} GPUs" * bool(self.shape.gpus)
            text = f"no actor could begin for {ROOM_S:.0f} s: the cluster has no room for one with {asked}; waiting"
            say("no_room", text, logging.WARNING)
        shard, value = event.item, event.value
        if event.kind == "ready":
            self._false_starts = 0
            if not self._begun:
                self._begun = True
                self.progress.begin()
        elif event.kind == "died" and shard is None:
            self._false_start(value)
        elif event.kind == "died":
            self._death(shard, value, event.where)
        elif event.kind == "failed":
            self.leave(shard.name, RaypurifyError(_named(value)))
        elif event.kind == "said":
            if isinstance(value, Sign):
                self._probed[shard.name] = value.row
            self.take(shard, value, event.where)

    def add(self, more: More) -> None:
        self.pool.waiting += more.left
        self.pool.more = not more.last
        super().add(more)

    def _death(self, shard: Shard, error: Exception, where: str) -> None:
        if shard.name not in self.left:
            return
        row = self._probed.pop(shard.name, None)
        what = f"an actor on {where} died over shard {shard.name}"
        if isinstance(error, TimeoutError):
            what = f"an actor on {where} is given up over shard {shard.name}: {error}"
        hopeless = self.losses.hopeless(shard.name, row)
        then = f", the {LIVES}th of it; the shard is left undone" if hopeless else "; it is begun again"
        actor_lost(error, plain=f"purify: {what}{then}", shard=shard.name, node=where)
        if hopeless:
            text = f"{LIVES} actors died over it, and no image of it alone is to blame"
            self.leave(shard.name, RaypurifyError(f"{text}; if memory ran out, let fewer work at once (--actor-cpus)"))
            return
        self.pool.waiting.appendleft(shard)

    def _false_start(self, error: Exception) -> None:
        self._false_starts += 1
        actor_lost(error)
        if self._false_starts < LIVES * self.pool.size:
            return
        if not self.pool.alive:
            raise RaypurifyError(f"no actor can be started, after {self._false_starts} tries: {_named(error)}")
        # Those that live do the work.
        self.pool.most = self.pool.alive


def _named(error: Exception) -> str:
    """An error of Ray as one line, with its kind unless raypurify raised it."""
    cause = getattr(error, "cause", None) or error
    return one_line(error) if isinstance(cause, RaypurifyError) else f"{type(cause).__name__}: {one_line(error)}"


def for_shape(work: Work, shape: ActorShape, device: str) -> Work:
    """The work as an actor of this shape does it: as many threads as it has CPUs, which on a GPU, and where they are
    several, also decode and encode beside the purifier."""
    threads = max(1, int(shape.cpus))
    beside = work.engine != "serve" and (device != "cpu" or threads > 1)
    return replace(work, device=device, threads=threads, coders=threads if beside else 0)


def fit_pool(
    shape: ActorShape, shards: int, cpus: float, gpus: float, grows: bool, engine: str = "actors"
) -> tuple[ActorShape, int, int]:
    """The shape with its part of a GPU, and how many actors to begin with and to have at most, on a cluster of so many
    CPUs and GPUs. One that ``grows`` may get as many as there are shards; with ``engine`` "serve" they are as many as
    at the beginning, because each takes so little that many more would find room beside the replicas.

    >>> fit_pool(ActorShape(), 100, cpus=16, gpus=1, grows=False)
    (ActorShape(cpus=2, gpus=0.125), 8, 8)
    >>> fit_pool(ActorShape(), 100, cpus=16, gpus=1, grows=True, engine="serve")
    (ActorShape(cpus=0.1, gpus=0), 16, 16)
    """
    if engine == "serve":
        shape = replace(shape, gpus=0)
    room = max(1, int(cpus / shape.cpus))
    if shape.gpus is None:
        share = min(MOST_ON_A_GPU, max(1, int(room / gpus))) if gpus else 0
        # Ray counts GPUs in ten-thousandths.
        shape = replace(shape, gpus=int(1e4 / share) / 1e4 if share else 0)
        if share == MOST_ON_A_GPU and shape.cpus == ActorShape.cpus and not grows:
            shape = replace(shape, cpus=int(cpus / (gpus * share)))
    if shape.gpus:
        room = max(1, min(room, int(gpus / shape.gpus)))
    size = min(shards, room)
    if engine == "serve":
        return replace(shape, cpus=min(shape.cpus, SUBMITTER_CPUS)), size, size
    return shape, size, shards if grows else size


def _resources(address: str | None) -> dict:
    """What :func:`fit_pool` asks about the cluster."""
    has = cluster_resources()
    grows = address is not None or has.nodes > 1
    return {"cpus": has.cpus if grows else has.cores, "gpus": has.gpus, "grows": grows}
