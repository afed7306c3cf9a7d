"""Two stages at a time: dictionaries of the classes that are clustered are learned while k-means is at the others."""

import contextvars
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import NamedTuple, TypeVar

import numpy as np

from raypurify.clusters.files import class_path, read_labels
from raypurify.storage import Place

# Every group of classes costs a pass over the prepared images.
GROUPS = 4
# Seconds of k-means left from which a group before the last pays: it has actors of its own to start.
PAYS = 20.0
# Seconds until who waits looks again whether the other has ended.
TICK = 1.0

A = TypeVar("A")
B = TypeVar("B")


class Found(NamedTuple):
    """Clusters: the cluster of each row of the source, −1 for none, and the class of each cluster; ``more`` says that
    there are others, with higher numbers."""

    of_row: np.ndarray
    owner: list[int]
    more: bool = False


class OtherEnded(BaseException):
    """The stage at work beside this one ended with an error or was interrupted, and so does this one.

    It is no failure of its own; ``side_by_side`` raises that of the other.
    """


class Handover:
    """Which classes are clustered: told by the thread of one stage, asked by that of the other."""

    def __init__(self, found: Found | None = None):
        self._found, self._stopped, self._change = found, False, threading.Event()
        self._images: list[int] = []
        self._tasks: list[int] = []
        self._clustered: set[int] = set()
        self._begun, self._before = 0.0, 0

    def begin(self, folder: Place, source_rows: int, images: list[int], tasks: list[int]) -> None:
        """Say in which folder the files of classes will be, and of each class its images and the most tasks at a time
        that its k-means has. Classes that are clustered by then were so by an earlier run."""
        self._folder, self._rows, self._tasks = folder, source_rows, tasks
        self._begun, self._before = time.monotonic(), sum(images[c] for c in self._clustered)
        # Last: from now on the other thread asks.
        self._images = images

    def clustered(self, classes: Iterable[int]) -> None:
        """Say that there are the files of these classes."""
        self._clustered.update(classes)
        self._change.set()

    def _count(self) -> int:
        return sum(n for c, n in enumerate(self._images) if c in self._clustered)

    def left(self) -> float:
        """Seconds that k-means takes yet, by what it took so far; 0 while nothing is known of it."""
        done = self._count()
        return (time.monotonic() - self._begun) * (sum(self._images) - done) / (done - self._before or math.inf)

    def complete(self, found: Found) -> None:
        """Say that the stage is complete."""
        self._found = found
        self._change.set()

    def stop(self) -> None:
        """Say that one of the two has ended before its time."""
        self._stopped = True
        self._change.set()

    def check(self) -> None:
        """Raise OtherEnded where one of the two has said so."""
        if self._stopped:
            raise OtherEnded("the stage beside it has ended")

    def tasks(self) -> int:
        """The most tasks at a time that k-means still has. Raises OtherEnded."""
        self.check()
        return 0 if self._found else sum(n for c, n in enumerate(self._tasks) if c not in self._clustered)

    def groups(self, room: Callable[[], bool]) -> Iterator[Found]:
        """The clusters known so far, each time with all before; the last time they are complete.

        Clusters are numbered over all classes, so those of a class are known when the classes before it are clustered.
        Those before the last wait for a share of one in ``GROUPS`` of the images and for ``room()``; where k-means soon
        ends there are none. Raises OtherEnded.
        """
        taken = 0
        while (found := self._found) is None:
            self.check()
            self._change.clear()
            count = len(self._images)
            first = next((c for c in range(count) if c not in self._clustered), 0)
            images = sum(self._images[:first])
            if first and GROUPS * (images - taken) >= sum(self._images) and self.left() >= PAYS and room():
                taken = images
                yield self._read(first)
            elif self._found is None:
                self._change.wait(TICK)
        self.check()
        yield found

    def _read(self, classes: int) -> Found:
        of_row, owner = np.full(self._rows, -1, np.int64), list[int]()
        for c in range(classes):
            one = read_labels(class_path(self._folder, c))
            of_row[one.rows] = one.labels + len(owner)
            owner += [c] * one.clusters
        return Found(of_row, owner, more=True)


def side_by_side(first: Callable[[], A], second: Callable[[], B], handover: Handover) -> tuple[A, B]:
    """Call both, ``second`` in a thread of its own, and return what they return.

    Where one raises, the other is stopped by the handover, and the error of the one that raised is raised; an
    interruption comes to ``first``.
    """
    outcome: Future[B] = Future()

    def run() -> None:
        try:
            outcome.set_result(second())
        except BaseException as error:
            handover.stop()
            outcome.set_exception(error)

    # What the events of this thread are about, those of the other are.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True)
    thread.start()
    try:
        return first(), outcome.result()
    except BaseException as error:
        handover.stop()
        thread.join()
        if isinstance(error, OtherEnded) and (cause := outcome.exception()):
            raise cause from None
        raise
