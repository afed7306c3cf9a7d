"""Two sides timed in turn, and the ratio of their medians."""

import statistics
from collections.abc import Callable

from raypurify.evaluation.clock import clock


def in_turn(
    sides: dict[str, Callable[[], object]], repeat: int, warm: bool = True, clock: Callable[[], float] = clock
) -> dict[str, list[float]]:
    """Seconds of every side by ``clock``, taken in turn, after one round that does not count if ``warm``."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(repeat + warm):
        for name, run in sides.items():
            begun = clock()
            run()
            if round_ or not warm:
                times[name].append(clock() - begun)
    return times


def ratio(times: dict[str, list[float]], above: str, below: str) -> float:
    return round(statistics.median(times[above]) / statistics.median(times[below]), 2)
