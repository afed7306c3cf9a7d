"""What a viewer shows of an image, and what kind of file it is, through decoding and encoding: every format × mode."""

import io
import struct
import zlib

import numpy as np
import pytest
from bad_images import LOSSLESS_WAYS, encode, png_chunk
from PIL import Image, ImageOps

from raypurify.errors import ImageError
from raypurify.images import decode_image, encode_image

HEIGHT, WIDTH = 5, 7
LEVELS = np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
CLEAR = np.random.default_rng(4).integers(0, 256, (HEIGHT, WIDTH), np.uint8)


def profile(space: bytes) -> bytes:
    """A colour profile without tags, of channels of this ``space``."""
    return struct.pack(">I12x4s16x4s88xI", 132, space, b"acsp", 0)


PROFILES = {None: None, "RGB": profile(b"RGB "), "GRAY": profile(b"GRAY"), "CMYK": profile(b"CMYK")}


def picture(mode: str) -> Image.Image:
    rgb, grey, clear = Image.fromarray(LEVELS), Image.fromarray(LEVELS[..., 0]), Image.fromarray(CLEAR)
    if mode == "I;16":
        return Image.fromarray(LEVELS[..., 0].astype(np.uint16) << 8 | LEVELS[..., 1])
    if mode in ("LA", "RGBA"):
        image = (grey if mode == "LA" else rgb).copy()
        image.putalpha(clear)
        return image
    return rgb.quantize(16) if mode == "P" else (rgb if mode in ("RGB", "CMYK", "YCbCr") else grey).convert(mode)


