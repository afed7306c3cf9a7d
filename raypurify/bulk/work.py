"""One shard of a purify job: read, decoded, purified, encoded and committed; only numbers and pairs to draw come out.

Who does it says what ends a step that takes too long: one image may be decoded for ``DECODE_S`` seconds, one window of
at most 2²⁴ pixels be purified and encoded for ``STEP_S``, a shard be written for as long.
"""

import logging
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from raypurify.containers.contract import Sink
from raypurify.containers.rows import Row, Shard
from raypurify.containers.sink import ShardStats, write_shard
from raypurify.containers.source import read_shard
from raypurify.errors import ImageError, RaypurifyError
from raypurify.pictures import Pair
from raypurify.runtime.poison import Care, poisonous

if TYPE_CHECKING:
    import numpy as np

Step = TypeVar("Step")

DECODE_S, STEP_S = 120.0, 1800.0
SIGN_S = 2.0


@dataclass(frozen=True)
class Work:
    """What every actor needs to do any shard; ``pictured`` are the rows that go into the contact sheet, ``coders`` the
    threads that decode and encode beside the purifier (0: it waits for both), ``decode_s`` and ``step_s`` what a step
    may take."""

    bundle: str
    sink: Sink
    max_pixels: int
    pictured: frozenset[int]
    engine: str = "actors"
    device: str = "cpu"
    threads: int = 1
    coders: int = 0
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


class ShardWork:
    """Does one shard at a time by ``purify``, which does what ``purify_pixels`` does; ``atoms`` are the dictionaries,
    for the pairs to draw. Those who work say by the methods at the end what limits and counts them."""

    purify: Any
    atoms: Any

    def __init__(self, work: Work) -> None:
        self.work = work

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
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            text += f" (not foreseen; its traceback is in {self._log()} on {socket.gethostname()})"
            yield ShardOutcome(shard.name, error=RaypurifyError(text))
        finally:
            self._rest()

    def _do(self, shard: Shard, care: Care) -> Iterator[Sign | ShardOutcome]:
        # Who only plans and waits has no torch.
        from raypurify.purifiers.batch import purify_files

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
        given = (work.sink.format, work.max_pixels, work.sink.compression, work.coders)
        for step in self._steps(purify_files(self._purify, files(), *given, partial(self._within, work.decode_s))):
            if step is None:
                yield Sign(len(results))
                continue
            number, image, facts = step
            row = readable.pop(number)
            results.append((replace(row, data=None), image, facts))
            if number in work.pictured and row.data and facts and not isinstance(image, ImageError):
                atoms = self.atoms[facts["cluster"]].cpu().numpy()
                pairs.append(Pair(row.id, row.data, image, _caption(facts), atoms, facts.get("region")))
            if time.monotonic() - signed > SIGN_S:
                yield Sign(len(results))
                signed = time.monotonic()
        self._within(work.step_s)
        stats = write_shard(work.sink, shard, results)
        outcomes = stats.reasons + Counter(purified=stats.written)
        seconds = time.perf_counter() - begun
        self._count(stats, seconds)
        yield ShardOutcome(shard.name, outcomes, tuple(pairs), seconds=seconds)

    def _probe(self, shard: Shard, care: Care) -> Iterator[Sign]:
        """Put every image through the whole way alone, and name it beforehand; what comes out is thrown away."""
        from raypurify.purifiers.batch import purify_files

        self._within(self.work.step_s)
        for row in read_shard(shard):
            if row.data is None or row.row in care.poison:
                continue
            yield Sign(row=row.row)
            self._within(self.work.decode_s)
            # Whatever it raises it will raise again.
            with suppress(Exception):
                given = (self.work.sink.format, self.work.max_pixels, self.work.sink.compression)
                alone = purify_files(self._purify, [(0, row.data)], *given)
                for step in self._steps(alone):
                    if step is None:
                        yield Sign(row=row.row)
            self._within(self.work.step_s)
            yield Sign()

    def _purify(self, images: "list[np.ndarray]") -> list:
        self._within(self.work.step_s)
        return self.purify(images)

    def _steps(self, steps: Iterator[Step]) -> Iterator[Step | None]:
        """The steps as they are, and None between them where there is a sign to give."""
        yield from steps

    def _within(self, seconds: float) -> None:
        """The next step begins now, and may take so long."""

    def _rest(self) -> None:
        """No step is at hand."""

    def _count(self, stats: ShardStats, seconds: float) -> None:
        """A shard was committed."""

    def _log(self) -> str:
        """Where tracebacks are."""
        return "what this process wrote to standard error"


def _caption(facts: dict) -> str:
    """What a contact sheet says below an image: the class of the nearest cluster, and how far it is from that."""
    if "region_share" in facts:
        return f"{facts['region_share']:.0%} coded, distance {facts['distance']:.2f}"
    return f"nearest: {facts['class'] or 'cluster ' + str(facts['cluster'])}, at {facts['distance']:.1f}"
