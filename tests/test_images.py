import io
import resource
import subprocess
import sys

import numpy as np
import pytest
from bad_images import LOSSLESS_WAYS, broken_images, encode, frames, odd_images, pixels, with_orientation
from PIL import Image

from raypurify.errors import DataError, ImageError
from raypurify.images import FORMATS, SUFFIX, decode_image, encode_image, to_float, to_pixels

ODD, BROKEN = odd_images(), broken_images()


@pytest.mark.parametrize("name", ODD)
def test_an_odd_image_comes_back_in_its_own_kind(name):
    data, mode = ODD[name]
    decoded = decode_image(data)
    with Image.open(io.BytesIO(data)) as stored:
        size = stored.size
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.shape == (size[1], size[0], 3)
    with Image.open(io.BytesIO(encode_image(decoded.pixels, decoded))) as written:
        assert (written.mode, written.size) == (mode, size)


@pytest.mark.parametrize(("format", "compression"), LOSSLESS_WAYS)
@pytest.mark.parametrize("name", ODD)
def test_a_lossless_round_trip_keeps_every_pixel_alpha_and_orientation(name, format, compression):
    first = decode_image(ODD[name][0])
    again = decode_image(encode_image(first.pixels, first, format, compression))
    np.testing.assert_array_equal(again.pixels, first.pixels)
    assert again.orientation == first.orientation
    if first.alpha is None:
        assert again.alpha is None
    else:
        np.testing.assert_array_equal(again.alpha, first.alpha)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_image_is_refused_with_its_reason(name):
    data, reason = BROKEN[name]
    with pytest.raises(ImageError) as caught:
        decode_image(data)
    assert caught.value.reason == reason
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["bomb.png", "bomb.webp"])
def test_a_bomb_is_refused_before_its_pixels_are_allocated(name):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError, match=r"64,000,000 pixels|limit is 64,000,000"):
        decode_image(BROKEN[name][0])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("format", FORMATS)
def test_a_cut_file_never_comes_back_padded(format):
    data = encode(pixels(40, 40, seed=5), format)
    whole = decode_image(data).pixels
    refused = []
    for end in range(1, len(data), 7):
        try:
            np.testing.assert_array_equal(decode_image(data[:end]).pixels, whole)
        except ImageError as error:
            refused.append(error.reason)
    assert set(refused) <= {"truncated", "not-an-image"}
    assert len(refused) > 0.9 * len(range(1, len(data), 7))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_random_damage_raises_nothing_but_image_errors():
    rng = np.random.default_rng(0)
    outcomes = set()
    for name, (data, _) in ODD.items():
        for _ in range(30):
            damaged = bytearray(data)
            for place in rng.integers(0, len(data), 4):
                damaged[place] = rng.integers(256)
            try:
                decode_image(bytes(damaged), max_pixels=1_000_000)
                outcomes.add("decoded")
            except ImageError as error:
                outcomes.add(error.reason)
                assert name
    assert {"decoded", "truncated"} <= outcomes


def test_the_limits_count_pixels_and_sides():
    data = encode(pixels(10, 30))
    assert decode_image(data, max_pixels=300, min_size=10).pixels.shape == (10, 30, 3)
    with pytest.raises(ImageError, match="30×10 is 300 pixels, the limit is 299") as large:
        decode_image(data, max_pixels=299)
    with pytest.raises(ImageError, match="30×10 is too small: each side needs at least 11") as small:
        decode_image(data, min_size=11)
    assert (large.value.reason, small.value.reason) == ("too-large", "too-small")


def test_sixteen_bit_grey_is_scaled_not_cut():
    values = np.array([[0, 128, 129, 257, 385, 386, 65535]], np.uint16)
    for format in ("PNG", "TIFF", "PPM"):
        decoded = decode_image(encode(values, format))
        assert decoded.grey
        assert decoded.pixels[0, :, 1].tolist() == [0, 0, 1, 1, 1, 2, 255]


def test_sixteen_bit_colour_keeps_the_high_byte():
    np.testing.assert_array_equal(decode_image(ODD["rgb16.png"][0]).pixels, pixels())


def test_pixels_stay_as_stored_and_only_the_orientation_tag_travels():
    plain = decode_image(encode(pixels(), "JPEG")).pixels
    for orientation in range(1, 9):
        decoded = decode_image(with_orientation(orientation))
        np.testing.assert_array_equal(decoded.pixels, plain)
        for format in SUFFIX:
            with Image.open(io.BytesIO(encode_image(decoded.pixels, decoded, format))) as written:
                assert dict(written.getexif()) == ({} if orientation == 1 else {0x0112: orientation})


def test_a_wrong_orientation_is_no_orientation():
    assert decode_image(with_orientation(9)).orientation == 1


def test_equal_input_gives_equal_bytes():
    for name in ("alpha.png", "grey16.png", "rotated.jpg"):
        decoded = decode_image(ODD[name][0])
        assert encode_image(decoded.pixels, decoded) == encode_image(decoded.pixels.copy(), decode_image(ODD[name][0]))


