"""The shards of a purify job in threads of this process around one purifier, for sets that are done sooner than a Ray
would have started.

Nothing here outlives an image that kills its process, or takes one away that hangs: a note says what is at work
(:mod:`raypurify.containers.at_work`), and the next run leaves that to actors (:mod:`raypurify.bulk.engine`).
"""

import math
import os
import queue
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from raypurify.bulk.shards import ActorShape, fit_pool, for_shape
from raypurify.bulk.tally import Tally
from raypurify.bulk.work import ShardOutcome, ShardWork, Sign, Work
from raypurify.containers.at_work import AtWork
from raypurify.containers.contract import Sink
from raypurify.containers.rows import Shard
from raypurify.errors import RaypurifyError, SinkError
from raypurify.pictures import Pair
from raypurify.runtime.poison import Care

if TYPE_CHECKING:
    from raypurify.purifiers import Bundled

TICK, ENDS_S = 1.0, 10.0


def load_here(bundle: str, gpus: float | None) -> "Bundled":
    """The purifier of this process, on a GPU where there is one and an actor may have a part of it.

    Raises BundleError.
    """
    import torch

    import raypurify

    return raypurify.load(bundle, "cuda" if gpus != 0 and torch.cuda.is_available() else "cpu")


def work_off_here(
    shards: list[Shard],
    mine: list[Shard],
    work: Work,
    shape: ActorShape,
    check: Callable[[], None],
    note: AtWork,
    loaded: "Future[Bundled]",
) -> list[Pair]:
    """Do every shard of those of ``mine`` that are left, and commit it, by the purifier that is being ``loaded``, in as
    many threads as there would be actors. ``check`` is called every second at least and may raise. Returns the pairs
    for the contact sheet. In the main thread SIGTERM raises KeyboardInterrupt, as Ctrl-C does, where nobody else
    handles it.

    Raises SinkError at the first shard that cannot be written, RaypurifyError where a step hangs, and after all others,
    where some could not be done, SourceError or RaypurifyError.
    """
    tally = Tally(mine, shards, str(work.sink.place), "loading")
    with tally.observed(), _terminable():
        purifier = loaded.result()
        shape, size, _ = fit_pool(shape, len(shards), _cpus(), int(purifier.device.type == "cuda"), grows=False)
        work = for_shape(work, shape, str(purifier.device))
        tally.progress.begin()
        with _torch_threads(work.threads):
            _Threads(shards, work, purifier, note, size).run(tally, check)
    tally.refuse_undone()
    return tally.pairs


class _Ended(BaseException):
    """Ends a thread that is not to go on; no handler of errors takes it for one."""


@dataclass(frozen=True)
class _Closing(Sink):
    """An output that takes nothing more of the job once it is ``over``: what its caller does next may write there."""

    over: threading.Event = field(default_factory=threading.Event)

    def put(self, name: str, data: bytes) -> None:
        self._check()
        super().put(name, data)

    @contextmanager
    def putting(self, name: str) -> Iterator[BinaryIO]:
        with super().putting(name) as file:
            yield file
            self._check()

    def commit(self, shard: str, provenance: list[dict], errors: list[dict]) -> None:
        self._check()
        super().commit(shard, provenance, errors)

    def remove(self, name: str) -> None:
        self._check()
        super().remove(name)

    def _check(self) -> None:
        if self.over.is_set():
            raise _Ended


class _Thread(ShardWork):
    """One of the threads; ``until`` is when the step that it is at should have ended."""

    def __init__(self, work: Work, purifier: "Bundled", stop: threading.Event) -> None:
        from raypurify.purifiers.batch import purify_pixels

        super().__init__(work)
        self.purify, self.atoms = partial(purify_pixels, purifier), purifier.dictionaries
        self.shard, self.until, self._stop = "", math.inf, stop

    def _within(self, seconds: float) -> None:
        if self._stop.is_set():
            raise _Ended
        self.until = time.monotonic() + seconds

    def _rest(self) -> None:
        self.until = math.inf


class _Threads:
    """Threads that do shards until none waits, and what they say."""

    def __init__(self, shards: list[Shard], work: Work, purifier: "Bundled", note: AtWork, size: int) -> None:
        self._waiting, self._note = deque(shards), note
        self._stop, self._over = threading.Event(), threading.Event()
        work = replace(work, sink=_Closing(**vars(work.sink), over=self._over))
        self._said: queue.SimpleQueue[tuple[Shard, Sign | ShardOutcome] | None] = queue.SimpleQueue()
        self._workers = [_Thread(work, purifier, self._stop) for _ in range(size)]
        # The process ends without those that hang.
        self._threads = [threading.Thread(target=self._do, args=(one,), daemon=True) for one in self._workers]

    def run(self, tally: Tally, check: Callable[[], None]) -> None:
        """Do all shards. Raises what ``check`` raises, SinkError, and RaypurifyError where a step hangs, whose shards
        stay in the note."""
        for thread in self._threads:
            thread.start()
        hung: list[_Thread] = []
        try:
            for said in self._events():
                if said:
                    tally.take(*said, socket.gethostname())
                check()
                if hung := [one for one in self._workers if one.until < time.monotonic()]:
                    raise RaypurifyError(
                        f"shard {hung[0].shard}: a step of it takes too long, as of an image that hangs its decoder; "
                        "run the same command again with --engine actors, which goes on from here and leaves such "
                        "images out"
                    )
        finally:
            self._end(tally, hung)

    def _end(self, tally: Tally, hung: list[_Thread]) -> None:
        """Let all but those that are ``hung`` come to an end, and none write after this."""
        self._stop.set()
        until = time.monotonic() + ENDS_S
        try:
            for worker, thread in zip(self._workers, self._threads):
                if worker not in hung:
                    thread.join(max(0.0, until - time.monotonic()))
        finally:
            self._over.set()
            if not hung:
                self._note.clear()
        # What was committed meanwhile is counted, too.
        while not self._said.empty():
            if (said := self._said.get()) and not getattr(said[1], "error", None):
                tally.take(*said, socket.gethostname())

    def _events(self) -> Iterator[tuple[Shard, Sign | ShardOutcome] | None]:
        """What the threads say, and None each second without anything, until the last of them has ended."""
        alive = len(self._threads)
        while alive:
            try:
                said = self._said.get(timeout=TICK)
            except queue.Empty:
                yield None
                continue
            alive -= said is None
            yield said

    def _do(self, worker: _Thread) -> None:
        try:
            while not self._stop.is_set():
                try:
                    shard = self._waiting.popleft()
                except IndexError:
                    return
                worker.shard = shard.name
                for said in self._noted(worker, shard):
                    self._said.put((shard, said))
        except _Ended:
            return
        finally:
            self._said.put(None)

    def _noted(self, worker: _Thread, shard: Shard) -> Iterator[Sign | ShardOutcome]:
        try:
            self._note.begin(shard.name)
        except OSError as error:
            text = f"{worker.work.sink.place}: cannot be written: {error}; run again when mended"
            yield ShardOutcome(shard.name, error=SinkError(text))
            return
        yield from worker.do(shard, Care())
        self._note.end(shard.name)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM interrupts the block: a process that it ended at once would leave its note, as if an image had killed
    it."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    """As many threads of torch as an actor has, so that sums are of the same order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
