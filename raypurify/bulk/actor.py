"""What an actor of a purify job does: one shard after the other (:mod:`raypurify.bulk.work`), in a process of its own.

A step that takes too long ends the process, wherever it hangs. Where replicas purify, a window mostly waits for its
turn: the seconds then count from the last answer of the endpoint.
"""

import faulthandler
import os
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any

import raypurify
from raypurify.bulk.metrics import ShardMetrics
from raypurify.bulk.work import SIGN_S, ShardWork, Step, Work
from raypurify.containers.sink import ShardStats


class ShardActor(ShardWork):
    """Does one shard at a time."""

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self._answered = False

    def start(self) -> str:
        """Load what every shard needs; the name of the machine. Apart from ``__init__``, so that what goes wrong comes
        as it is."""
        import torch

        from raypurify.purifiers.batch import purify_pixels

        self._within(self.work.step_s)
        torch.set_num_threads(self.work.threads)
        self.metrics = ShardMetrics(str(self.work.sink.place))
        if self.work.engine == "serve":
            from raypurify.serve.client import purify_there

            known = raypurify.load(self.work.bundle)
            self.purify = partial(purify_there, heard=self._heard, digest=known.digest)
            self.atoms = known.dictionaries
        else:
            purifier = raypurify.load(self.work.bundle, self.work.device)
            self.purify, self.atoms = partial(purify_pixels, purifier), purifier.dictionaries
        self._rest()
        return socket.gethostname()

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

    def _within(self, seconds: float) -> None:
        """End this process, and leave its tracebacks in the log, unless the next step begins in time. This holds also
        where a decoder never gives the interpreter back."""
        faulthandler.dump_traceback_later(seconds, exit=True)

    def _rest(self) -> None:
        faulthandler.cancel_dump_traceback_later()

    def _count(self, stats: ShardStats, seconds: float) -> None:
        self.metrics.add(stats.reasons + Counter(purified=stats.written), stats.flagged, stats.bytes, seconds)

    def _log(self) -> str:
        try:
            return os.readlink("/proc/self/fd/2")
        except OSError:
            return "the worker's log of Ray"
