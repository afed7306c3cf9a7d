"""Compressed tars as files to read forward: unpacked chunk by chunk, in memory that does not grow with what they hold.

What was read last is kept, so that a header can be read again. A seek further back begins the file anew, which is right
and slow.
"""

from collections.abc import Callable, Iterator
from typing import BinaryIO

import pyarrow as pa

PLAIN = "plain"
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\0": "xz"}
_CHUNK = 1 << 20
# A stream of xz says itself how much memory it wants; the largest preset takes 65 MiB.
_XZ_MEMORY = 256 << 20


class StreamDamage(Exception):
    """A compressed stream that cannot be read on; says after which byte of what is in it, and what to do."""


def codec_of(raw: BinaryIO) -> str:
    """How the content of a file is compressed, by its first bytes; ``PLAIN`` where it is not. Goes to its start."""
    head = raw.read(6)
    raw.seek(0)
    return next((codec for magic, codec in _MAGIC.items() if head.startswith(magic)), PLAIN)


class Unpacked:
    """What is in a compressed file, to read and seek in. ``raw`` is the file at its start, and ``opener`` opens it
    again where it has to be begun anew; closing this closes it."""

    def __init__(self, raw: BinaryIO, opener: Callable[[], BinaryIO], codec: str):
        self.codec = codec
        self._opener = opener
        self._at = 0
        self._begin(raw)

    def _begin(self, raw: BinaryIO) -> None:
        self._raw, self._chunks = raw, _chunks(raw, self.codec)
        # The bytes that were unpacked last, and where they end.
        self._kept, self._end = b"", 0

    def close(self) -> None:
        """Close the file below."""
        self._raw.close()

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        """Set where the next read begins, as of any file; nothing is read unless that is counted from the end."""
        if whence == 2:
            while self._more():
                pass
        self._at = offset + (0, self._at, self._end)[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        """So many bytes, fewer at the end. Raises StreamDamage where the stream is damaged or cut off before."""
        if self._at < self._end - len(self._kept):
            self.close()
            self._begin(self._opener())
        parts: list[bytes] = []
        while size:
            if self._at < self._end:
                start = self._at - self._end + len(self._kept)
                part = self._kept[start : start + size] if size > 0 else self._kept[start:]
                parts.append(part)
                self._at += len(part)
                size -= len(part) if size > 0 else 0
            elif not self._more():
                break
        return b"".join(parts)

    def _more(self) -> bool:
        try:
            chunk = next(self._chunks, b"")
        except (ImportError, NotImplementedError) as error:
            raise StreamDamage(f"is compressed with {self.codec}, which is not here ({error}); unpack it") from error
        except (OSError, EOFError, ValueError) as error:
            raise StreamDamage(
                f"cannot be unpacked further than to byte {self._end:,} of the tar in it ({error}); "
                "where it is cut off or damaged, get it again"
            ) from error
        self._kept = self._kept[-_CHUNK:] + chunk
        self._end += len(chunk)
        return bool(chunk)


def _chunks(raw: BinaryIO, codec: str) -> Iterator[bytes]:
    if codec == "xz":
        yield from _unpack_xz(raw)
        return
    stream = pa.CompressedInputStream(raw, codec)
    while chunk := stream.read(_CHUNK):
        yield chunk


def _unpack_xz(raw: BinaryIO) -> Iterator[bytes]:
    import lzma

    rest = raw.read(_CHUNK)
    try:
        while rest:
            unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
            while not unpacker.eof:
                if unpacker.needs_input and not (rest := rest or raw.read(_CHUNK)):
                    raise EOFError("truncated compressed stream")
                chunk, rest = unpacker.decompress(rest, _CHUNK), b""
                if chunk:
                    yield chunk
            # Streams may follow each other, with zeros between them.
            rest = unpacker.unused_data.lstrip(b"\0")
            while not rest and (more := raw.read(_CHUNK)):
                rest = more.lstrip(b"\0")
    except lzma.LZMAError as error:
        raise OSError(str(error)) from error
