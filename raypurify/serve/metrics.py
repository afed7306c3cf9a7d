"""What the endpoint counts for Prometheus, named ``raypurify_serve_…``: Ray exports it on every node.

Serve adds the tags application, deployment and replica. Requests by status and route are counted by Serve itself.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ray.serve.metrics import Counter, Gauge, Histogram
from starlette.exceptions import HTTPException

_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60]
_IMAGES = [float(1 << k) for k in range(11)]
_PIXELS = [float(1 << k) for k in range(10, 25, 2)]
_ITERATIONS = [1.0, 2, 5, 10, 20, 50, 100, 200, 500, 1000]


class FrontMetrics:
    """Counts of one ingress: images by outcome ("purified", or the reason of a refusal), and the seconds that each
    purified one took from request to answer."""

    def __init__(self) -> None:
        self._images = Counter("raypurify_serve_images", "Images that were answered, by outcome.", ("outcome",))
        self._seconds = Histogram("raypurify_serve_seconds", "Seconds from request to answer.", _SECONDS)

    @contextmanager
    def image(self) -> Iterator[None]:
        """Count what becomes of an image in this block, by what ends it as :meth:`answered` says."""
        begun = time.monotonic()
        with self.refused():
            yield
        self.answered(None, time.monotonic() - begun)

    @contextmanager
    def refused(self) -> Iterator[Callable[[int], None]]:
        """Count the images of a request by the error that ends this block, none where nothing does.

        Yields what to call with their number, which is one until then.
        """
        images = 1

        def told(number: int) -> None:
            nonlocal images
            images = number

        try:
            yield told
        except BaseException as error:
            self.answered(error, 0.0, images)
            raise

    def answered(self, answer: Any, seconds: float, images: int = 1) -> None:
        """Count images that were answered in so many seconds: a Refusal has the reason, any other error means that the
        caller has left, and what is no error is purified."""
        outcome = "left" if isinstance(answer, BaseException) else "purified"
        if isinstance(answer, HTTPException):
            detail: Any = answer.detail
            outcome = detail["error"] if isinstance(detail, dict) else "other"
        if outcome == "purified":
            self._seconds.observe(seconds)
        if images:  # counters refuse zeros
            self._images.inc(images, {"outcome": outcome})


class ReplicaMetrics:
    """Counts of one purifier replica. Lanes are "small", "large" and "bulk"; a batch of "bulk" is the call of a job,
    cut and counted as one."""

    def __init__(self) -> None:
        lane = ("lane",)
        self._queue = Histogram("raypurify_serve_queue_seconds", "Seconds until its batch began.", _SECONDS, lane)
        self._work = Histogram("raypurify_serve_batch_seconds", "Seconds that a batch took.", _SECONDS, lane)
        self._images = Histogram("raypurify_serve_batch_images", "Images or calls of a batch.", _IMAGES, lane)
        self._pixels = Histogram("raypurify_serve_batch_pixels", "Pixels of a batch.", _PIXELS, lane)
        self._iterations = Histogram("raypurify_serve_iterations", "Solver iterations of an image.", _ITERATIONS)
        self._flagged = Counter("raypurify_serve_flagged_images", "Images unlike the clean images of the fit.")
        self._failed = Counter("raypurify_serve_failed_images", "Images on which the purifier failed.")
        self._backlog = Gauge("raypurify_serve_backlog_seconds", "Seconds of work at hand.")

    def batch(self, lane: str, waits: Sequence[float], pixels: int, seconds: float) -> None:
        """Count a batch of a lane: how long each item has waited, its pixels, and how long it took."""
        tags = {"lane": lane}
        for wait in waits:
            self._queue.observe(wait, tags)
        self._work.observe(seconds, tags)
        self._images.observe(len(waits), tags)
        self._pixels.observe(pixels, tags)

    def results(self, results: Sequence[Any]) -> None:
        """Count what the purifier made of some images: pixels and facts of each, or what went wrong."""
        done = [result[1] for result in results if not isinstance(result, Exception)]
        for facts in done:
            self._iterations.observe(facts["iterations"])
        # Counters refuse zeros.
        for counter, count in (
            (self._flagged, sum(facts["flagged"] for facts in done)),
            (self._failed, len(results) - len(done)),
        ):
            if count:
                counter.inc(count)

    def backlog(self, seconds: float) -> None:
        """Say how long what waits and what is at work will take."""
        self._backlog.set(seconds)
