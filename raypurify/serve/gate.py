"""Admission at the ingress, without Ray: what is taken in is counted, and refused at once when it is too much."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from raypurify.serve.http import Refusal

# Callers whose body is being read; one that sends a byte a second holds a connection, and no place of an image.
MAX_READERS = 2048
# Bodies that are held at once, in units of the largest allowed one: of an image, and of several.
_BODIES, _BATCHES = 16, 4
_WEIGHT = 0.1


class Gate:
    """Counts of one ingress: callers whose body is read, bytes of bodies, images and their pixels.

    Every limit is met with a :class:`Refusal` 503 and ``Retry-After``: ``busy``, or ``ending`` once :meth:`end` was
    called. An image of any size is let in where there is none.
    """

    def __init__(self, max_images: int, max_bytes: int, max_batch_bytes: int, max_pixels: int):
        self.max_images, self.max_pixels = max_images, max_pixels
        self.max_bytes = max(_BODIES * max_bytes, _BATCHES * max_batch_bytes)
        self.readers = self.bytes = self.images = self.pixels = 0
        self.ending = False
        self._seconds = 1.0

    def end(self) -> None:
        """Refuse whoever comes from now on; those who are in get their answer."""
        self.ending = True

    @property
    def inside(self) -> int:
        """How many callers have no answer yet."""
        return self.readers + self.images

    @contextmanager
    def reading(self) -> Iterator[Callable[[int], None]]:
        """Let a caller's body be read; yields what to call with the size of each piece before it is kept, and with its
        negative when it is given up before the end."""
        if self.ending:
            raise Refusal(503, "ending", "the endpoint is shutting down; ask again later", self._retry())
        if self.images >= self.max_images or self.readers >= MAX_READERS:
            raise self._busy()
        held = 0

        def hold(count: int) -> None:
            nonlocal held
            if self.bytes and self.bytes + count > self.max_bytes:
                raise self._busy()
            self.bytes += count
            held += count

        self.readers += 1
        try:
            yield hold
        finally:
            self.readers -= 1
            self.bytes -= held

    @contextmanager
    def image(self) -> Iterator[Callable[[int], None]]:
        """Take an image in until it is answered; yields what to call with the number of its pixels, once known."""
        if self.images >= self.max_images:
            raise self._busy()
        held, begun = 0, time.monotonic()

        def unpack(pixels: int) -> None:
            nonlocal held
            if self.pixels and self.pixels + pixels > self.max_pixels:
                raise self._busy()
            self.pixels += pixels
            held += pixels

        self.images += 1
        try:
            yield unpack
            self._seconds += _WEIGHT * (time.monotonic() - begun - self._seconds)
        finally:
            self.images -= 1
            self.pixels -= held

    def _busy(self) -> Refusal:
        return Refusal(503, "busy", "too many images are waiting; try again in a moment", self._retry())

    def _retry(self) -> dict[str, str]:
        return retry_after(self._seconds)


def retry_after(seconds: float) -> dict[str, str]:
    """The header that asks a caller to come back in so many seconds, a minute at most.

    >>> retry_after(0.2), retry_after(7.1)
    ({'Retry-After': '1'}, {'Retry-After': '8'})
    """
    return {"Retry-After": str(min(60, max(1, math.ceil(seconds))))}
