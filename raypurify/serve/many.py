"""Several images of one request: a bounded number at a time, each with an answer of its own, in their order."""

import asyncio
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
    then."""
    room = asyncio.Semaphore(_AT_ONCE)

    async def one(job: Callable[[], Awaitable[Answer]]) -> Answer | Refusal:
        try:
            async with room:
                with metrics.image(), refusing(deadline):
                    return await job()
        except Refusal as refusal:
            return refusal

    tasks = [asyncio.create_task(one(job)) for job in jobs]
    try:
        await asyncio.wait(tasks, timeout=max(0.0, deadline.left))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [deadline.missed() if task.cancelled() else task.result() for task in tasks]
