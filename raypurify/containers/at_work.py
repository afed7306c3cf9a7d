"""What a process that does all of a job by itself is at work on: who runs the job again knows over what it died.

    OUT/_raypurify/tmp/at-work.json             names of shards; of a part of the job: at-work-2-of-8.json

The note is gone once that process has ended by itself, be it with an error or by Ctrl-C.
"""

import json
import threading
from contextlib import suppress

from raypurify.containers.ledger import committed, scratch
from raypurify.storage import Place


class AtWork:
    """The note of one job, or of its part i of n; its threads may use it together."""

    def __init__(self, out: Place, part: tuple[int, int] | None = None) -> None:
        self.out = out
        self.file = scratch(out) / (f"at-work-{part[0]}-of-{part[1]}.json" if part else "at-work.json")
        self._names: list[str] = []
        self._lock = threading.Lock()

    def begin(self, shard: str) -> None:
        """Note that work on a shard begins, before it does. Raises OSError where that cannot be written."""
        with self._lock:
            self._names.append(shard)
            self.file.write(json.dumps(self._names).encode(), scratch(self.out))

    def end(self, shard: str) -> None:
        """The work on a shard is over; the next note leaves it out."""
        with self._lock:
            self._names.remove(shard)

    def clear(self) -> None:
        """Remove the note."""
        with suppress(OSError):
            self.file.delete()

    def died_over(self) -> list[str]:
        """The shards over one of which an earlier run died, if it did: begun, and not committed."""
        try:
            names = json.loads(self.file.read()) if self.file.kind == "file" else []
            done = {*committed(self.out)} if names else set()
            return [name for name in names if isinstance(name, str) and name not in done]
        except (OSError, ValueError, TypeError):
            # Written whole or not at all: whatever this is, it is no such note.
            return []
