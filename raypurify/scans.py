"""What an image file asks of a decoder beside its pixels, counted before it is decoded.

Decoding takes time for every scan, block and page that a file holds, and a small file can hold very many: a JPEG of
300 KB with 20,000 scans of four megapixels takes minutes, where photographs have some twenty. Long texts and profiles
of a PNG are left out instead: nothing needs them, and Pillow would refuse the whole file.
"""

import re
import struct
import zlib
from collections.abc import Iterator

from raypurify.errors import ImageError

# Scans of a JPEG; segments of it that hold EXIF, because Pillow copies all that it has for each.
MAX_SCANS = 100
# Segments of a JPEG, chunks of a PNG, blocks of a GIF, strips or tiles of a TIFF: some microseconds each.
MAX_BLOCKS = 500_000
MAX_PAGES = 1000
# Files of text, and of runs: Pillow reads them number by number, 32 MiB in about ten seconds.
MAX_SLOW_BYTES = 32 << 20
# Comments of a PPM in digits: Pillow copies up to a mebibyte for each.
MAX_COMMENTS = 10_000
# So many blocks take less than a tenth of a second.
_FEW_BLOCKS = 20_000
# What Pillow takes of one text or profile, and half of what it takes of all.
MAX_TEXT, MAX_TEXTS = 1 << 20, 32 << 20

_PNG = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
# A marker of a JPEG that is no restart; between scans, where 0xff is data, a zero follows it.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_EOI, _SOS, _APP1 = 0xD9, 0xDA, 0xE1
# Markers that no length follows: TEM, SOI, EOI, and the reserved ones behind which Pillow reads on at once.
_BARE = {0x01, 0xC8, 0xD8, _EOI, *range(0xF0, 0xFE)}
_STRIPS, _TILES = 273, 324
_RUNS = (b"\1\0\0\0", b"\2\0\0\0")
# PPM files of which Pillow takes the pixels as they lie there. After a comment behind a digit the number would go on.
_GAP = rb"\s(?:\s|#[^\r\n]*[\r\n])*"
_SIZE = _GAP + rb"\d+" + _GAP + rb"\d+"
_AS_IT_LIES = re.compile(rb"P(?:4" + _SIZE + rb"|[56]" + _SIZE + _GAP + rb"255|5" + _SIZE + _GAP + rb"65535)\s")
_PNM, _HEADER = re.compile(rb"P[0-6fy]"), 1024


def check_work(data: bytes) -> None:
    """Raise :class:`ImageError` ``too-complex`` where decoding would take much longer than the size of the image asks
    for, ``animated`` where a TIFF has more than ``MAX_PAGES`` pages. Damage is left for the decoder to find."""
    _check_blocks(data, MAX_BLOCKS)
    if data.startswith((b"P1", b"P2", b"P3")):
        _check("comments", MAX_COMMENTS, data.count(b"#"))
    if data.startswith((b"P2", b"P3")) or (data.startswith(b"BM") and data[30:34] in _RUNS):
        _check_numbers(data, MAX_SLOW_BYTES)


def takes_interpreter(data: bytes, most: int) -> bool:
    """Whether Pillow reads a file number by number, run by run or in very many blocks: in Python, where other threads
    get on slowly. Raises :class:`ImageError` ``too-complex`` for more than ``most`` bytes of numbers or runs.

    >>> takes_interpreter(b"P5 2 1 255 " + bytes(2), 9), takes_interpreter(b"P5 2 1 254 " + bytes(2), 99)
    (False, True)
    """
    if data[30:34] in _RUNS if data.startswith(b"BM") else _PNM.match(data) and not _AS_IT_LIES.match(data[:_HEADER]):
        _check_numbers(data, most)
        return True
    try:
        _check_blocks(data, _FEW_BLOCKS)
    except ImageError:
        return True
    return False


def without_long_texts(data: bytes) -> bytes:
    """A PNG without those texts and profiles that are as long as ``MAX_TEXT``, or longer than ``MAX_TEXTS`` with
    those before; other files, and damaged chunks, as they are. Once texts of twice ``MAX_TEXTS`` were unpacked, kept
    or not, the rest is left out unseen.

    >>> without_long_texts(b"GIF89a")
    b'GIF89a'
    """
    total, spent, start, parts = 0, 0, 0, []
    for at, kind, body in _chunks(data) if data.startswith(_PNG) else ():
        end = at + 12 + len(body)
        if kind in _TEXTS and zlib.crc32(body, zlib.crc32(kind)) == int.from_bytes(data[end - 4 : end], "big"):
            size, cost = _text_size(kind, bytes(body)) if spent < 2 * MAX_TEXTS else (MAX_TEXT, 0)
            spent += cost
            if size >= MAX_TEXT or total + size > MAX_TEXTS:
                parts.append(data[start:at])
                start = end
            else:
                total += size
    return b"".join((*parts, data[start:])) if parts else data


