"""What an iterator gives, taken by a thread of its own while others work."""

import queue
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Ahead(Generic[Item]):
    """Items of an iterator as they come, without waiting for them.

    After :meth:`close` no other is asked for, and the thread does not keep the process.
    """

    def __init__(self, items: Iterator[Item]) -> None:
        self._come: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._error: Exception | None = None
        self._closed = self._ended = False
        self._thread = threading.Thread(target=self._take, args=(items,), name="ahead", daemon=True)
        self._thread.start()

    def new(self) -> list[Item]:
        """What has come since this was last asked. Raises what the iterator has raised, once all before it is given."""
        ended, found = self._ended, []
        while not self._come.empty():
            found.append(self._come.get())
        if ended and self._error and not found:
            raise self._error
        return found

    def close(self, patience: float) -> None:
        """Ask for nothing more, and wait so many seconds for what is being made."""
        self._closed = True
        self._thread.join(patience)

    def _take(self, items: Iterator[Item]) -> None:
        try:
            for item in items:
                self._come.put(item)
                if self._closed:
                    return
        except Exception as error:
            self._error = error
        finally:
            self._ended = True
