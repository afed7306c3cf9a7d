"""What an actor of a purify job does: reads a shard, decodes, purifies, encodes and commits it; only numbers travel
back.

A step that takes too long ends the process, wherever it hangs: one image may be decoded for ``DECODE_S`` seconds, one
window of at most 2²⁴ pixels be purified and encoded for ``STEP_S``, a shard be written for as long. Where replicas
purify, a window mostly waits for its turn: the seconds then count from the last answer of the endpoint.
"""

import faulthandler
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

import raypurify
from raypurify.bulk.metrics import ShardMetrics
from raypurify.bundle import load_bundle
from raypurify.containers.contract import Sink
from raypurify.containers.rows import Row, Shard
from raypurify.containers.sink import write_shard
from raypurify.containers.source import read_shard
from raypurify.errors import ImageError, RaypurifyError
from raypurify.pictures import Pair
from raypurify.purifiers.batch import purify_files, purify_pixels
from raypurify.runtime.poison import Care, poisonous

Step = TypeVar("Step")

DECODE_S, STEP_S = 120.0, 1800.0
SIGN_S = 2.0


@dataclass(frozen=True)
class Work:
    """What every actor needs to do any shard; ``pictured`` are the rows that go into the contact sheet, ``decode_s``
    and ``step_s`` what a step may take."""

    bundle: str
    sink: Sink
    max_pixels: int
    pictured: frozenset[int]
    engine: str = "actors"
    device: str = "cpu"
    threads: int = 1
    decode_s: float = DECODE_S
    step_s: float = STEP_S


class Sign(NamedTuple):
    """How far a shard is: how many images are ``done``, or which row is about to be probed."""

    done: int = 0
    row: int | None = None


@dataclass(frozen=True)
class ShardOutcome:
    """What became of a shard: how many ``images`` by outcome ("purified", or the reason of an error row) and the pairs
    to draw, and the ``seconds`` it took, or the error that left it undone."""

    shard: str
    images: Counter = field(default_factory=Counter)
    pairs: tuple[Pair, ...] = ()
    error: RaypurifyError | None = None
    seconds: float = 0.0


class ShardActor:
    """Does one shard at a time."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self._answered = False

    def start(self) -> str:
        """Load what every shard needs; the name of the machine. Apart from ``__init__``, so that what goes wrong comes
        as it is."""
        self._within(self.work.step_s)
        torch.set_num_threads(self.work.threads)
        self.metrics = ShardMetrics(str(self.work.sink.place))
        if self.work.engine == "serve":
            from raypurify.serve.client import purify_there

            bundle = load_bundle(self.work.bundle)
            self.purify, self.atoms = (
                partial(purify_there, heard=self._heard, digest=bundle.digest),
                bundle.dictionaries,
            )
        else:
            purifier = raypurify.load(self.work.bundle, self.work.device)
            self.purify, self.atoms = partial(purify_pixels, purifier), purifier.dictionaries
        faulthandler.cancel_dump_traceback_later()
        return socket.gethostname()

    def do(self, shard: Shard, care: Care) -> Iterator[Sign | ShardOutcome]:
        """Do a shard, with signs on the way; its outcome comes last, whatever happens."""
        try:
            if care.probe:
                yield from self._probe(shard, care)
            yield from self._do(shard, care)
        except RaypurifyError as error:
            yield ShardOutcome(shard.name, error=error)
        except Exception as error:
            logging.getLogger(__name__).exception("shard %s", shard.name)
            yield ShardOutcome(shard.name, error=_unforeseen(error))
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _do(self, shard: Shard, care: Care) -> Iterator[Sign | ShardOutcome]:
        work, begun = self.work, time.perf_counter()
        results: list[tuple[Row, bytes | ImageError, dict | None]] = []
        readable: dict[Any, Row] = {}
        pairs: list[Pair] = []

        def files() -> Iterator[tuple[int, bytes]]:
            self._within(work.step_s)
            for row in read_shard(shard):
                error = poisonous() if row.row in care.poison else row.error
                if error is not None:
                    results.append((replace(row, data=None), error, None))
                elif row.data is not None:
                    readable[row.row] = row
                    self._within(work.decode_s)
                    yield row.row, row.data
                    self._within(work.step_s)

        signed = time.monotonic()
        for step in self._steps(purify_files(self._purify, files(), work.sink.format, work.max_pixels)):
            if step is None:
                yield Sign(len(results))
                continue
            number, image, facts = step
            row = readable.pop(number)
            results.append((replace(row, data=None), image, facts))
            if number in work.pictured and row.data and facts and not isinstance(image, ImageError):
                caption = f"{facts['class']}, distance {facts['distance']:.1f}"
                pairs.append(Pair(row.id, row.data, image, caption, self.atoms[facts["cluster"]].cpu().numpy()))
            if time.monotonic() - signed > SIGN_S:
                yield Sign(len(results))
                signed = time.monotonic()
        self._within(work.step_s)
        stats = write_shard(work.sink, shard, results)
        outcomes = stats.reasons + Counter(purified=stats.written)
        seconds = time.perf_counter() - begun
        self.metrics.add(outcomes, stats.flagged, stats.bytes, seconds)
        yield ShardOutcome(shard.name, outcomes, tuple(pairs), seconds=seconds)

    def _probe(self, shard: Shard, care: Care) -> Iterator[Sign]:
        """Put every image through the whole way alone, and name it beforehand; what comes out is thrown away."""
        self._within(self.work.step_s)
        for row in read_shard(shard):
            if row.data is None or row.row in care.poison:
                continue
            yield Sign(row=row.row)
            self._within(self.work.decode_s)
            # Whatever it raises it will raise again.
            with suppress(Exception):
                alone = purify_files(self._purify, [(0, row.data)], self.work.sink.format, self.work.max_pixels)
                for step in self._steps(alone):
                    if step is None:
                        yield Sign(row=row.row)
            self._within(self.work.step_s)
            yield Sign()

    def _purify(self, images: list[np.ndarray]) -> list:
        self._within(self.work.step_s)
        return self.purify(images)

    def _heard(self) -> None:
        """Take note of an answer of the endpoint: what is asked of it has as long again."""
        self._within(self.work.step_s)
        self._answered = True

    def _steps(self, steps: Iterator[Step]) -> Iterator[Step | None]:
        """The steps as they are; where replicas purify, None also whenever they have answered while a step takes long,
        so that the driver can be told."""
        if self.work.engine != "serve":
            yield from steps
            return
        end: Any = object()
        with ThreadPoolExecutor(1) as thread:
            while True:
                step = thread.submit(next, steps, end)
                while wait([step], SIGN_S).not_done:
                    if self._answered:
                        self._answered = False
                        yield None
                if step.result() is end:
                    return
                yield step.result()

    @staticmethod
    def _within(seconds: float) -> None:
        """End this process, and leave its tracebacks in the log, unless the next step begins in time. This holds also
        where a decoder never gives the interpreter back."""
        faulthandler.dump_traceback_later(seconds, exit=True)


def _unforeseen(error: Exception) -> RaypurifyError:
    text = " ".join(str(error).split())
    try:
        log = os.readlink("/proc/self/fd/2")
    except OSError:
        log = "the worker's log of Ray"
    return RaypurifyError(
        f"{type(error).__name__}: {text[:200]} (not foreseen; its traceback is in {log} on {socket.gethostname()})"
    )
