"""Continuous batching without Ray: images wait in a lane, whose worker takes a batch whenever it is free.

A batch holds images of one kind (their size), up to a number of pixels. Next is the kind whose oldest image has the
smallest sum of its arrival and the seconds it is expected to take: small images go first, and a large one waits only
for what arrived before it or within those seconds after it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

# How much of the newest batch goes into the expected seconds a pixel.
_WEIGHT = 0.2


class Full(Exception):
    """Refusal of an image for which there is no room, or no time; ``args`` are the seconds until there may be."""

    @property
    def retry_after(self) -> float:
        """Seconds until there may be room."""
        return self.args[0]


class TooLate(Exception):
    """End of an image's wait: its time was up before there was an answer."""


@dataclass(eq=False)
class _Waiting:
    item: Any
    kind: Hashable
    pixels: int
    arrived: float
    answer: asyncio.Future


class Lane:
    """One worker and the items that wait for it.

    ``work`` gets the items of a batch and returns as many results, each a value or the Exception of its item; what it
    raises is the answer to the whole batch. A batch holds at most ``batch_pixels``, or one item. Items of more than
    ``room`` pixels together are not let in, except one where none waits. ``pace`` is the first guess of seconds a
    pixel, which is learned from there on. ``told`` is called after a batch: how long each item waited, the batch's
    pixels, and the seconds that it took.
    """

    def __init__(
        self,
        work: Callable[[list[Any]], Awaitable[Sequence[Any]]],
        *,
        batch_pixels: float,
        room: float,
        pace: float,
        told: Callable[[list[float], int, float], None] = lambda waits, pixels, seconds: None,
    ):
        self.work, self.batch_pixels, self.room, self.pace = work, batch_pixels, room, pace
        self.told = told
        self.waiting = self.at_work = 0
        self._kinds: dict[Hashable, dict[_Waiting, None]] = {}
        self._worker: asyncio.Task | None = None
        self._begun, self._busy_s = 0.0, 0.0

    async def submit(self, item: Any, kind: Hashable, pixels: int, seconds: float | None = None) -> Any:
        """Wait for the worker's answer to ``item``, for ``seconds`` at most.

        Raises Full at once where there is no room or the answer cannot be there in time, TooLate when time is up, and
        what the work raised. An item whose caller is cancelled, or late, is not begun.
        """
        backlog = self.backlog_s
        if self._kinds and self.waiting + pixels > self.room:
            raise Full(backlog)
        if seconds is not None and backlog > seconds:
            raise Full(backlog - seconds)
        loop = asyncio.get_running_loop()
        waiting = _Waiting(item, kind, pixels, loop.time(), loop.create_future())
        self._kinds.setdefault(kind, {})[waiting] = None
        self.waiting += pixels
        if self._worker is None:
            self._worker = loop.create_task(self._work_off())
        try:
            done, _ = await asyncio.wait({waiting.answer}, timeout=seconds)
            if not done:
                raise TooLate
            result = waiting.answer.result()
            if isinstance(result, Exception):
                raise result
            return result
        finally:
            waiting.answer.cancel()
            self._leave(waiting)

    @property
    def backlog_s(self) -> float:
        """Seconds that the work at hand and all that waits are expected to take."""
        return self.pace * (self.waiting + self.at_work)

    def busy_s(self, now: float) -> float:
        """Seconds that the worker has worked until ``now``, of the running loop's clock."""
        return self._busy_s + (now - self._begun if self.at_work else 0.0)

    async def _work_off(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._next():
            self._begun, self.at_work = loop.time(), sum(waiting.pixels for waiting in batch)
            try:
                results = await self.work([waiting.item for waiting in batch])
                if len(results) != len(batch):
                    raise RuntimeError(f"{len(results)} results for {len(batch)} images")
            except Exception as error:
                results = [error] * len(batch)
            spent = loop.time() - self._begun
            self.pace += _WEIGHT * (spent / self.at_work - self.pace)
            self.told([self._begun - waiting.arrived for waiting in batch], self.at_work, spent)
            self._busy_s, self.at_work = self._busy_s + spent, 0
            for waiting, result in zip(batch, results):
                if not waiting.answer.done():
                    waiting.answer.set_result(result)
            # Those who have their answer go before the next batch is chosen.
            await asyncio.sleep(0)
        self._worker = None

    def _next(self) -> list[_Waiting]:
        if not self._kinds:
            return []
        chosen = min(self._kinds.values(), key=self._turn)
        count = max(1, int(self.batch_pixels // next(iter(chosen)).pixels))
        batch = [waiting for waiting, _ in zip(chosen, range(count))]
        for waiting in batch:
            self._leave(waiting)
        return batch

    def _turn(self, kind: dict[_Waiting, None]) -> float:
        oldest = next(iter(kind))
        return oldest.arrived + self.pace * oldest.pixels

    def _leave(self, waiting: _Waiting) -> None:
        kind = self._kinds.get(waiting.kind, {})
        if waiting in kind:
            del kind[waiting]
            self.waiting -= waiting.pixels
            if not kind:
                del self._kinds[waiting.kind]
