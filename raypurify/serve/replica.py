"""The deployment that owns a purifier: lanes for small images, for large ones and for bulk jobs."""

import asyncio
import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from ray import serve

from raypurify.serve.lanes import Full, Lane
from raypurify.serve.metrics import ReplicaMetrics

# What is larger waits in the lane of large images: at a CPU's usual pace this is one to two seconds of work.
SMALL_PIXELS = 1 << 16
# How far a thread steps back for the threads of smaller images, as ``nice`` counts.
_SMALL, _LARGE, _BULK = 0, 5, 10
# How often the known image is solved.
_SOLVED_S = 10
_LOG = logging.getLogger("ray.serve")


# Serve config files name the deployment.
# Requests are in the log of Serve's proxy.
@serve.deployment(name="Purifier", logging_config={"enable_access_log": False})
class PurifierReplica:
    """One purifier replica: a loaded bundle, and threads that take the images that wait whenever they are free.

    Small images, large ones and bulk jobs have a thread each: beside a photo or a job a small image waits for other
    small ones only, and the larger work yields the processor.
    """

    def __init__(self, bundle: str, device: str, threads: int, batch_pixels: int, waiting_pixels: int):
        import torch

        import raypurify
        from raypurify.serve.known import Known

        torch.set_num_threads(threads)
        self.purifier = raypurify.load(bundle, device)
        # Compiled kernels are built now, and not while the first caller waits.
        self.known = Known(self.purifier)
        self.metrics = ReplicaMetrics()
        self._checker = ThreadPoolExecutor(1)
        bounds = {"batch_pixels": batch_pixels, "room": waiting_pixels, "pace": self._pace()}
        purify = partial(self._purify, batch_pixels=batch_pixels)
        self.small = self._lane("small", purify, _SMALL, **bounds)
        self.large = self._lane("large", purify, _LARGE, **bounds)
        # Batches of a job are cut by the job alone, so that its output does not depend on who else asks.
        self.bulk = self._lane("bulk", self._purify_calls, _BULK, **(bounds | {"batch_pixels": 1, "room": 0}))
        self._lanes = self.small, self.large, self.bulk
        self._seen = 0.0, 0.0
        self._solved = -math.inf

    async def purify(self, image: np.ndarray, seconds: float) -> Any:
        """Purify a uint8 (H, W, 3) image within ``seconds``: its pixels and facts, or the error it met.

        That is Full where it cannot be done by then, TooLate where it was not.
        """
        pixels = image.shape[0] * image.shape[1]
        lane = self.small if pixels <= SMALL_PIXELS else self.large
        try:
            return await lane.submit(image, image.shape, pixels, seconds)
        except Exception as error:  # as a value: Ray would wrap what is raised
            return error

    async def purify_all(self, images: list[Any], pixels: int) -> Any:
        """Purify some images of a bulk job, with the results of :func:`raypurify.purifiers.batch.purify_pixels`.

        ``images`` holds one reference to them, ``pixels`` is how many they are. Answers Full where another call waits.
        """
        try:
            return await self.bulk.submit(images[0], object(), pixels)
        except Full as full:
            return full

    async def report(self) -> dict[str, Any]:
        """The node and process of this replica, and the seconds in which it has worked."""
        from ray import get_runtime_context

        now = asyncio.get_running_loop().time()
        busy = sum(lane.busy_s(now) for lane in self._lanes)
        return {"node": get_runtime_context().get_node_id(), "pid": os.getpid(), "busy_s": busy}

    async def digest(self) -> str:
        """The digest of the bundle that is served."""
        return self.purifier.digest

    async def check_health(self) -> None:
        """Solve the known image once more where that is long ago; Serve asks for it every few seconds, to learn soon of
        a replica that is gone, and before any caller is let in.

        A replica that has become wrong ends itself at once: Serve would let it answer until it has failed three times.
        Callers whose images it holds are answered by another. Raises what the purifier raises.
        """
        loop = asyncio.get_running_loop()
        if loop.time() < self._solved + _SOLVED_S:
            return
        self._solved = loop.time()
        problem = await loop.run_in_executor(self._checker, self.known.problem)
        if problem:
            _LOG.critical("this replica answers wrongly and ends itself: %s", problem)
            os._exit(1)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What :func:`raypurify.serve.scaling.by_work` decides by: seconds of work at hand, and the part of the time
        since the last call in which there was any."""
        now = asyncio.get_running_loop().time()
        busy = sum(lane.busy_s(now) for lane in self._lanes)
        (then, before), self._seen = self._seen, (now, busy)
        backlog = sum(lane.backlog_s for lane in self._lanes)
        self.metrics.backlog(backlog)
        return {"work_s": backlog, "busy": min(1.0, (busy - before) / (now - then))}

    def _pace(self) -> float:
        """Seconds a pixel of the known image, which no metric counts."""
        from raypurify.purifiers.batch import purify_pixels

        begun = time.perf_counter()
        purify_pixels(self.purifier, [self.known.image])
        return (time.perf_counter() - begun) / self.known.image[..., 0].size

    def _purify(self, images: Sequence[np.ndarray], **options: Any) -> list:
        from raypurify.purifiers.batch import purify_pixels

        results = purify_pixels(self.purifier, images, **options)
        self.metrics.results(results)
        return results

    def _purify_calls(self, calls: Sequence[Any]) -> list[list]:
        import ray

        return [self._purify(images) for images in ray.get(list(calls))]

    def _lane(self, name: str, work: Callable[[Any], Sequence[Any]], nice: int, **bounds: float) -> Lane:
        """A lane whose work is done in a thread of its own, which yields to others by ``nice``."""
        thread = ThreadPoolExecutor(1, initializer=_step_back, initargs=(nice,))

        async def in_thread(items: list[Any]) -> Sequence[Any]:
            return await asyncio.get_running_loop().run_in_executor(thread, work, items)

        return Lane(in_thread, told=partial(self.metrics.batch, name), **bounds)


def _step_back(nice: int) -> None:
    # Linux has a priority for each thread; elsewhere threads stay equal.
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + nice)
