"""Calls of one function for many items as tasks of the cluster, in bundles; an item that kills its process is told."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from raypurify.runtime.resources import cluster_resources

# Nodes that may be lost while files are looked into.
_MOST_GONE = 16
Item = TypeVar("Item")
Result = TypeVar("Result")


def in_tasks(
    function: Callable[[Item], Result], bundles: Iterable[Sequence[Item]], lost: Callable[[Item, str], Result]
) -> Iterator[Result]:
    """The results of ``function`` for every item of every bundle, in order; a bundle is one task.

    A task whose process or node dies is run again; where it dies again, each of its items is run alone, and one that
    dies still has the result ``lost(item, why)``. What ``function`` raises comes as it is.
    """
    import ray
    from ray.exceptions import OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError

    task: Any = ray.remote(num_cpus=1, max_retries=1)(_call)
    call = ray.put(function)
    most = max(64, 4 * cluster_resources().cpus)
    waiting: deque[tuple[Sequence[Item], Any]] = deque()
    gone = 0

    def results() -> Iterator[Result]:
        nonlocal gone
        items, future = waiting.popleft()
        try:
            yield from ray.get(future)
        except RayTaskError as error:
            raise error.cause from error
        except (WorkerCrashedError, OutOfMemoryError) as error:
            if len(items) == 1:
                yield lost(items[0], " ".join(str(error).split())[:200])
                return
            for item in items:
                waiting.appendleft(([item], task.remote(call, [item])))
                yield from results()
        except RayError:
            # Its node has gone twice, or with what it had found.
            gone += 1
            if gone > _MOST_GONE:
                raise
            waiting.appendleft((items, task.remote(call, items)))
            yield from results()

    for bundle in bundles:
        waiting.append((bundle, task.remote(call, bundle)))
        if len(waiting) > most:
            yield from results()
    while waiting:
        yield from results()


def _call(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    return [function(item) for item in items]