def test_jpeg_is_written_only_where_it_fits():
    rgb, alpha = decode_image(ODD["rgb.png"][0]), decode_image(ODD["alpha.png"][0])
    written = encode_image(rgb.pixels, rgb, "jpeg")
    assert written[:3] == b"\xff\xd8\xff"
    assert np.abs(decode_image(written).pixels.astype(int) - rgb.pixels).mean() < 3
    with pytest.raises(ImageError, match="alpha") as caught:
        encode_image(alpha.pixels, alpha, "jpeg")
    assert caught.value.reason == "unsupported-mode"
    wide = decode_image(encode(np.zeros((1, 16384, 3), np.uint8)))
    with pytest.raises(ImageError, match="limit 16383"):
        encode_image(wide.pixels, wide, "webp")


def test_pixels_that_do_not_fit_are_refused():
    like = decode_image(ODD["rgb.png"][0])
    with pytest.raises(DataError, match="expected uint8"):
        encode_image(like.pixels.astype(np.float32), like)
    with pytest.raises(DataError, match=r"\(24, 19, 3\)"):
        encode_image(like.pixels[:, 1:], like)
    with pytest.raises(DataError, match="unknown image format 'gif'"):
        encode_image(like.pixels, like, "gif")
    with pytest.raises(DataError, match="unknown compression 'tiny'; use one of small, fast"):
        encode_image(like.pixels, like, "png", "tiny")
    with pytest.raises(DataError, match="jpeg has one compression; leave it out, or write png or webp"):
        encode_image(like.pixels, like, "jpeg", "fast")


def test_floats_and_pixels_round_half_up_and_clamp():
    every = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    floats = to_float(every)
    assert floats.dtype == np.float32
    assert floats.shape == (3, 16, 16)
    assert floats.flags.c_contiguous
    assert (floats.min(), floats.max()) == (0, 1)
    np.testing.assert_array_equal(to_pixels(floats), every)
    np.testing.assert_array_equal(to_pixels(np.full((3, 1, 1), 0.5 / 255)), np.ones((1, 1, 3), np.uint8))
    np.testing.assert_array_equal(to_pixels(np.full((3, 1, 1), np.inf)), np.full((1, 1, 3), 255, np.uint8))
    with pytest.raises(DataError, match="NaN"):
        to_pixels(np.full((3, 2, 2), np.nan, np.float32))


def test_heic_is_read_upright_and_whole_or_not_at_all():
    heif = pytest.importorskip("pillow_heif", reason="needs raypurify[heic]")
    heif.register_heif_opener()
    picture = pixels(48, 40)
    data = with_orientation(6, "HEIF", quality=95)
    assert decode_image(encode(picture, "HEIF", quality=95)).pixels.shape == picture.shape
    turned = decode_image(data)
    assert (turned.pixels.shape, turned.orientation) == ((20, 24, 3), 1)
    # Half the colour is not stored.
    ahead, back = (np.abs(turned.pixels.astype(int) - np.rot90(pixels(), k)).mean() for k in (-1, 1))
    assert ahead < 15 < 30 < back
    for end in range(1, len(data), 7):
        with pytest.raises(ImageError) as caught:
            decode_image(data[:end])
        assert caught.value.reason in ("truncated", "not-an-image")
    with pytest.raises(ImageError, match="holds 3 frames or pages"):
        decode_image(frames("HEIF"))


def test_without_its_reader_heic_names_the_extra_and_the_others_are_read(tmp_path):
    """In a process of its own, with a package in the way that cannot be imported."""
    (tmp_path / "pillow_heif.py").write_text("raise ImportError('no library')")
    code = (
        "import sys\nsys.path.insert(0, sys.argv[1])\n"
        "from raypurify.errors import ImageError\nfrom raypurify.images import decode_image\n"
        "print(decode_image(b'P5 2 1 255 ' + bytes([0, 255])).mode)\n"
        "try:\n    decode_image(bytes([0, 0, 0, 24]) + b'ftypheic' + bytes(40))\n"
        "except ImageError as error:\n    print(error.reason, error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    told = "not-an-image HEIC is read where `pip install 'raypurify[heic]'` was done, on every node"
    assert run.stdout.splitlines() == ["L", told], run.stderr


def test_sixteen_bits_with_white_as_0_are_refused():
    """Pillow would leave them inverted."""
    levels = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "TIFF", tiffinfo={262: 0})
    assert Image.open(file).tag_v2[262] == 0
    with pytest.raises(ImageError) as refused:
        decode_image(file.getvalue())
    assert refused.value.reason == "unsupported-mode"


def test_memory_that_runs_out_is_no_damage(monkeypatch):
    def load(image):
        raise MemoryError

    data = encode(pixels())
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(ImageError, match=r"more memory than there is.*--actor-cpus.*retry-failed") as error:
        decode_image(data)
    assert error.value.reason == "out-of-memory"
