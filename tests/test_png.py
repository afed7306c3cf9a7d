import io
import sys
import zlib

import numpy as np
import pytest
from bad_images import encode, pixels
from PIL import Image

from raypurify import png
from raypurify.errors import DataError
from raypurify.images import check_encoding, decode_image, encode_image
from raypurify.png import filtered, write_png


def paeth(planes: np.ndarray) -> list[list[int]]:
    """Filter type 4 as the specification has it, value by value."""
    height, width, channels = planes.shape
    rows = [[*line] for line in planes.reshape(height, width * channels).tolist()]
    found = []
    for y, row in enumerate(rows):
        line = [4]
        for x, value in enumerate(row):
            a = row[x - channels] if x >= channels else 0
            b = rows[y - 1][x] if y else 0
            c = rows[y - 1][x - channels] if y and x >= channels else 0
            near = min((a, b, c), key=lambda one: abs(a + b - c - one))
            line.append((value - near) % 256)
        found.append(line)
    return found


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_rows_are_filtered_as_the_specification_says(channels, monkeypatch):
    planes = np.random.default_rng(channels).integers(0, 256, (11, 6, channels), np.uint8)
    # Few levels, for many ties between neighbours.
    planes[6:] //= 64
    expected = paeth(planes)
    # All rows at once, some rows, and a row that is longer than what is filtered together.
    for block in (1 << 16, 3 * 6 * channels, 5):
        monkeypatch.setattr(png, "_BLOCK", block)
        assert filtered(planes).tolist() == expected


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
def test_a_file_is_sound_and_holds_what_it_was_given(channels, mode):
    pytest.importorskip("deflate", reason="needs raypurify[fast]")
    for size in ((1, 1), (1, 300), (300, 1), (257, 129)):
        planes = np.random.default_rng(0).integers(0, 256, (*size, channels), np.uint8)
        data = write_png(planes, icc=b"a profile", exif=b"MM\0*\0\0\0\x08\0\0\0\0\0\0")
        with Image.open(io.BytesIO(data)) as image:
            image.verify()
        with Image.open(io.BytesIO(data)) as image:
            assert (image.mode, image.info["icc_profile"]) == (mode, b"a profile")
            np.testing.assert_array_equal(np.asarray(image).reshape(planes.shape), planes)
        assert write_png(planes.copy(order="F"), b"a profile", b"MM\0*\0\0\0\x08\0\0\0\0\0\0") == data


def test_what_is_no_image_of_eight_bits_is_refused():
    pytest.importorskip("deflate", reason="needs raypurify[fast]")
    for planes in (np.zeros((2, 2, 5), np.uint8), np.zeros((2, 2), np.uint8), np.zeros((0, 2, 3), np.uint8)):
        with pytest.raises(DataError, match=r"expected uint8 \(H, W, 1 to 4\), not empty"):
            write_png(planes)
    with pytest.raises(DataError, match="planes are float32"):
        write_png(np.zeros((2, 2, 3), np.float32))


def test_a_photograph_takes_no_more_bytes_than_by_pillow():
    pytest.importorskip("deflate", reason="needs raypurify[fast]")
    image = decode_image(encode(pixels(200, 180)))
    small, fast = (encode_image(image.pixels, image, "png", compression) for compression in ("small", "fast"))
    assert fast != small
    assert len(fast) <= 1.05 * len(small)


def test_without_libdeflate_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "deflate", None)
    png.writes_png.cache_clear()
    try:
        told = r"fast PNG needs `pip install 'raypurify\[fast\]'`, on every node; install it, or write webp"
        with pytest.raises(DataError, match=told):
            check_encoding("png", "fast")
        check_encoding("webp", "fast")
        with pytest.raises(DataError, match=r"raypurify\[fast\]"):
            write_png(np.zeros((1, 1, 3), np.uint8))
    finally:
        png.writes_png.cache_clear()


def test_damage_is_told_by_the_checksum():
    pytest.importorskip("deflate", reason="needs raypurify[fast]")
    data = write_png(pixels())
    at = data.index(b"IDAT")
    length = int.from_bytes(data[at - 4 : at], "big")
    assert zlib.crc32(data[at : at + 4 + length]) == int.from_bytes(data[at + 4 + length : at + 8 + length], "big")
