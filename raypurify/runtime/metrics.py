"""What the driver of a run counts for Prometheus: stages by run and name, their failures, actors that were lost.

Ray exports it on the driver's node. Without Ray nothing is counted.
"""

import sys
from typing import Any


def set_gauge(name: str, text: str, tags: dict[str, str], value: float) -> None:
    """Set a gauge; a tag is a fact of what is measured."""
    if _ray():
        from ray.util.metrics import Gauge

        Gauge(f"raypurify_{name}", text, tuple(tags)).set(value, tags)


def add_count(name: str, text: str, tags: dict[str, str], value: float = 1) -> None:
    """Count ``value`` more; Ray's counters refuse zeros."""
    if value > 0 and _ray():
        from ray.util.metrics import Counter

        Counter(f"raypurify_{name}", text, tuple(tags)).inc(value, tags)


def _ray() -> bool:
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


class StageMeter:
    """The metrics of one stage of a run, from the states of its progress:

    * ``raypurify_stage_done`` and ``raypurify_stage_total``, by ``unit``: how far it is, with what an earlier run did;
    * ``raypurify_stage_work``, a counter by ``unit``: what this run has done;
    * ``raypurify_stage_seconds``: how long this run has been at it;
    * ``raypurify_stage_value`` by ``measure``: what else there is: loss, validation_accuracy, epoch, clusters …
    """

    def __init__(self, run: str, stage: str) -> None:
        self._tags = {"run": run, "stage": stage}
        self._state: dict[str, Any] | None = None

    def look(self, state: dict[str, Any], seconds: float) -> None:
        """Take over a state of the progress after so many seconds of the stage."""
        done, before = state["done"], self._state
        # What an earlier run had done may become known on the way.
        new = done - state["start"] - (before["done"] - before["start"] if before else 0)
        self._state = dict(state)
        tags = self._tags | {"unit": state["unit"]}
        set_gauge("stage_done", "Work of a stage that is done.", tags, done)
        set_gauge("stage_total", "Work of a stage in all, as far as it is known.", tags, state["total"])
        add_count("stage_work", "Work of a stage that this run has done.", tags, new)
        for name, value in state.get("values", {}).items():
            set_gauge("stage_value", "What a stage measures, by name.", self._tags | {"measure": name}, value)
        self.took(seconds)

    def finish(self, seconds: float) -> None:
        """Take note that the stage is done; who counts its work may be behind."""
        if self._state:
            self.look(self._state | {"done": self._state["total"]}, seconds)
        self.took(seconds)

    def took(self, seconds: float) -> None:
        """Say how long the stage has been at work."""
        set_gauge("stage_seconds", "Seconds that a stage has been at work.", self._tags, seconds)

    def failed(self, error: BaseException) -> None:
        """Count an error that ended the stage."""
        add_count("stage_failures", "Errors that ended a stage.", self._tags | {"error": type(error).__name__})