def raw_png(bits: int, colours: int, samples: np.ndarray, key: tuple[int, ...]):
    """A PNG of samples (H, W) or (H, W, 3), of which those that are ``key`` are transparent; written without Pillow."""

    def make(icc_profile: bytes | None = None, exif: bytes | None = None) -> bytes:
        if bits == 16:
            lines = [line.astype(">u2").tobytes() for line in samples]
        else:
            each = [[f"{v:0{bits}b}" for v in line.ravel()] for line in samples]
            texts = ["".join(line).ljust(-(-len(line) * bits // 8) * 8, "0") for line in each]
            lines = [int(text, 2).to_bytes(len(text) // 8, "big") for text in texts]
        chunks = [(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colours, 0, 0, 0))]
        chunks += [(b"iCCP", b"p\0\0" + zlib.compress(icc_profile))] if icc_profile else []
        chunks += [(b"tRNS", struct.pack(f">{len(key)}H", *key))]
        chunks += [(b"eXIf", exif[6:])] if exif else []
        chunks += [(b"IDAT", zlib.compress(b"".join(b"\0" + line for line in lines))), (b"IEND", b"")]
        return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)

    top = (1 << bits) - 1
    shown = (samples.astype(np.int64) * 255 + top // 2) // top if bits < 16 or colours == 0 else samples >> 8
    shown = np.repeat(shown[..., None], 3, axis=2) if shown.ndim == 2 else shown
    same = (samples == np.array(key)).all(axis=-1) if samples.ndim == 3 else samples == key[0]
    assert 0 < same.sum() < same.size
    return make, np.dstack([shown, np.where(same, 0, 255)]).astype(np.uint8)


def saved(format: str, mode: str, **options):
    return lambda **more: encode(picture(mode), format, **options, **more), None


# One neighbour shares the high bytes of the transparent colour, and is none.
_WIDE = LEVELS.astype(np.uint16) << 8 | 77
_WIDE[1, 1], _WIDE[1, 2] = _WIDE[0, 0], _WIDE[0, 0] + 1
_GREY = _WIDE[..., 0]
# (format, mode) → what makes the file and, where Pillow is not asked, what it shows; then the kind that comes out.
CASES = {
    **{("PNG", mode): (saved("PNG", mode), mode) for mode in ("L", "LA", "RGB")},
    ("PNG", "1"): (saved("PNG", "1"), "L"),
    ("PNG", "P"): (saved("PNG", "P"), "RGB"),
    ("PNG", "RGBA"): (saved("PNG", "RGBA"), "RGBA"),
    ("PNG", "I;16"): (saved("PNG", "I;16"), "L"),
    ("PNG", "1 key"): (raw_png(1, 0, LEVELS[..., 0] >> 7, (1,)), "LA"),
    ("PNG", "L;2 key"): (raw_png(2, 0, LEVELS[..., 0] >> 6, (2,)), "LA"),
    ("PNG", "L;4 key"): (raw_png(4, 0, LEVELS[..., 0] >> 4, (int(LEVELS[0, 0, 0]) >> 4,)), "LA"),
    ("PNG", "L key"): (raw_png(8, 0, LEVELS[..., 0], (int(LEVELS[0, 0, 0]),)), "LA"),
    ("PNG", "I;16 key"): (raw_png(16, 0, _GREY, (int(_GREY[0, 0]),)), "LA"),
    ("PNG", "RGB key"): (raw_png(8, 2, LEVELS, tuple(LEVELS[0, 0].tolist())), "RGBA"),
    ("PNG", "RGB;16 key"): (raw_png(16, 2, _WIDE, tuple(_WIDE[0, 0].tolist())), "RGBA"),
    ("PNG", "P key"): (saved("PNG", "P", transparency=2), "RGBA"),
    ("PNG", "P alphas"): (saved("PNG", "P", transparency=bytes(range(0, 160, 10))), "RGBA"),
    **{("JPEG", mode): (saved("JPEG", mode), "L" if mode == "L" else "RGB") for mode in ("L", "RGB", "CMYK", "YCbCr")},
    ("WEBP", "L"): (saved("WEBP", "L", lossless=True), "RGB"),
    ("WEBP", "RGB"): (saved("WEBP", "RGB", lossless=True), "RGB"),
    ("WEBP", "RGBA"): (saved("WEBP", "RGBA", lossless=True, exact=True), "RGBA"),
    **{("TIFF", mode): (saved("TIFF", mode), "L") for mode in ("1", "L", "I;16")},
    **{("TIFF", mode): (saved("TIFF", mode), "RGB") for mode in ("P", "RGB", "CMYK", "YCbCr")},
    **{("TIFF", mode): (saved("TIFF", mode), mode) for mode in ("LA", "RGBA")},
    **{("BMP", mode): (saved("BMP", mode), kind) for mode, kind in (("1", "L"), ("L", "L"), ("P", "RGB"))},
    # Of a BMP the fourth channel counts only where its header says so; a GIF of few grey levels is one of colours.
    **{("BMP", mode): (saved("BMP", mode), "RGB") for mode in ("RGB", "RGBA")},
    ("GIF", "1"): (saved("GIF", "1"), "L"),
    **{("GIF", mode): (saved("GIF", mode), "RGB") for mode in ("L", "P", "RGB")},
    ("GIF", "P key"): (saved("GIF", "P", transparency=2), "RGBA"),
    **{("PPM", mode): (saved("PPM", mode), "L") for mode in ("1", "L", "I;16")},
    ("PPM", "RGB"): (saved("PPM", "RGB"), "RGB"),
}


def shown(data: bytes) -> np.ndarray:
    """What a viewer shows, upright, RGBA; 16-bit grey by numpy, because Pillow cuts it."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        orientation = image.getexif().get(0x0112, 1)
        if image.mode.startswith("I"):
            levels = np.floor(np.asarray(image) / 257 + 0.5).astype(np.uint8)
            upright = Image.fromarray(levels)
            upright.getexif()[0x0112] = orientation
            return np.asarray(ImageOps.exif_transpose(upright).convert("RGBA"))
        return np.asarray(ImageOps.exif_transpose(image).convert("RGBA"))


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels as stored, turned as their EXIF tag says."""
    pixels = pixels.swapaxes(0, 1) if orientation > 4 else pixels
    flipped_down, flipped_right = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return pixels[:: -1 if flipped_down else 1, :: -1 if flipped_right else 1]


@pytest.mark.parametrize(("format", "mode"), CASES)
def test_a_viewer_shows_what_it_showed_before_in_every_kind_of_file(format, mode):
    (make, told), kind = CASES[format, mode]
    tagged = format in ("PNG", "JPEG", "WEBP", "TIFF")
    for orientation in range(1, 9) if tagged else (1,):
        name = [*PROFILES][orientation % len(PROFILES)] if tagged else None
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {"icc_profile": PROFILES[name]} if name else {}
        data = make(**options, **({"exif": exif.tobytes()} if tagged and orientation > 1 else {}))
        before = shown(data) if told is None else upright(told, orientation)
        decoded = decode_image(data)
        for out, compression in (*LOSSLESS_WAYS, ("jpeg", "small")):
            if out == "jpeg" and kind.endswith("A"):
                with pytest.raises(ImageError, match="alpha"):
                    encode_image(decoded.pixels, decoded, out)
                continue
            written = encode_image(decoded.pixels, decoded, out, compression)
            after = shown(written)
            grey = decoded.grey and out != "webp"
            if out == "jpeg":
                assert before.shape == after.shape
            else:
                np.testing.assert_array_equal(after, before)
            with Image.open(io.BytesIO(written)) as image:
                expected = kind if out != "webp" else "RGBA" if kind.endswith("A") else "RGB"
                assert image.mode == expected
                fits = name == ("GRAY" if grey else "RGB") and grey == decoded.grey
                fits = fits and mode not in ("CMYK", "YCbCr" if format == "TIFF" else "")
                assert image.info.get("icc_profile") == (PROFILES[name] if fits else None)


def test_a_sound_png_may_hold_texts_and_profiles_of_any_length():
    plain = encode(LEVELS)
    text = b"k\0" + b"a" * (3 << 20)
    packed = b"k\0\0" + zlib.compress(bytes(3 << 20))
    unicode = b"k\0\1\0en\0\0" + zlib.compress(bytes(3 << 20))
    for kind, body in ((b"tEXt", text), (b"zTXt", packed), (b"iTXt", unicode), (b"iCCP", packed)):
        data = plain[:33] + png_chunk(kind, body) + plain[33:]
        np.testing.assert_array_equal(decode_image(data).pixels, LEVELS)
        # Damage in one of them is still told.
        broken = data[:60] + bytes([data[60] ^ 1]) + data[61:]
        with pytest.raises(ImageError) as caught:
            decode_image(broken)
        assert caught.value.reason == "truncated"
    many = plain[:33] + png_chunk(b"tEXt", b"k\0" + bytes(900_000)) * 80 + plain[33:]
    np.testing.assert_array_equal(decode_image(many).pixels, LEVELS)
    turned = plain[:33] + png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(_raw_exif(6))) + plain[33:]
    assert decode_image(turned).orientation == 6


def _raw_exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    body = exif.tobytes()
    return f"\nexif\n{len(body):8}\n{body.hex()}\n".encode()
