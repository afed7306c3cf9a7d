"""How far a job is, read from the ledger of its output: what is done, how fast, and what failed."""

import time
from collections import Counter
from collections.abc import Callable
from functools import partial

from raypurify.containers.ledger import STATE, committed, read_counts, read_job
from raypurify.errors import SinkError
from raypurify.storage import Place, overlapped, resolve

# Looking takes no more than this part of the time, so that many shards on a slow store do not keep a supervisor busy.
_PART = 0.1
_LEAST_S = 1.0


class Tally:
    """Images of a job, by what became of them; each committed shard is read once.

    ``total`` is None until the job has planned its work, and ``older`` is the stamp of another job's record, which is
    to be overwritten and does not count. ``rate`` is in images a second of this run, None until it can be told.
    """

    def __init__(self, output: str, older: tuple[int, int] | None = None, clock: Callable[[], float] = time.monotonic):
        self.total: int | None = None
        self.shards: dict[str, tuple[int, Counter[str]]] = {}
        self._output, self._older, self._clock = output, older, clock
        self._next, self._begun = 0.0, clock()
        self._start: int | None = None
        self._first: tuple[float, int] | None = None
        self._latest: tuple[float, int] | None = None

    @property
    def written(self) -> int:
        """Images that were purified and written."""
        return sum(written for written, _ in self.shards.values())

    @property
    def failed(self) -> Counter[str]:
        """Images that could not be purified, by reason."""
        return sum((failed for _, failed in self.shards.values()), Counter())

    @property
    def done(self) -> int:
        """Images that are done, well or not."""
        return self.written + self.failed.total()

    @property
    def rate(self) -> float | None:
        """Images a second since this run's first shard was committed, or since it began where that is the only one."""
        if self._latest is None or self._start is None or self._first is None:
            return None
        (then, before), (now, done) = self._first, self._latest
        if done <= before:
            then, before = self._begun, self._start
        return (done - before) / (now - then) if now > then and done > before else None

    @property
    def eta_s(self) -> float | None:
        """Seconds until all is done, at this rate; None where that cannot be told."""
        rate, left = self.rate, (self.total or 0) - self.done
        return left / rate if rate and left > 0 else None

    def update(self, *, at_once: bool = False) -> None:
        """Look again, unless that was done a moment ago. Raises SinkError or OSError where nothing can be read."""
        began = self._clock()
        if began < self._next and not at_once:
            return
        try:
            self._look(began)
        finally:
            took = self._clock() - began
            self._next = began + took + max(_LEAST_S, took / _PART)

    def _look(self, now: float) -> None:
        out = resolve(self._output)
        if self._older and stamp_of_job(out) == self._older:
            return
        self._older = None
        try:
            job = read_job(out)
        except IsADirectoryError:
            # No record can be written there.
            job = {}
        if job is None:
            return
        self.total = _total(out, job)
        names = committed(out)
        kept = {name: self.shards[name] for name in names if name in self.shards}
        new = [name for name in names if name not in kept]
        counts = zip(new, overlapped(partial(_counts, out), new))
        self.shards = kept | {name: count for name, count in counts if count is not None}
        done = self.done
        if self._start is None:
            self._start = done
        if done > self._start and (self._latest is None or done != self._latest[1]):
            self._latest = now, done
            self._first = self._first or self._latest


def _total(out: Place, job: dict) -> int | None:
    """Images of a job, None while it still looks into its input. Raises SinkError on a damaged record."""
    source = job.get("source")
    if isinstance(source, dict) and isinstance(source.get("rows"), int) and source["rows"] >= 0:
        return None if "planned" in source else source["rows"]
    file = out / STATE / "job.json"
    raise SinkError(f"{file}: is damaged; choose another output, or replace this one by --overwrite")


def _counts(out: Place, shard: str) -> tuple[int, Counter[str]] | None:
    try:
        return read_counts(out, shard)
    except SinkError:
        # Taken back in this moment, to be done again; or broken, which the job itself will say.
        return None


def stamp_of_job(out: Place) -> tuple[int, int] | None:
    """What tells the record of the job of an output from another one, None where there is none. Raises OSError."""
    file = out / STATE / "job.json"
    return file.stamp if file.kind == "file" else None
