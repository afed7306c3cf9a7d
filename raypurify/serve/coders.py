"""The threads of an ingress that decode and encode, and which image waits for which there.

Decoders are compiled, and let the event loop run meanwhile, but for files that Pillow reads in Python: these are
bounded and decoded one at a time, so that neither the loop nor other images wait for many of them.
"""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from raypurify.images import Decoded, decode_image
from raypurify.scans import takes_interpreter

# Bytes of numbers or runs in one image, which take less than a second.
MAX_NUMBERS = 1 << 20
# Images that are decoded or encoded at a time.
_CODERS = 4
# Smaller files are decoded before it would be felt.
_SMALL = 64 << 10

Answer = TypeVar("Answer")


class Coders:
    """Threads for decoding and encoding; what was not begun when its caller leaves is not begun."""

    def __init__(self) -> None:
        self._threads, self._one = ThreadPoolExecutor(_CODERS), ThreadPoolExecutor(1)

    def run(self, work: Callable[..., Answer], *args: Any) -> Awaitable[Answer]:
        """What ``work`` returns, in one of the threads."""
        return _within(self._threads, work, *args)

    async def decoded(self, data: bytes, max_pixels: int) -> Decoded:
        """An image, decoded. Raises ImageError, ``too-complex`` also for more than ``MAX_NUMBERS`` of what is slow."""
        slow = len(data) > _SMALL and await self.run(takes_interpreter, data, MAX_NUMBERS)
        return await _within(self._one if slow else self._threads, partial(decode_image, max_pixels=max_pixels), data)


def _within(threads: Executor, work: Callable[..., Answer], *args: Any) -> Awaitable[Answer]:
    return asyncio.get_running_loop().run_in_executor(threads, work, *args)
