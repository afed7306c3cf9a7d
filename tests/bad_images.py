"""Bytes of odd and broken images, for every test that takes images from outside.

``odd_images()`` must decode (name → bytes and the mode they are written back in); ``broken_images()`` must be refused
(name → bytes and the reason).
"""

import io
import struct
import zlib

import numpy as np
from PIL import Image, features

from raypurify.png import writes_png

# (format, compression) of which the pixels come back.
LOSSLESS_WAYS = [("png", "small"), ("webp", "small"), ("webp", "fast"), *[("png", "fast")] * writes_png()]


def pixels(height: int = 24, width: int = 20, seed: int = 0) -> np.ndarray:
    """A smooth random RGB picture, uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8))
    return np.array(small.resize((width, height), Image.Resampling.BICUBIC))


def encode(image: Image.Image | np.ndarray, format: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, format=format, **options)
    return out.getvalue()


def with_orientation(orientation: int, format: str = "JPEG", **options) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "a description"
    return encode(pixels(), format, exif=exif.tobytes(), **options)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bomb_png(width: int = 20_000, height: int = 20_000) -> bytes:
    """A PNG of a few kilobytes that declares ``width`` × ``height`` RGB pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1 << 20), 9)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")


def bomb_webp() -> bytes:
    """A WebP whose extended header declares a canvas of 16383 × 16383 pixels (2 GiB in the decoder)."""
    side = (16383 - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + side + side + encode(pixels(), "WEBP")[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def rgb16_png() -> bytes:
    """A 16-bit RGB PNG whose high bytes are ``pixels()``."""
    picture = pixels().astype(np.uint16) * 256 + 77
    raw = b"".join(b"\x00" + row.astype(">u2").tobytes() for row in picture)
    header = struct.pack(">IIBBBBB", picture.shape[1], picture.shape[0], 16, 2, 0, 0, 0)
    parts = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(raw)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def frames(format: str = "GIF") -> bytes:
    """An animation (GIF, WEBP, PNG) or a document of several pages (TIFF)."""
    rest = [Image.fromarray(pixels(seed=s)) for s in (1, 2)]
    return encode(pixels(), format, save_all=True, append_images=rest)


def odd_images() -> dict[str, tuple[bytes, str]]:
    rgb = Image.fromarray(pixels())
    grey = rgb.convert("L")
    clear = Image.fromarray(pixels(seed=9)).convert("L")
    rgba, la = rgb.copy(), grey.copy()
    rgba.putalpha(clear)
    la.putalpha(clear)
    grey16 = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    more = {}
    if "avif" in features.modules and features.check("avif"):
        more["rgb.avif"] = encode(rgb, "AVIF"), "RGB"
        more["alpha.avif"] = encode(rgba, "AVIF"), "RGBA"
        more["rotated.avif"] = with_orientation(6, "AVIF"), "RGB"
    return more | {
        "rgb.png": (encode(rgb), "RGB"),
        "rgb.jpg": (encode(rgb, "JPEG"), "RGB"),
        "rgb.webp": (encode(rgb, "WEBP", lossless=True), "RGB"),
        "rgb.bmp": (encode(rgb, "BMP"), "RGB"),
        "rgb.tif": (encode(rgb, "TIFF"), "RGB"),
        "rgb.ppm": (encode(rgb, "PPM"), "RGB"),
        "rgb16.png": (rgb16_png(), "RGB"),
        "transparent-colour.png": (encode(rgb, transparency=tuple(pixels()[0, 0].tolist())), "RGBA"),
        "alpha.png": (encode(rgba), "RGBA"),
        "alpha.webp": (encode(rgba, "WEBP", lossless=True, exact=True), "RGBA"),
        "grey.png": (encode(grey), "L"),
        "grey.jpg": (encode(grey, "JPEG"), "L"),
        "grey-transparent.png": (encode(grey, transparency=grey.getpixel((0, 0))), "LA"),
        "la.png": (encode(la), "LA"),
        "bilevel.png": (encode(grey.convert("1")), "L"),
        "grey16.png": (encode(grey16), "L"),
        "grey16.tif": (encode(grey16, "TIFF"), "L"),
        "grey16.pgm": (encode(grey16, "PPM"), "L"),
        "cmyk.jpg": (encode(rgb.convert("CMYK"), "JPEG"), "RGB"),
        "cmyk.tif": (encode(rgb.convert("CMYK"), "TIFF"), "RGB"),
        "palette.png": (encode(rgb.quantize(16)), "RGB"),
        "palette-transparent.png": (encode(rgb.quantize(16), transparency=2), "RGBA"),
        "palette.gif": (encode(rgb, "GIF"), "RGB"),
        "rotated.jpg": (with_orientation(6), "RGB"),
        "rotated.png": (with_orientation(3, "PNG"), "RGB"),
        "one-pixel.png": (encode(pixels(1, 1)), "RGB"),
        "thin.png": (encode(pixels(1, 40)), "RGB"),
        "really-a-jpeg.png": (encode(rgb, "JPEG"), "RGB"),
    }


def broken_images() -> dict[str, tuple[bytes, str]]:
    png, jpeg = encode(pixels(64, 64)), encode(pixels(64, 64), "JPEG")
    return {
        "empty.png": (b"", "empty"),
        "text.png": (b"this is no image, but a line of text\n", "not-an-image"),
        "page.jpg": (b"<!doctype html><title>404</title>", "not-an-image"),
        "vector.png": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not-an-image"),
        "postscript.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not-an-image"),
        "cut.png": (png[: len(png) // 2], "truncated"),
        "cut.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "header-only.png": (png[:20], "truncated"),
        "magic-only.jpg": (jpeg[:4], "truncated"),
        "bad-checksum.png": (png[:45] + bytes([png[45] ^ 255]) + png[46:], "truncated"),
        "bomb.png": (bomb_png(), "too-large"),
        "bomb.webp": (bomb_webp(), "too-large"),
        "animated.gif": (frames("GIF"), "animated"),
        "animated.webp": (frames("WEBP"), "animated"),
        "animated.png": (frames("PNG"), "animated"),
        "pages.tif": (frames("TIFF"), "animated"),
        "float.tif": (encode(np.ones((9, 9), np.float32), "TIFF"), "unsupported-mode"),
        "int32.tif": (encode(np.ones((9, 9), np.int32), "TIFF"), "unsupported-mode"),
    }
