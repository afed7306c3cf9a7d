"""PNG files of 8 bits a channel, written sooner than by Pillow: one filter for all rows, and libdeflate.

Pillow tries the five filters of PNG on every row and deflates by zlib. Here every row is filtered by Paeth's predictor,
which for photographs is nearly always the best of the five (W3C, Portable Network Graphics, third edition, section
9.4), by arrays, and deflated by libdeflate, whose output depends on its version alone and not on the processor.
"""

import importlib.util
import struct
import zlib
from functools import cache

import numpy as np

from raypurify.errors import DataError

# Of chunks: a signature, and the type of colours by channels.
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}
_PAETH = 4
# Values that are filtered together: the steps between stay in a core's cache.
_BLOCK = 1 << 16
_LEVEL = 1


@cache
def writes_png() -> bool:
    """Whether this installation has libdeflate, by the extra ``fast``."""
    return importlib.util.find_spec("deflate") is not None


def write_png(planes: np.ndarray, icc: bytes | None = None, exif: bytes | None = None) -> bytes:
    """A PNG file of uint8 ``planes`` (H, W, C), whose channels are grey, grey and alpha, RGB, or RGB and alpha, with a
    colour profile and an EXIF block (TIFF bytes) where they are given.

    Equal input gives equal bytes for one version of libdeflate and, with a profile, of zlib. Raises :class:`DataError`
    for other arrays, and where libdeflate is not installed.

    >>> write_png(np.zeros((2, 3, 3), np.uint8))[:16] if writes_png() else b"\\x89PNG\\r\\n\\x1a\\n\\0\\0\\0\\rIHDR"
    b'\\x89PNG\\r\\n\\x1a\\n\\x00\\x00\\x00\\rIHDR'
    """
    try:
        # Only those who write PNG in this way load it.
        import deflate
    except ImportError as error:
        raise DataError("fast PNG is written where `pip install 'raypurify[fast]'` was done, on every node") from error
    if planes.dtype != np.uint8 or planes.ndim != 3 or planes.shape[2] not in _COLOURS or not planes.size:
        raise DataError(f"planes are {planes.dtype} {planes.shape}; expected uint8 (H, W, 1 to 4), not empty")
    height, width, channels = planes.shape
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOURS[channels], 0, 0, 0)
    parts = [_SIGNATURE, *_chunk(b"IHDR", header)]
    if icc:
        parts += _chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc))
    if exif:
        parts += _chunk(b"eXIf", exif)
    parts += _chunk(b"IDAT", deflate.zlib_compress(filtered(planes), _LEVEL))
    return b"".join([*parts, *_chunk(b"IEND", b"")])


def filtered(planes: np.ndarray) -> np.ndarray:
    """Planes, uint8 (H, W, C), as rows of filter type 4, uint8 (H, 1 + W·C): 4, then values less Paeth's prediction.

    The prediction is the one of a (left), b (above) and c (above left) that is nearest to a + b - c, the first of
    them where two are as near; what lies outside is 0.

    >>> filtered(np.array([[[1], [3]], [[7], [8]]], np.uint8)).tolist()
    [[4, 1, 2], [4, 6, 1]]
    """
    height, width, channels = planes.shape
    values = np.ascontiguousarray(planes).reshape(height, width * channels)
    rows = np.empty((height, 1 + values.shape[1]), np.uint8)
    rows[:, 0] = _PAETH
    step = max(1, _BLOCK // values.shape[1])
    for first in range(0, height, step):
        block = slice(first, first + step)
        np.subtract(values[block], _predicted(values, first, first + step, channels), out=rows[block, 1:])
    return rows


def _predicted(values: np.ndarray, first: int, end: int, channels: int) -> np.ndarray:
    here = values[first:end]
    left, above, corner = np.zeros_like(here), np.zeros_like(here), np.zeros_like(here)
    left[:, channels:] = here[:, :-channels]
    above[1:] = here[:-1]
    corner[1:, channels:] = here[:-1, :-channels]
    if first:
        above[0] = values[first - 1]
        corner[0, channels:] = values[first - 1, :-channels]
    # Of a + b - c the distances to a, b and c are |b - c|, |a - c| and |(b - c) + (a - c)|.
    to_corner = corner.astype(np.int16)
    to_left, to_above = above - to_corner, left - to_corner
    np.add(to_left, to_above, out=to_corner)
    for distance in (to_left, to_above, to_corner):
        np.abs(distance, out=distance)
    is_above = to_above <= to_corner
    is_left = to_left <= to_above
    is_left &= to_left <= to_corner
    return _chosen(is_left, left, _chosen(is_above, above, corner))


def _chosen(where: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """``one`` where it is True, else ``other``, by bits, which is sooner done than by np.where; writes into ``one``."""
    one ^= other
    one &= np.negative(where.view(np.uint8))
    one ^= other
    return one


def _chunk(kind: bytes, data: bytes | bytearray) -> tuple[bytes | bytearray, ...]:
    return struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
