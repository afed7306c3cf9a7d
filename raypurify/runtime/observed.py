"""A stage while it runs: shown to people, logged as events, counted for Prometheus, and what is lost on the way."""

import logging
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from raypurify.runtime.display import State, shown
from raypurify.runtime.events import about, log_event, surroundings
from raypurify.runtime.metrics import StageMeter, add_count

# How often the driver looks for nodes that have gone.
_LOOK = 5.0
_IP = re.compile(r"\bip: ([\w.:]+)")


@contextmanager
def observed(run: str, stage: str, read: Callable[[], State | None], title: str | None = None) -> Iterator[None]:
    """Tell of a stage of a run while the block does its work: that it begins, how far it is by the progress state that
    ``read()`` gives, which nodes are lost meanwhile, and how it ends. ``title`` is what people see; default: the
    stage."""
    meter, nodes, begun = StageMeter(run, stage), _Nodes(), time.monotonic()

    def look() -> State | None:
        state = read()
        # Nobody is left without progress, or without the error that ended a stage, for want of a count.
        with suppress(Exception):
            if state:
                meter.look(state, time.monotonic() - begun)
        nodes.look()
        return state

    with about(run=run, stage=stage, **_job()):
        log_event("stage_begun")
        nodes.look()
        try:
            try:
                with shown(title or stage, look):
                    yield
            finally:
                nodes.look(now=True)
        except BaseException as error:
            seconds, failed = time.monotonic() - begun, isinstance(error, Exception)
            with suppress(Exception):
                if failed:
                    meter.failed(error)
            log_event(
                "stage_failed" if failed else "stage_interrupted",
                level=logging.ERROR if failed else logging.WARNING,
                seconds=seconds,
                error=" ".join(f"{type(error).__name__}: {error}".split()),
            )
            raise
        with suppress(Exception):
            meter.finish(time.monotonic() - begun)
        log_event("stage_done", seconds=time.monotonic() - begun)


def actor_lost(error: BaseException, item: Any = None, plain: str = "", **facts: Any) -> None:
    """Tell that an actor died of ``error``, over ``item`` unless that is None; ``plain`` is for people."""
    around = surroundings()
    tags = {name: str(around.get(name, "")) for name in ("run", "stage")}
    add_count("lost_actors", "Actors that died at their work.", tags)
    if item is not None:
        facts["item"] = str(item)
    # Ray says it there, and nowhere else.
    if found := _IP.search(str(error)):
        facts.setdefault("node", found[1])
    why = next(iter(str(error).strip().splitlines()), "")
    log_event("actor_lost", plain, logging.WARNING, aside=True, error=why, **facts)


class _Nodes:
    """The nodes that were there at the last look."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._at = -_LOOK

    def look(self, now: bool = False) -> None:
        """Tell of those that have gone since; unless it is to be done ``now``, not too often."""
        ray = sys.modules.get("ray")
        if (time.monotonic() - self._at < _LOOK and not now) or not ray or not ray.is_initialized():
            return
        self._at = time.monotonic()
        try:
            alive = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
        except Exception:  # Ray itself has gone: whoever works with it will say so
            return
        for node in self._known.keys() - alive.keys():
            log_event("node_lost", level=logging.WARNING, node=self._known[node], node_id=node)
        self._known = alive


def _job() -> dict[str, str]:
    """The ID of this process's job of Ray, where it has one."""
    ray = sys.modules.get("ray")
    if not ray or not ray.is_initialized():
        return {}
    return {"job": ray.get_runtime_context().get_job_id()}
