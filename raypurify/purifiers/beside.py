"""Threads that decode ahead of a purifier and encode behind it, so that a device does not wait for either.

Decoders and encoders are compiled and let the interpreter go meanwhile. What waits is bounded in pixels, and nothing
here decides what is purified together: the bytes are those of one image after the other.
"""

import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

import numpy as np

from raypurify.errors import ImageError
from raypurify.images import Decoded

# Files that wait to be decoded; images of 32² that are purified together are as many.
FILES_AHEAD = 256
# Pixels that are decoded and not yet taken, and purified and not yet encoded, beside an image of each thread.
PIXELS_AHEAD = PIXELS_BEHIND = 1 << 22

Facts = dict[str, Any]
Result = TypeVar("Result")


class _Task(Future, Generic[Result]):
    def __init__(self, work: Callable[..., Result], *args: Any) -> None:
        super().__init__()
        self._work = work
        self._args: tuple[Any, ...] = args

    def run(self) -> None:
        try:
            self.set_result(self._work(*self._args))
        except BaseException as error:
            self.set_exception(error)
        self._args = ()


class Coders:
    """``count`` threads for one stream of images, in a ``with`` block; ``decode`` gives an image or its ImageError, and
    ``encode`` takes pixels and the image that they come from.

    Encoding goes first, as what waits for it is larger. After the block nothing is begun, and a thread that hangs does
    not keep the process.
    """

    def __init__(
        self,
        count: int,
        decode: Callable[[bytes], Decoded | ImageError],
        encode: Callable[[np.ndarray, Decoded], bytes],
    ) -> None:
        self._decode, self._encode = decode, encode
        self._changed = threading.Condition()
        self._files: deque[_Task] = deque()
        self._images: deque[_Task] = deque()
        self._ahead = 0
        self._closed = False
        self._threads = [threading.Thread(target=self._run, name="coder", daemon=True) for _ in range(count)]

    def __enter__(self) -> "Coders":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def decoded(
        self, files: Iterable[tuple[Hashable, bytes]], waits: Callable[[], None]
    ) -> Iterator[tuple[Hashable, Decoded | ImageError]]:
        """Files (key, bytes) as images, in order; ``waits`` is called before one is waited for, and may raise."""
        waiting: deque[tuple[Hashable, _Task]] = deque()
        for key, data in files:
            waiting.append((key, self._given(self._files, _Task(self._opened, data))))
            # What is ready goes to the purifier, though the store has not given the rest.
            while waiting and (len(waiting) > FILES_AHEAD or waiting[0][1].done()):
                yield self._taken(*waiting.popleft(), waits)
        while waiting:
            yield self._taken(*waiting.popleft(), waits)

    def encoded(
        self, results: Iterable[tuple[Hashable, tuple[np.ndarray, Decoded, Facts] | ImageError]]
    ) -> Iterator[tuple[Hashable, bytes | ImageError, Facts | None]]:
        """Results (key, (purified pixels, their image, provenance)) as files, in any order; errors stay as they are."""
        waiting: deque[tuple[Hashable, _Task, Facts, int]] = deque()
        behind = 0
        for key, result in results:
            if isinstance(result, ImageError):
                yield key, result, None
                continue
            pixels, like, facts = result
            waiting.append((key, self._given(self._images, _Task(self._encode, pixels, like)), facts, _size(pixels)))
            behind += _size(pixels)
            # A large image may be behind, too.
            while waiting and (waiting[0][1].done() or (behind > PIXELS_BEHIND and len(waiting) > 1)):
                behind -= waiting[0][3]
                yield _finished(*waiting.popleft()[:3])
        while waiting:
            yield _finished(*waiting.popleft()[:3])

    def _given(self, tasks: deque[_Task], task: _Task) -> _Task:
        with self._changed:
            tasks.append(task)
            self._changed.notify()
        return task

    def _opened(self, data: bytes) -> Decoded | ImageError:
        image = self._decode(data)
        if not isinstance(image, ImageError):
            with self._changed:
                self._ahead += _size(image.pixels)
        return image

    def _taken(self, key: Hashable, task: _Task, waits: Callable[[], None]) -> tuple[Hashable, Decoded | ImageError]:
        waits()
        image = task.result()
        if not isinstance(image, ImageError):
            with self._changed:
                full = not self._room()
                self._ahead -= _size(image.pixels)
                if full and self._room():
                    self._changed.notify_all()
        return key, image

    def _run(self) -> None:
        while task := self._next():
            task.run()
            # Nothing of an image stays while the thread waits for the next.
            del task

    def _next(self) -> _Task | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._images or (self._files and self._room()))
            return None if self._closed else (self._images or self._files).popleft()

    def _room(self) -> bool:
        # Files are begun in order: what is next to be taken is begun once all before it are taken.
        return self._ahead < PIXELS_AHEAD


def _finished(key: Hashable, task: _Task, facts: Facts) -> tuple[Hashable, bytes | ImageError, Facts | None]:
    try:
        return key, task.result(), facts
    except ImageError as error:
        return key, error, None


def _size(pixels: np.ndarray) -> int:
    return pixels.shape[0] * pixels.shape[1]