def _check_blocks(data: bytes, most: int) -> None:
    if data.startswith(b"\xff\xd8\xff"):
        _check_jpeg(data, most)
    elif data.startswith(_PNG):
        _count("chunks", most, _chunks(data))
    elif data.startswith(b"GIF8"):
        _count("blocks", most, _gif_blocks(data))
    elif data.startswith((b"II*\0", b"II+\0", b"MM\0*", b"MM\0+")):
        _check_tiff(data, most)


def _check_numbers(data: bytes, most: int) -> None:
    _check("bytes of numbers or runs", most, len(data))


def _check(what: str, limit: int, count: int) -> None:
    if count > limit:
        raise ImageError(
            "too-complex",
            f"the file holds more than {limit:,} {what}, which take too long to decode; save it again as a plain PNG",
        )


def _count(what: str, limit: int, items: Iterator) -> None:
    for count, _ in enumerate(items, 1):
        _check(what, limit, count)


def _check_jpeg(data: bytes, most: int) -> None:
    at, scans, exifs, blocks = 2, 0, 0, 0
    while found := _MARKER.search(data, at):
        kind, after = data[found.end() - 1], found.end()
        # Before the first scan Pillow passes over an end, and libjpeg reads on behind one of tables alone.
        if kind == _EOI and scans:
            return
        # Up to the first scan Pillow goes byte by byte through what stands between segments.
        blocks += 1 if scans else 1 + found.start() - at
        scans += kind == _SOS
        exifs += kind == _APP1 and data[after + 2 : after + 6] == b"Exif"
        _check("scans", MAX_SCANS, scans)
        _check("EXIF segments", MAX_SCANS, exifs)
        _check("segments and bytes between them", most, blocks)
        at = after if kind in _BARE else after + max(2, int.from_bytes(data[after : after + 2], "big"))
    if not scans:
        _check("segments and bytes between them", most, blocks + len(data) - at)


def _chunks(data: bytes) -> Iterator[tuple[int, bytes, memoryview]]:
    """Where each whole chunk of a PNG begins, its kind and its content."""
    at, view = len(_PNG), memoryview(data)
    while at + 12 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + size > len(data):
            return
        yield at, kind, view[at + 8 : at + 8 + size]
        if kind == b"IEND":
            return
        at += 12 + size


def _text_size(kind: bytes, body: bytes) -> tuple[int, int]:
    """How long a text or profile is, unpacked, of a long one at least ``MAX_TEXT``; and the bytes of work it took."""
    rest = body.partition(b"\0")[2]
    if kind == b"iTXt":
        packed = rest[2:].split(b"\0", 2)[-1] if rest[:1] != b"\0" else b""
    else:
        packed = rest[1:] if kind != b"tEXt" else b""
    if len(body) >= MAX_TEXT or not packed:
        return len(body), 0
    try:
        size = max(len(body), len(zlib.decompressobj().decompress(packed, MAX_TEXT)))
    except zlib.error:
        # How much was unpacked before the damage is not told; Pillow unpacks it once more and leaves it out.
        return len(body), MAX_TEXT
    return size, size


def _gif_blocks(data: bytes) -> Iterator[int]:
    """Where each block of a GIF begins, and each part of one."""
    at = 13 + _colours(data, 10)
    while at < len(data) and data[at] != 0x3B:
        yield at
        # What is neither an extension nor an image Pillow passes over.
        if data[at] == 0x21:
            at += 2
        elif data[at] == 0x2C:
            at += 11 + _colours(data, at + 9)
        else:
            at += 1
            continue
        while at < len(data) and data[at]:
            yield at
            at += 1 + data[at]
        at += 1


def _colours(data: bytes, at: int) -> int:
    """The bytes of the colour table that the flags at ``at`` announce."""
    flags = data[at] if at < len(data) else 0
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _check_tiff(data: bytes, most: int) -> None:
    order, big = "<" if data[:2] == b"II" else ">", 43 in data[2:4]
    # Counts and offsets of a BigTIFF have eight bytes, those of others two and four.
    number, offset, entry = (order + code for code in (("Q", "Q", "H2xQ8x") if big else ("H", "I", "H2xI4x")))
    step, seen = struct.calcsize(entry), set[int]()
    try:
        (at,) = struct.unpack_from(offset, data, 8 if big else 4)
        while at and at not in seen:
            first = at + struct.calcsize(number)
            end = first + step * struct.unpack_from(number, data, at)[0]
            whole = (min(end, len(data)) - first) // step
            for tag, held in struct.iter_unpack(entry, data[first : first + step * whole]) if not seen else ():
                if tag in (_STRIPS, _TILES):
                    _check("strips or tiles", most, held)
            seen.add(at)
            if len(seen) > MAX_PAGES:
                raise ImageError("animated", f"the TIFF holds more than {MAX_PAGES:,} pages; give one image")
            (at,) = struct.unpack_from(offset, data, end)
    except (struct.error, OverflowError):
        return
