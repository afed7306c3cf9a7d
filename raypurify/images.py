"""Bytes ⇄ image, and the limits and errors of one image.

What comes in is untrusted: the size is read from the header before any pixel is allocated, only the formats named in
``FORMATS``, and HEIC with the extra ``heic``, are ever opened, and whatever goes wrong becomes an
:class:`~raypurify.errors.ImageError` with a reason.

What goes out has the size, the orientation, the alpha channel and the kind of colour of what came in:

======================================  ============  ==================================================
mode as stored                          written as    how
======================================  ============  ==================================================
``1``, ``L``                            ``L``         grey is repeated over R, G, B; back by ITU-R 601 luma
``LA``, ``La``, ``L`` or ``1`` with a   ``LA``        the same; alpha untouched
colour made transparent
``I;16`` (and ``I`` of a PGM or PNG)    ``L``         16-bit value v becomes v / 257, rounded half up
``I;16`` with a transparent colour      ``LA``        the same; that very value is transparent
``RGB`` (8 or 16 bits a channel)        ``RGB``       of 16 bits the high byte is kept
``CMYK``, ``YCbCr``, ``P``, ``RGBX``    ``RGB``       Pillow's conversion
``RGBA``, ``RGBa``, ``PA``, ``P`` or    ``RGBA``      alpha untouched
``RGB`` with a transparent colour
======================================  ============  ==================================================

A colour profile is written where it describes what is written: one of RGB with colours, one of grey levels with grey.
"""

import importlib.util
import io
import struct
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, features

from raypurify.errors import DataError, ImageError
from raypurify.png import write_png, writes_png
from raypurify.scans import check_work, without_long_texts

# Pillow knows AVIF since 11.3, and may be built without.
_AVIF = "avif" in features.modules and bool(features.check("avif"))
_HEIF = importlib.util.find_spec("pillow_heif") is not None
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM") + ("AVIF",) * _AVIF
# Of the formats that not every installation reads.
MORE_SUFFIXES = (".avif",) * _AVIF + (".heic", ".heif", ".hif") * _HEIF
# Of an image that is purified, unless someone says otherwise.
MAX_PIXELS = 1 << 24
SUFFIX = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}
# Whose files a choice of compression changes, not their pixels.
COMPRESSIONS, LOSSLESS = ("small", "fast"), ("png", "webp")

_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\x00", b"MM\x00*", b"GIF8", b"P1", b"P2", b"P3", b"P4", b"P5", b"P6")
# What an AVIF or HEIC says that it is, after "ftyp".
_AVIF_BRANDS = (b"avif", b"avis")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_ORIENTATION = 0x0112
_MAX_ICC = 1 << 20
_GREY = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L"}
_COLOUR = {"RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr"}


