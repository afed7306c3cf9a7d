"""A pool of actors that work off items, any of which may die at any time.

``Pool`` tells what happens, and its user decides what a death means; ``work_off`` is the common case, where an item is
begun again until it has cost too many actors.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from raypurify.errors import TrainingError
from raypurify.runtime.observed import actor_lost
from raypurify.runtime.poison import LIVES

# How often who waits for events may look at other things; how many actors may wait for a cluster to grow.
TICK, LEAST_PENDING, MOST_PENDING = 1.0, 8, 64
# Seconds until actors are started again after one that did not start, doubled with each in a row: what ails a node may
# pass, and all tries within a second would say nothing.
LEAST_PAUSE, MOST_PAUSE = 0.5, 5.0

Item = TypeVar("Item")
Named = TypeVar("Named", bound=Hashable)


class Event(NamedTuple):
    """What happened in a pool. An actor is ``ready``, and the value is what it said at its start; the call of an item
    ``said`` something, is ``done``, or ``failed`` with the error in ``value`` while its actor lives; the actor ``died``
    over an item, or before it had any (None). A ``tick`` is a second in which nothing happened."""

    kind: Literal["ready", "said", "done", "failed", "died", "tick"]
    item: Any = None
    value: Any = None
    where: Any = None


@dataclass(eq=False)
class _Seat(Generic[Item]):
    """An actor, where it said that it is, the item in its hands, and when that gave its last sign."""

    actor: Any
    item: Item | None = None
    where: Any = None
    sign: float = field(default_factory=time.monotonic)


class Pool(Generic[Item]):
    """Actors that each do one item at a time, in the order of ``waiting``, where the user puts items back.

    Args:
        items: what to do.
        start: starts an actor that Ray does not restart, e.g. ``lambda: Worker.remote()``.
        call: ``call(actor, item)`` begins an item in an actor and returns its future, or its stream of values.
        size: number of actors to begin with ≥ 1; more than there is room for do no harm.
        most: how many there may be where the cluster grows: some more than it has room for wait, so that it does.
        ready: the first call of an actor, whose value says where it is.
        patience: seconds without a value after which an actor counts as dead; None: for ever.

    While ``more`` is set, others may be put into ``waiting``, and there is no end.
    """

    def __init__(
        self,
        items: Iterable[Item],
        start: Callable[[], Any],
        call: Callable[[Any, Item], Any],
        size: int,
        most: int | None = None,
        ready: Callable[[Any], Any] = lambda actor: actor.__ray_ready__.remote(),
        patience: float | None = None,
    ):
        self.waiting = deque(items)
        self.size, self.most = size, most or size
        self.more = False
        self._start, self._call, self._ready, self._patience = start, call, ready, patience
        self._idle: list[_Seat[Item]] = []
        self._busy: dict[Any, _Seat[Item]] = {}
        self._false_starts, self._not_before = 0, 0.0

    @property
    def alive(self) -> int:
        """How many actors have started."""
        return len(self._idle) + self._at_work

    @property
    def _at_work(self) -> int:
        return sum(seat.item is not None for seat in self._busy.values())

    def events(self) -> Generator[Event, None, None]:
        """What happens until nothing waits or is at work, nor may come; to be closed, which kills the actors."""
        import ray

        try:
            while self.waiting or self._at_work or self.more:
                self._fill()
                yield from self._overdue()
                heard: list = []
                if self._busy:
                    heard, _ = ray.wait(list(self._busy), timeout=TICK)
                else:
                    time.sleep(TICK)
                yield self._hear(heard[0]) if heard else Event("tick")
        finally:
            for seat in (*self._idle, *self._busy.values()):
                ray.kill(seat.actor)

    def _fill(self) -> None:
        import ray

        while self._idle and self.waiting:
            seat, item = self._idle.pop(), self.waiting.popleft()
            seat.item, seat.sign = item, time.monotonic()
            self._busy[self._call(seat.actor, item)] = seat
        alive, starting = self.alive, [handle for handle, seat in self._busy.items() if seat.item is None]
        if not self.waiting and not self.more:
            # A cluster that grows should not do so for them.
            for handle in starting:
                ray.kill(self._busy.pop(handle).actor)
            return
        if time.monotonic() < self._not_before:
            return
        room = max(self.size - alive, min(max(alive, LEAST_PENDING), MOST_PENDING))
        wanted = min(self.most - alive, len(self.waiting), room)
        for _ in range(wanted - len(starting)):
            seat = _Seat(self._start())
            self._busy[self._ready(seat.actor)] = seat

    def _hear(self, handle: Any) -> Event:
        import ray
        from ray.exceptions import RayError, RayTaskError

        seat = self._busy[handle]
        item, stream = seat.item, isinstance(handle, ray.ObjectRefGenerator)
        try:
            value = ray.get(next(handle)) if stream else ray.get(handle)
            seat.sign = time.monotonic()
            if stream:
                return Event("said", item, value, seat.where)
        except StopIteration:
            value = None
        except RayTaskError as error:
            if item is None:
                return self._lost(handle, error)
            self._rest(handle)
            return Event("failed", item, error, seat.where)
        except RayError as error:
            return self._lost(handle, error)
        self._rest(handle)
        if item is None:
            seat.where, self._false_starts = value, 0
            return Event("ready", None, value, value)
        return Event("done", item, value, seat.where)

    def _rest(self, handle: Any) -> None:
        seat = self._busy.pop(handle)
        seat.item = None
        self._idle.append(seat)

    def _lost(self, handle: Any, error: Exception) -> Event:
        import ray

        seat = self._busy.pop(handle)
        # It may be out of reach only, and would do the same work beside its replacement.
        ray.kill(seat.actor)
        if seat.item is None:
            pause = min(MOST_PAUSE, LEAST_PAUSE * 2 ** min(self._false_starts, 8))
            self._false_starts, self._not_before = self._false_starts + 1, time.monotonic() + pause
        return Event("died", seat.item, error, seat.where)

    def _overdue(self) -> Iterator[Event]:
        now = time.monotonic()
        for handle, seat in list(self._busy.items()):
            if self._patience and seat.item is not None and now - seat.sign > self._patience:
                yield self._lost(handle, TimeoutError(f"it gave no sign for {now - seat.sign:.0f} s"))


def work_off(
    items: Iterable[Named], noun: str, start: Callable[[], Any], size: int, call: Callable[[Any, Named], Any]
) -> Iterator[Named]:
    """Do every item in one of ``size`` actors and yield it when it is done; items begin in their order.

    An actor that dies, alone or with its node, is replaced, and its item is begun again by the first actor that is
    free. No item waits for one particular actor: in a cluster that has become smaller a replacement may never find
    room, and the others do the work.

    Args:
        items: what to do, each hashable and not None.
        noun: what an item is called in an error, e.g. "cluster".
        start: starts an actor that Ray does not restart, e.g. ``lambda: Worker.remote()``.
        size: number of actors ≥ 1; more than there is room for do no harm.
        call: ``call(actor, item)`` begins an item in an actor and returns its future.

    Raises:
        TrainingError: ``LIVES`` actors died over one item, or as many for each place in the pool, one after the other,
            before they did anything. What the work itself raises comes as it is.
    """
    pool = Pool(items, start, call, size)
    deaths: Counter[Named | None] = Counter()
    with closing(pool.events()) as events:
        for kind, item, error, _ in events:
            if kind == "ready":
                deaths[None] = 0
            if kind == "failed":
                raise error.cause from error  # whose message is not a remote traceback
            if kind == "died":
                actor_lost(error, item)
                deaths[item] += 1
                if deaths[item] == (LIVES * size if item is None else LIVES):
                    over = "before they did anything" if item is None else f"over {noun} {item}"
                    raise TrainingError(
                        f"{deaths[item]} actors died {over}; if memory ran out, let fewer work at once: {error}"
                    ) from error
                if item is not None:
                    pool.waiting.appendleft(item)
            if kind == "done":
                yield item
