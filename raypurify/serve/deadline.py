"""The moment by which a caller wants its answer."""

import asyncio
import math
from collections.abc import Awaitable
from typing import TypeVar

from fastapi import Request

from raypurify.serve.http import Refusal

Answer = TypeVar("Answer")


class Deadline:
    """The end of a request's time: the header ``X-Raypurify-Timeout`` in seconds from now on, ``most`` at most.

    Raises Refusal 400 where the header is no number of seconds above zero.
    """

    def __init__(self, request: Request, most: float):
        text = request.headers.get("x-raypurify-timeout")
        try:
            seconds = most if text is None else float(text)
        except ValueError:
            seconds = math.nan
        if not seconds > 0:
            raise Refusal(400, "bad-timeout", "X-Raypurify-Timeout is a number of seconds above zero, e.g. 2.5")
        self.seconds = min(seconds, most)
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.time() + self.seconds

    @property
    def left(self) -> float:
        """Seconds until then; below zero after it."""
        return self._end - self._loop.time()

    async def within(self, work: Awaitable[Answer]) -> Answer:
        """What ``work`` answers by then. Raises TimeoutError, or asyncio's own of it."""
        return await asyncio.wait_for(work, self.left)

    async def reading(self, body: Awaitable[Answer]) -> Answer:
        """What is read of a request's body by then. Raises Refusal 408, with which the connection ends."""
        try:
            return await self.within(body)
        except (TimeoutError, asyncio.TimeoutError) as error:
            message = f"the body did not come within {self.seconds:g} s; send it faster, or a smaller one"
            raise Refusal(408, "slow-body", message, {"Connection": "close"}) from error

    def missed(self) -> Refusal:
        """The refusal of work that was not done by then."""
        return Refusal(504, "timeout", f"no answer within {self.seconds:g} s; give it more time, or ask later")
