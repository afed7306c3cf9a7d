"""Files that would keep a decoder busy are refused by what they hold, before they are decoded."""

import io
import struct
import zlib
from collections import Counter
from itertools import product

import numpy as np
import pytest
from bad_images import encode, odd_images, pixels, png_chunk
from PIL import Image, ImageCms

from raypurify import scans
from raypurify.errors import ImageError
from raypurify.images import decode_image
from raypurify.scans import (
    MAX_BLOCKS,
    MAX_COMMENTS,
    MAX_SCANS,
    MAX_TEXT,
    MAX_TEXTS,
    check_work,
    takes_interpreter,
    without_long_texts,
)

MANY = MAX_BLOCKS + 1


def progressive(scans: int, size: int = 64) -> bytes:
    """A progressive JPEG with its last scan repeated until there are so many."""
    data = encode(pixels(size, size), "JPEG", progressive=True)
    starts = [k for k in range(len(data)) if data[k : k + 2] == b"\xff\xda"]
    return data[:-2] + data[starts[-1] : -2] * (scans - len(starts)) + data[-2:]


def after_start(data: bytes, start: int, more: bytes) -> bytes:
    return data[:start] + more + data[start:]


def tiff(pages: int = 1, tiles: int = 1, order: str = "<", big: bool = False) -> bytes:
    """A TIFF of so many pages, each only an entry, that claims so many strips."""
    number, offset, entry, step = ("Q", "Q", "HHQQ", 36) if big else ("H", "I", "HHII", 18)
    mark, start = (43, 16) if big else (42, 8)
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", mark)
    head += struct.pack(order + "HHQ", 8, 0, start) if big else struct.pack(order + "I", start)
    ends = [start + step * (k + 1) for k in range(pages - 1)] + [0]
    return head + b"".join(struct.pack(order + number + entry + offset, 1, 273, 4, tiles, 0, end) for end in ends)


