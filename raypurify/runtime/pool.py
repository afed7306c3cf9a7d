"""A pool of actors that work off items, one each at a time, and that outlives any of its actors."""

from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, TypeVar

from raypurify.errors import TrainingError

LIVES = 4

Item = TypeVar("Item", bound=Hashable)


def work_off(
    items: Iterable[Item], noun: str, start: Callable[[], Any], size: int, call: Callable[[Any, Item], Any]
) -> Iterator[Item]:
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
        TrainingError: ``LIVES`` actors died over one item, or as many for each place in the pool before they did
            anything. What the work itself raises comes as it is.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    waiting = deque(items)
    left = len(waiting)
    deaths: Counter[Item | None] = Counter()
    actors: list[Any] = []
    idle: list[Any] = []
    busy: dict[Any, tuple[Any, Item | None]] = {}
    item: Item | None

    def launch() -> None:
        actors.append(start())
        busy[actors[-1].__ray_ready__.remote()] = actors[-1], None

    try:
        for _ in range(size):
            launch()
        while left:
            while idle and waiting:
                actor, item = idle.pop(), waiting.popleft()
                busy[call(actor, item)] = actor, item
            (future,), _ = ray.wait(list(busy))
            actor, item = busy.pop(future)
            try:
                ray.get(future)
            except RayTaskError as error:
                raise error.cause from error  # whose message is not a remote traceback
            except RayError as error:
                ray.kill(actor)  # it may be out of reach only, and would do the same work beside its replacement
                deaths[item] += 1
                if deaths[item] == (LIVES * size if item is None else LIVES):
                    over = "before they did anything" if item is None else f"over {noun} {item}"
                    raise TrainingError(
                        f"{deaths[item]} actors died {over}; if memory ran out, let fewer work at once: {error}"
                    ) from error
                if item is not None:
                    waiting.appendleft(item)
                launch()
            else:
                idle.append(actor)
                if item is not None:
                    left -= 1
                    yield item
    finally:
        for actor in actors:
            ray.kill(actor)
