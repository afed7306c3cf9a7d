"""Progress of long work in a small JSON file, that ``status`` reads without Ray."""

import time
from contextlib import suppress
from typing import Any

from raypurify.files import read_object, write_json
from raypurify.storage import Where, resolve

FILE = "progress.json"
# Seconds between two writes, to a disk and to a store.
INTERVAL, STORE_INTERVAL = 0.5, 5.0


class Progress:
    """A count of work done out of a known total, in ``folder/progress.json``, written twice a second at most, and to a
    store every five seconds; without a folder, in memory only.

    ``start`` is what an earlier run had done already: it counts as done, but not towards the rate.
    """

    def __init__(self, folder: Where | None, total: int, unit: str, start: int = 0):
        self.file = resolve(folder) / FILE if folder else None
        self.interval = STORE_INTERVAL if self.file and self.file.remote else INTERVAL
        self._reached: dict[str, int] = {}
        self.state: dict[str, Any] = {
            "done": start,
            "total": total,
            "unit": unit,
            "start": start,
            "note": "",
            "started": time.time(),
        }
        self._write()

    def grow(self, total: int, start: int, more: bool) -> None:
        """Count so much more to do, and of that what an earlier run had done; ``more`` says that there will be more
        again, and until then nothing says how long it takes."""
        for name, count in {"total": total, "start": start, "done": start}.items():
            self.state[name] += count
        self.state["more"] = more
        self._write()

    def begin(self) -> None:
        """Let the rate count from now on, after what had to be made ready first."""
        self.state |= {"started": time.time(), "note": "", "first": self.state["done"]}
        self._write()

    def add(self, count: int = 1, note: str | None = None) -> None:
        """Count more work done; ``note`` is a short text beside the count, e.g. the loss."""
        self.state["done"] += count
        if count:
            self.state.setdefault("first", self.state["done"])
        if note is not None:
            self.state["note"] = note
        if time.time() - self.state["updated"] >= self.interval or self.state["done"] >= self.state["total"]:
            self._write()

    def reach(self, part: str, count: int) -> None:
        """Say how far the work on a part is; one that is begun again, after the loss of its actor, counts once."""
        self.add(max(0, count - self._reached.get(part, 0)))
        self._reached[part] = max(count, self._reached.get(part, 0))

    def measure(self, **values: float) -> None:
        """Say what else is known beside the count, e.g. ``loss=0.5``; Prometheus is told of it by these names."""
        self.state["values"] = self.state.get("values", {}) | values
        self._write()

    def _write(self) -> None:
        self.state["updated"] = time.time()
        if self.file:
            # Nothing ends for want of a line; where nothing can be written, the work itself will say so.
            with suppress(OSError):
                write_json(self.file, self.state)


def read_state(folder: Where) -> dict[str, Any] | None:
    """The progress of the work in a folder, None where none is known: a damaged file is written again while it runs."""
    try:
        state = read_object(resolve(folder) / FILE) or {}
    except ValueError:
        return None
    counts = (state.get(name) for name in ("done", "total", "start", "started", "updated"))
    whole = all(isinstance(one, int | float) for one in (*counts, state.get("first", 0)))
    return state if whole and {"unit", "note"} <= state.keys() else None


def describe(state: dict[str, Any]) -> str:
    """One line for people about a progress state: done of total, rate and time left.

    >>> describe({"done": 50, "total": 200, "unit": "images", "start": 0, "note": "", "started": 0.0, "updated": 10.0})
    '50/200 images, 5.0 images/s, 30 s left'
    """
    done, total, unit, more = state["done"], state["total"], state["unit"], state.get("more")
    text = f"{done:,}/{total:,} {unit}" + " known so far" * bool(more)
    seconds = state["updated"] - state["started"]
    if seconds > 0 and done > state["start"]:
        rate = (done - state["start"]) / seconds
        text += f", {rate:,.1f} {unit}/s" if rate >= 1 else f", {1 / rate:,.1f} s each"
        # The first came after all that had to be made ready, and says little of the next.
        if state.get("first", 0) < done < total and not more:
            text += f", {duration((total - done) / rate)} left"
    return text + (f", {state['note']}" if state["note"] else "")


def duration(seconds: float) -> str:
    """A number of seconds as people say it.

    >>> duration(30), duration(3 * 60 + 20), duration(2 * 3600 + 60)
    ('30 s', '3 min 20 s', '2 h 1 min')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def shared_progress(folder: Where, total: int, unit: str, start: int = 0) -> Any:
    """A Progress that tasks on any node add to: a Ray actor without CPUs of its own, on the driver's node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Seen before the actor has started, which a short stage may not live to see.
    Progress(folder, total, unit, start)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(num_cpus=0)(Progress).options(scheduling_strategy=here)
    return actor.remote(folder, total, unit, start)
