"""A file of a store that is read here and there: as much is fetched at once as the distance between the reads is worth.

A store takes some 20 ms for a request and sends some 50 MB a second, so a megabyte costs as much as asking again. Who
reads the headers of a tar of small members gets many with each request; where the members are large, their bytes are
never fetched.
"""

import io
from typing import BinaryIO

LEAST, MOST = 64 << 10, 4 << 20
# Jumps over more than this are no reason to read ahead.
FAR = 512 << 10


class ReadAhead(io.RawIOBase):
    """``file`` to read and seek in, through a buffer whose size grows while reads are near each other."""

    def __init__(self, file: BinaryIO):
        self._file, self._size = file, file.seek(0, 2) or file.tell()
        self._buffer, self._begin = b"", 0
        self._at = self._end = 0
        self._ahead = LEAST

    def readable(self) -> bool:
        """True: it is there to be read."""
        return True

    def seekable(self) -> bool:
        """True, to any place."""
        return True

    def tell(self) -> int:
        """The place of the next read."""
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        """Set the place of the next read, as files do; nothing is fetched."""
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def read(self, size: int = -1) -> bytes:
        """The next ``size`` bytes, less at the end of the file; all that are left where it is negative."""
        left = max(0, self._size - self._at)
        size = left if size is None or size < 0 else min(size, left)
        if abs(self._at - self._end) > FAR:
            self._ahead = LEAST
        start = self._at - self._begin
        held = self._buffer[start : start + size] if 0 <= start <= len(self._buffer) else b""
        self._at += len(held)
        if rest := size - len(held):
            more = self._fetch(rest)[:rest]
            self._at += len(more)
            held = held + more if held else more
        self._end = self._at
        return held

    def _fetch(self, size: int) -> bytes:
        self._file.seek(self._at)
        found = self._file.read(max(size, self._ahead))
        # Who reads on may look back a little.
        kept = self._buffer[-LEAST:] if self._at == self._begin + len(self._buffer) else b""
        self._buffer, self._begin = kept + found, self._at - len(kept)
        self._ahead = min(2 * self._ahead, MOST)
        return found

    def close(self) -> None:
        """Close the file of the store, too."""
        self._file.close()
        super().close()
