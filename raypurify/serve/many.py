"""Several images of one request: a bounded number at a time, each with an answer of its own, in their order."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from raypurify.serve.deadline import Deadline
from raypurify.serve.front import refusing
from raypurify.serve.http import Refusal
from raypurify.serve.metrics import FrontMetrics

Answer = TypeVar("Answer")

# Enough to fill the next batch of a replica while it works on one.
_AT_ONCE = 32


async def each(
    jobs: Sequence[Callable[[], Awaitable[Answer]]], deadline: Deadline, metrics: FrontMetrics
) -> list[Answer | Refusal]:
    """What the job of each image answers, or the Refusal of what it met, or of the deadline where it is not done by
    then. Every image is counted once, those that were not begun as well."""
    room, begun = asyncio.Semaphore(_AT_ONCE), time.monotonic()

    async def one(job: Callable[[], Awaitable[Answer]]) -> Answer | Refusal:
        answer: Answer | Refusal
        try:
            async with room:
                with refusing(deadline):
                    answer = await job()
        except Refusal as refusal:
            answer = refusal
        metrics.answered(answer, time.monotonic() - begun)
        return answer

    tasks = [asyncio.create_task(one(job)) for job in jobs]
    # Unless time is up, only a caller who leaves ends a job.
    missed: BaseException = asyncio.CancelledError()
    try:
        await asyncio.wait(tasks, timeout=max(0.0, deadline.left))
        missed = deadline.missed()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        metrics.answered(missed, 0.0, sum(task.cancelled() for task in tasks))
    return [deadline.missed() if task.cancelled() else task.result() for task in tasks]