JPEG, PNG, GIF = encode(pixels(), "JPEG"), encode(pixels()), encode(pixels(), "GIF")
EXIF = b"\xff\xe1\1\x90Exif\0\0" + bytes(0x190 - 8)
TABLE = 13 + (3 << (GIF[10] & 7) + 1)
FRAME = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\2\1\0\0"
BMP = b"BM" + struct.pack("<IHHIIiiHHI", 0, 0, 0, 54, 40, 4, 4, 1, 8, 1)
COSTLY = {
    "scans": lambda: progressive(MAX_SCANS + 1),
    "scans behind restarts": lambda: progressive(MAX_SCANS + 1).replace(b"\xff\xda", b"\xff\xd0\xff\xff\xda"),
    "segments": lambda: after_start(JPEG, 2, b"\xff\xfe\0\2" * MANY),
    "fill": lambda: after_start(JPEG, 2, b"\xff" * MANY),
    "junk without a scan": lambda: b"\xff\xd8\xff\xd9" + bytes(MANY),
    "exif": lambda: after_start(JPEG, 2, (b"\xff\xe1\xff\xf0Exif\0\0" + bytes(0xFFF0 - 8)) * 101),
    "exif behind an end": lambda: after_start(JPEG, 2, b"\xff\xd9" + EXIF * 20_000),
    "exif behind a reserved marker": lambda: after_start(JPEG, 2, (b"\xff\xf0" + EXIF) * 20_000),
    "chunks": lambda: after_start(PNG, 33, png_chunk(b"abCd", b"") * MANY),
    "comments": lambda: after_start(GIF, TABLE, b"!\xfe\1a\0" * (MANY // 2)),
    "parts of a comment": lambda: after_start(GIF, TABLE, b"!\xfe" + b"\1a" * MANY + b"\0"),
    "frames": lambda: GIF[:-1] + FRAME * MANY + b";",
    "junk": lambda: after_start(GIF, TABLE, b"\1" * MANY),
    "strips": lambda: tiff(tiles=MANY),
    "strips of a big one": lambda: tiff(tiles=MANY, order=">", big=True),
    "numbers": lambda: b"P3 4 4 255\n" + b"7 " * (17 << 20),
    "remarks": lambda: b"P2 4 4 255\n" + b"#\n" * (MAX_COMMENTS + 1) + b"7 " * 16,
    "runs": lambda: BMP + bytes(33 << 20),
}


@pytest.mark.parametrize("name", COSTLY)
def test_what_takes_long_is_refused_before_a_decoder_sees_it(name, monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("Pillow was asked to open it"))
    with pytest.raises(ImageError, match="save it again") as caught:
        decode_image(COSTLY[name]())
    assert caught.value.reason == "too-complex"


def binary(kind: bytes, most: int, header: bytes = b"%b 8 8 %d\n") -> bytes:
    return header % (kind, most) + bytes(8 * 8 * 3 * 2)


PYTHON = {
    "digits": b"P1 4 4\n" + b"1 " * 16,
    "numbers": b"P3 4 4 255\n" + b"7 " * 48,
    "levels of seven bits": binary(b"P5", 127),
    "levels of twelve bits": binary(b"P5", 4095),
    "colours of sixteen bits": binary(b"P6", 65535),
    "a number that goes on after a comment": binary(b"P6", 254, b"%b 8#\n 8 255 %d\n"),
    "a long header": binary(b"P6", 255, b"%b 8 #" + b"-" * 1024 + b"\n8 %d\n"),
    "runs": BMP + bytes(100),
    "segments": after_start(JPEG, 2, b"\xff\xfe\0\2" * 20_001),
    "chunks": after_start(PNG, 33, png_chunk(b"abCd", b"") * 20_001),
    "blocks": after_start(GIF, TABLE, b"!\xfe" + b"\1a" * 20_001 + b"\0"),
    "strips": tiff(tiles=20_001),
}
COMPILED = {
    "grey": binary(b"P5", 255),
    "grey of sixteen bits": binary(b"P5", 65535),
    "colours": binary(b"P6", 255, b"%b\n# by hand\n# and twice\n8\t8\n%d\n"),
    "black and white": b"P4\n8 8\n" + bytes(8),
    "no image": b"Please find enclosed",
} | {format: encode(pixels(64, 64), format) for format in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")}


def test_what_pillow_reads_in_python_is_known_before():
    assert [name for name, data in PYTHON.items() if not takes_interpreter(data, 1 << 20)] == []
    assert [name for name, data in COMPILED.items() if takes_interpreter(data, 1)] == []
    for name in ("digits", "numbers", "levels of seven bits", "colours of sixteen bits", "runs"):
        with pytest.raises(ImageError, match=r"more than 7 bytes of numbers or runs.* save it again") as caught:
            takes_interpreter(PYTHON[name], 7)
        assert caught.value.reason == "too-complex"


def test_no_header_hides_what_pillow_reads_in_python():
    words, decoders = (b"8", b"8#\n8", b"255", b"254", b"#\r", b"0255"), Counter()
    for kind, *header in product((b"P3", b"P4", b"P5", b"P6"), *[words] * 4):
        data = b" ".join((kind, *header, bytes(512)))
        try:
            with Image.open(io.BytesIO(data), formats=("PPM",)) as image:
                decoder = image.tile[0][0]
        except Exception:
            continue
        assert takes_interpreter(data, 1 << 20) or decoder == "raw", header
        decoders[decoder] += 1
    assert min(decoders["raw"], decoders["ppm"], decoders["ppm_plain"]) > 50, decoders


def test_a_tiff_of_very_many_pages_is_refused_without_opening_each():
    for order, big in (("<", False), (">", False), ("<", True)):
        check_work(tiff(pages=1000, order=order, big=big))
        with pytest.raises(ImageError, match="1,000 pages") as caught:
            check_work(tiff(pages=1001, order=order, big=big))
        assert caught.value.reason == "animated"


def test_what_real_files_hold_passes():
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    for format in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM"):
        check_work(encode(noise, format))
        data = encode(pixels(), format)
        for end in range(len(data)):
            check_work(data[:end])
    for data, _ in odd_images().values():
        check_work(data)
    check_work(encode(Image.fromarray(noise), "TIFF", compression="tiff_lzw"))
    for count in (10, MAX_SCANS):
        assert decode_image(progressive(count)).pixels.shape == (64, 64, 3)
    # A whole JPEG as a preview in EXIF, and one behind the end, as phones have it.
    thumbnail = b"Exif\0\0" + progressive(MAX_SCANS + 1)
    photo = encode(pixels(), "JPEG", exif=thumbnail[:60_000]) + progressive(MAX_SCANS + 1)
    assert decode_image(photo).pixels.shape == pixels().shape


class Unpacking:
    """``zlib``, with a count of the bytes that were asked for at most."""

    error, crc32 = zlib.error, staticmethod(zlib.crc32)

    def __init__(self):
        self.asked = 0

    def decompressobj(self):
        return self

    def decompress(self, packed, most):
        self.asked += most
        return zlib.decompressobj().decompress(packed, most)


def test_of_very_many_packed_texts_few_are_unpacked(monkeypatch):
    long, damaged = zlib.compress(bytes(MAX_TEXT)), zlib.compress(bytes(MAX_TEXT - 1))[:-4] + b"????"
    profile = png_chunk(
        b"iCCP", b"a\0\0" + zlib.compress(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    )
    for kind, head in ((b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"), (b"iCCP", b"a\0\0")):
        for packed in (long, damaged):
            data = after_start(PNG, 33, profile * (kind != b"iCCP") + png_chunk(kind, head + packed) * 1500)
            monkeypatch.setattr(scans, "zlib", unpacking := Unpacking())
            image = decode_image(data)
            assert unpacking.asked <= 2 * MAX_TEXTS + MAX_TEXT, (kind, packed is damaged)
            assert len(without_long_texts(data)) < MAX_TEXTS // 100, (kind, packed is damaged)
            np.testing.assert_array_equal(image.pixels, pixels())
            assert (image.icc is None) == (kind == b"iCCP")
    broken = after_start(PNG, 33, png_chunk(b"zTXt", b"a\0\0" + long) * 100 + png_chunk(b"zTXt", b"a\0\0")[:-1] + b"?")
    with pytest.raises(ImageError):
        decode_image(broken)
