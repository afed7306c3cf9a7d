"""Calls of one function for many items as tasks of the cluster, in bundles; an item that kills its process is told."""

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from raypurify.runtime.resources import cluster_resources

# Nodes that may be lost while files are looked into.
_MOST_GONE = 16
# Tasks that have ended, and wait for one before them.
_MOST_HELD = 256
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

    task: Any = ray.remote(max_retries=1)(_call)
    call = ray.put(function)
    waiting: deque[tuple[Sequence[Item], Any]] = deque()
    gone = 0

    def begin(items: Sequence[Item]) -> Any:
        return task.options(**_beside_actors()).remote(call, items)

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
                waiting.appendleft(([item], begin([item])))
                yield from results()
        except RayError:
            # Its node has gone twice, or with what it had found.
            gone += 1
            if gone > _MOST_GONE:
                raise
            waiting.appendleft((items, begin(items)))
            yield from results()

    for bundle in bundles:
        waiting.append((bundle, begin(bundle)))
        _wait_for_room([future for _, future in waiting])
        while waiting and (len(waiting) > _MOST_HELD or ray.wait([waiting[0][1]], timeout=0)[0]):
            yield from results()
    while waiting:
        yield from results()


def _beside_actors() -> dict[str, Any]:
    """Where a task goes: to any node that has CPUs, also where actors have taken them all, for it mostly waits for what
    it reads. While there is no such node, it asks for one."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    if not nodes:
        return {"num_cpus": 1}
    return {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(random.choice(nodes), soft=True)}


def _wait_for_room(futures: list[Any]) -> None:
    """Wait until fewer tasks run than the cluster has CPUs."""
    import ray

    while True:
        _, at_work = ray.wait(futures, num_returns=len(futures), timeout=0, fetch_local=False)
        if len(at_work) < max(1, cluster_resources().cpus):
            return
        ray.wait(at_work, timeout=1.0, fetch_local=False)


def _call(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    return [function(item) for item in items]