@dataclass(frozen=True)
class Decoded:
    """One decoded image and what is needed to write it again in its own kind.

    ``pixels`` uint8 (H, W, 3) RGB; ``alpha`` uint8 (H, W) or None; ``mode`` as stored (``"L"``, ``"CMYK"``,
    ``"I;16"``); ``orientation`` the EXIF tag, 1 to 8 (the pixels stay as stored); ``icc`` the colour profile, or None
    where there is none or it describes other channels than the ones written.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None
    mode: str
    orientation: int = 1
    icc: bytes | None = None

    @property
    def grey(self) -> bool:
        """Whether the image was stored as grey levels."""
        return self.mode in _GREY


def decode_image(data: bytes, *, max_pixels: int = 64_000_000, min_size: int = 1) -> Decoded:
    """Decode one image file held in memory.

    Raises :class:`ImageError` with the reason ``empty``, ``not-an-image``, ``truncated`` (never padded),
    ``too-large`` (more than ``max_pixels``), ``too-small`` (a side below ``min_size``), ``too-complex`` (more scans or
    blocks than :mod:`raypurify.scans` lets pass), ``animated`` (more than one frame or page), ``unsupported-mode``
    (floating point, 32-bit integers, CIE Lab) or ``out-of-memory``.

    >>> image = decode_image(b"P5 2 1 255 " + bytes([0, 255]))
    >>> image.mode, image.pixels.shape
    ('L', (1, 2, 3))
    """
    if not data:
        raise ImageError("empty", "the image holds no bytes")
    _check_size(_webp_size(data), max_pixels, min_size)
    check_work(data)
    data = without_long_texts(data)
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            _check_size(image.size, max_pixels, min_size)
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            if frames > 1:
                raise ImageError("animated", f"the {image.format} holds {frames} frames or pages; give one image")
            image.load()
            return _unpack(image, data)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # Pillow's own text names a limit of its own.
        message = f"the header asks for more than the limit of {max_pixels:,} pixels; scale it down"
        raise ImageError("too-large", message) from error
    except Image.UnidentifiedImageError as error:
        raise _unidentified(data) from error
    except MemoryError as error:
        message = "its decoder asked for more memory than there is; let fewer actors work at once (--actor-cpus), "
        raise ImageError("out-of-memory", f"{message}and try it again by retry-failed") from error
    except Exception as error:  # Pillow's decoders raise nearly every built-in type on damaged input
        message = f"the image is cut short or damaged ({len(data):,} bytes): {error}"
        raise ImageError("truncated", message) from error


def check_encoding(format: str, compression: str = "small") -> None:
    """Raises :class:`DataError` where :func:`encode_image` would write no image in this way, of whatever pixels.

    >>> check_encoding("webp", "fast")
    """
    if format not in SUFFIX:
        raise DataError(f"unknown image format {format!r}; use one of {', '.join(SUFFIX)}")
    if compression not in COMPRESSIONS:
        raise DataError(f"unknown compression {compression!r}; use one of {', '.join(COMPRESSIONS)}")
    if compression == "fast" and format not in LOSSLESS:
        raise DataError(f"{format} has one compression; leave it out, or write {' or '.join(LOSSLESS)}")
    if compression == "fast" and format == "png" and not writes_png():
        raise DataError("fast PNG needs `pip install 'raypurify[fast]'`, on every node; install it, or write webp")


def encode_image(pixels: np.ndarray, like: Decoded, format: str = "png", compression: str = "small") -> bytes:
    """Encode uint8 RGB ``pixels`` (H, W, 3) with the alpha, orientation, profile and grey or colour kind of ``like``.

    ``format`` is ``"png"`` or ``"webp"``, both lossless, or ``"jpeg"`` (quality 95, 4:4:4). WebP has no grey mode and
    JPEG no alpha: the first stores grey as RGB, the second refuses (``unsupported-mode``). ``compression`` is
    ``"small"``, or for lossless formats ``"fast"``: PNG by :mod:`raypurify.png`, which needs the extra ``fast``, and
    WebP with less search. The pixels are the same. Equal input gives equal bytes. Raises :class:`DataError` for pixels
    of another shape or type and what :func:`check_encoding` refuses, :class:`ImageError` ``too-large`` for sides the
    format cannot hold.

    >>> like = decode_image(b"P5 2 1 255 " + bytes([7, 9]))
    >>> decode_image(encode_image(like.pixels, like)).pixels[0, :, 0].tolist()
    [7, 9]
    """
    check_encoding(format, compression)
    if pixels.dtype != np.uint8 or pixels.shape != like.pixels.shape:
        raise DataError(f"pixels are {pixels.dtype} {pixels.shape}; expected uint8 {like.pixels.shape}")
    if format == "jpeg" and like.alpha is not None:
        raise ImageError("unsupported-mode", "JPEG cannot hold the image's alpha channel; write png or webp")
    limit = {"webp": 16383, "jpeg": 65500}.get(format)
    if limit and max(pixels.shape[:2]) > limit:
        height, width = pixels.shape[:2]
        raise ImageError("too-large", f"{width}×{height} does not fit {format}, limit {limit} a side; write png")
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if like.grey:
        image = image.convert("L")
    if like.alpha is not None:
        image.putalpha(Image.fromarray(like.alpha))
    exif = _exif(like.orientation)
    if format == "png" and compression == "fast":
        planes = np.asarray(image)
        return write_png(planes.reshape(*planes.shape[:2], -1), like.icc, exif and exif.removeprefix(b"Exif\0\0"))
    options: dict[str, Any] = {
        ("png", "small"): {"compress_level": 1},
        ("webp", "small"): {"lossless": True, "exact": True, "quality": 20, "method": 1},
        ("webp", "fast"): {"lossless": True, "exact": True, "quality": 0, "method": 0},
        ("jpeg", "small"): {"quality": 95, "subsampling": 0},
    }[format, compression]
    if exif:
        options["exif"] = exif
    # WebP would need the profile of a grey image to describe RGB.
    if like.icc and not (like.grey and format == "webp"):
        options["icc_profile"] = like.icc
    out = io.BytesIO()
    image.save(out, format=format.upper(), **options)
    return out.getvalue()


def open_array(array: np.ndarray, *, max_pixels: int = 64_000_000) -> Decoded:
    """One decoded image that lies in memory: uint8 (H, W), or (H, W, C) with 1 to 4 channels, which are grey, grey and
    alpha, RGB, or RGB and alpha.

    Raises :class:`ImageError` with the reason ``unsupported-mode`` for any other array, ``empty`` or ``too-large``.

    >>> open_array(np.zeros((5, 4), np.uint8)).mode, open_array(np.zeros((5, 4, 4), np.uint8)).pixels.shape
    ('L', (5, 4, 3))
    """
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or not 1 <= channels <= 4:
        message = (
            f"an array {array.dtype} of shape {array.shape} is no image; give uint8 (H, W), (H, W, 3) or (H, W, 4)"
        )
        raise ImageError("unsupported-mode", message)
    if not array.size:
        raise ImageError("empty", f"the image holds no pixels: its shape is {array.shape}")
    height, width = array.shape[:2]
    _check_size((width, height), max_pixels, 1)
    planes = array.reshape(height, width, channels)
    colours = planes[..., :3] if channels > 2 else planes[..., :1].repeat(3, axis=2)
    alpha = planes[..., -1] if channels in (2, 4) else None
    return Decoded(np.ascontiguousarray(colours), alpha, ("L", "LA", "RGB", "RGBA")[channels - 1])


def close_array(pixels: np.ndarray, like: Decoded) -> np.ndarray:
    """Pixels, uint8 (H, W, 3), as an array (H, W, C) of the channels of the image ``like``: back from ``open_array``.

    >>> close_array(np.full((1, 1, 3), 7, np.uint8), open_array(np.array([[[9, 200]]], np.uint8))).tolist()
    [[[7, 200]]]
    """
    planes = [np.asarray(Image.fromarray(pixels).convert("L"))[..., None] if like.grey else pixels]
    return np.concatenate(planes + ([] if like.alpha is None else [like.alpha[..., None]]), axis=2)


def squared(pixels: np.ndarray, side: int) -> np.ndarray:
    """Pixels (H, W, 3) as a square (3, side, side): those of another size are squashed by Pillow's bilinear filter.

    >>> squared(np.full((3, 5, 3), 7, np.uint8), 8).shape
    (3, 8, 8)
    """
    if pixels.shape[:2] != (side, side):
        pixels = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def to_float(pixels: np.ndarray) -> np.ndarray:
    """Pixels, uint8 (H, W, 3), as a float32 image (3, H, W) in [0, 1], contiguous.

    >>> to_float(np.full((1, 1, 3), 51, np.uint8)).ravel().tolist() == [np.float32(0.2)] * 3
    True
    """
    image = np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)
    image /= np.float32(255)
    return image


def to_pixels(image: np.ndarray) -> np.ndarray:
    """A float image (3, H, W) as pixels, uint8 (H, W, 3): clamped to [0, 1], then ⌊255 v + ½⌋.

    Raises :class:`DataError` on NaN.

    >>> to_pixels(np.array([-1.0, 0.5, 2.0]).reshape(3, 1, 1)).ravel().tolist()
    [0, 128, 255]
    """
    image = np.asarray(image)
    pixels = np.empty((*image.shape[1:], len(image)), np.uint8)
    # A channel at a time: the steps between are four times as large as the pixels.
    for channel, plane in enumerate(image):
        if np.isnan(plane).any():
            raise DataError(f"the image {image.shape} holds NaN and cannot be written")
        levels = np.clip(plane, 0, 1).astype(np.float32)
        levels *= np.float32(255)
        levels += np.float32(0.5)
        pixels[..., channel] = np.floor(levels, out=levels)
    return pixels


def _check_size(size: tuple[int, int] | None, max_pixels: int, min_size: int) -> None:
    if size is None:
        return
    width, height = size
    if width * height > max_pixels:
        raise ImageError(
            "too-large", f"{width}×{height} is {width * height:,} pixels, the limit is {max_pixels:,}; scale it down"
        )
    if min(width, height) < min_size:
        raise ImageError("too-small", f"{width}×{height} is too small: each side needs at least {min_size} pixels")


def _webp_size(data: bytes) -> tuple[int, int] | None:
    # Pillow's WebP decoder allocates the whole canvas (up to 2 GiB) when it opens a file, before the size can be asked.
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        return width & 0x3FFF, height & 0x3FFF
    return None


@cache
def _formats() -> tuple[str, ...]:
    try:
        # Only those who decode an image load it.
        from pillow_heif import register_heif_opener
    except ImportError:
        return FORMATS
    register_heif_opener(thumbnails=False)
    return (*FORMATS, "HEIF")


def _unidentified(data: bytes) -> ImageError:
    brand = data[8:12] if data[4:8] == b"ftyp" else b""
    if brand in _HEIF_BRANDS and "HEIF" not in _formats():
        return ImageError("not-an-image", "HEIC is read where `pip install 'raypurify[heic]'` was done, on every node")
    if brand in _AVIF_BRANDS and not _AVIF:
        return ImageError("not-an-image", "AVIF is read by Pillow 11.3 or newer: `pip install 'pillow>=11.3'`")
    known = brand in _AVIF_BRANDS + _HEIF_BRANDS or data.startswith(_MAGIC)
    if known or (data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
        return ImageError("truncated", f"the image is cut short or damaged: {len(data):,} bytes end inside its header")
    names = ", ".join(FORMATS)
    return ImageError("not-an-image", f"{len(data):,} bytes starting {data[:8]!r} are no image; known formats: {names}")


def _unpack(image: Image.Image, data: bytes) -> Decoded:
    mode = image.mode
    sixteen = mode.startswith("I;16") or (mode == "I" and image.format in ("PPM", "PNG"))
    # Pillow leaves these as they are, with white as 0.
    inverted = sixteen and image.format == "TIFF" and getattr(image, "tag_v2", {}).get(262) == 0
    if inverted or (not sixteen and (mode == "I" or mode not in _GREY | _COLOUR)):
        raise ImageError("unsupported-mode", f"pixels of mode {mode} are not supported; convert to 8-bit grey or RGB")
    orientation = _orientation(image)
    icc = image.info.get("icc_profile")
    # Those of CMYK and YCbCr files describe channels that are not written.
    space = None if mode in ("CMYK", "YCbCr") else b"GRAY" if mode in _GREY else b"RGB "
    if not isinstance(icc, bytes) or len(icc) > _MAX_ICC or icc[16:20] != space:
        icc = None
    alpha = _alpha_of_key(image, data)
    if sixteen:
        levels = (np.asarray(image).astype(np.uint32) * 2 + 257) // 514
        pixels = np.repeat(levels.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
    else:
        if alpha is not None:
            del image.info["transparency"]
        elif "transparency" in image.info or mode in ("LA", "La", "RGBA", "RGBa", "PA"):
            image = image.convert("LA" if mode in _GREY and mode != "1" else "RGBA")
            alpha = np.array(image.getchannel("A"))
        pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    return Decoded(pixels, alpha, mode, orientation, icc)


def _alpha_of_key(image: Image.Image, data: bytes) -> np.ndarray | None:
    """The alpha channel that a PNG's transparent colour makes, None where it has none or is of a palette.

    Pillow compares colours of 8 bits only: of 2, 4 and 16 bits a channel its comparison finds nothing, or others.
    """
    key = image.info.get("transparency")
    if image.format != "PNG" or image.mode in ("P", "1") or not isinstance(key, int | tuple):
        return None
    bits = data[24]
    levels, key = np.asarray(image), np.asarray(key)
    if bits == 16 and image.mode == "RGB":
        # What Pillow takes for little-endian are the low bytes of each channel.
        with Image.open(io.BytesIO(data), formats=("PNG",)) as low:
            low.tile = [tile._replace(args="RGB;16L") for tile in low.tile]
            levels = levels.astype(np.uint16) << 8 | np.asarray(low)
    elif bits < 8:
        key = key * 255 // ((1 << bits) - 1)
    same = (levels == key).all(axis=-1) if levels.ndim == 3 else levels == key
    return np.where(same, 0, 255).astype(np.uint8)


def _exif(orientation: int) -> bytes | None:
    """The EXIF block of an image that is to be turned, None where it stands as it is."""
    if orientation == 1:
        return None
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    return exif.tobytes()


def _orientation(image: Image.Image) -> int:
    # Only this one tag is carried over: an EXIF block may hold a thumbnail of the image as it was before purification.
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block does not make the pixels unusable
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
