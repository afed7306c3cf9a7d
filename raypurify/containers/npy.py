"""One array as NumPy writes it: its header, read within limits and never unpickled, and whether it holds images."""

import hashlib
import math
from dataclasses import dataclass
from io import BytesIO
from typing import Protocol

import numpy as np
from numpy.lib import format as npy_format

from raypurify.containers.rows import MAX_FILE_BYTES
from raypurify.errors import SourceError

# That of NumPy: its parser takes its time.
_MAX_HEADER = 10_000
_MAX_ROWS, _MAX_LABELS = 10**8, 1 << 24
_CHUNK = 4 << 20
# What makes uint8 of arrays, by the kind of their type.
_AS_BYTES = {
    "f": "x = (x * 255).round().astype('uint8') of values in [0, 1]",
    "b": "x = x.astype('uint8') * 255",
    **dict.fromkeys("iu", "x = x.astype('uint8') of values in [0, 255]"),
}
_FROM_INT8 = "x = (x.astype('int16') + 128).astype('uint8') of values in [-128, 127]"


class Readable(Protocol):
    """What bytes can be read from."""

    def read(self, count: int = ..., /) -> bytes: ...


@dataclass(frozen=True)
class Array:
    """What a header says: the type as NumPy writes it, the shape, whether the first axis runs fastest, and at which
    byte the first element stands."""

    dtype: str
    shape: tuple[int, ...]
    fortran: bool
    offset: int

    def __str__(self) -> str:
        order = " in Fortran order" if self.fortran else ""
        return f"{np.dtype(self.dtype).name} {self.shape}{order}"

    @property
    def bytes(self) -> int:
        """The bytes of all elements."""
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)

    @property
    def is_images(self) -> bool:
        """Whether these are images that are read, one or more."""
        return remedy(self) is None and self.shape[0] > 0

    @property
    def may_be_meant(self) -> bool:
        """Whether these may be meant to be images, if not as they are read."""
        return len(self.shape) > 2 or np.dtype(self.dtype).kind == "O"

    @property
    def is_labels(self) -> bool:
        """Whether these may be the class indices of images: integers in one column."""
        column = len(self.shape) == 1 or (len(self.shape) == 2 and self.shape[1] == 1)
        return column and np.dtype(self.dtype).kind in "iu" and self.shape[0] <= _MAX_LABELS


def read_header(file: Readable, size: int, shown: str) -> Array:
    """The header of an array file of ``size`` bytes, at whose beginning ``file`` stands. Raises SourceError naming
    ``shown`` where it is none, or the file holds fewer bytes than it says, or more."""
    try:
        if (version := npy_format.read_magic(file)) == (3, 0):
            raise SourceError(f"{shown}: holds records; save the field of them that has images: x = x['FIELD']")
        lengths, read = {
            (1, 0): (2, npy_format.read_array_header_1_0),
            (2, 0): (4, npy_format.read_array_header_2_0),
        }[version]
    except (ValueError, KeyError) as error:
        raise SourceError(
            f"{shown}: is no array of NumPy, or damaged in its header; write it again with numpy.save"
        ) from error
    counted = file.read(lengths)
    length = int.from_bytes(counted, "little")
    if length > _MAX_HEADER:
        raise SourceError(
            f"{shown}: has a header of {length:,} bytes, the limit is {_MAX_HEADER:,}; write it again with numpy.save"
        )
    try:
        shape, fortran, dtype = read(BytesIO(counted + file.read(length)), max_header_size=_MAX_HEADER)
    except Exception as error:  # a header is a text of Python, and its parser fails in many ways
        raise SourceError(f"{shown}: is damaged in its header; write it again with numpy.save") from error
    if any(side < 0 for side in shape):
        raise SourceError(
            f"{shown}: is damaged in its header, which says the shape {shape}; write it again with numpy.save"
        )
    array = Array(dtype.str, shape, fortran, 8 + lengths + length)
    whole = array.offset + dtype.itemsize * math.prod(shape)
    if size < whole and not dtype.hasobject:
        raise SourceError(
            f"{shown}: holds {size:,} of the {whole:,} bytes of its array {array}, so it is cut short; get it again"
        )
    if size > whole and not dtype.hasobject:
        raise SourceError(
            f"{shown}: holds {size:,} bytes, its array {array} is {whole:,}; write each array to a file of its own"
        )
    return array


def remedy(array: Array) -> str | None:
    """What makes images that are read of an array ``x`` that is none, in words; None where it needs nothing."""
    dtype, shape = np.dtype(array.dtype), array.shape
    if dtype.kind == "O":
        return "objects are never unpickled: numpy.stack images of one size, save others as image files"
    if dtype.kind == "V":
        return "in NumPy x = x['FIELD'] of the field that holds the images"
    if len(shape) < 3:
        return "leave it out where it is about others"
    if dtype.kind not in _AS_BYTES:
        return "values of this type are no pixels: leave it out"
    steps = []
    if dtype != np.uint8:
        steps.append(_FROM_INT8 if dtype == np.int8 else _AS_BYTES[dtype.kind])
    if len(shape) == 3:
        steps.append("x = x[..., None] of many grey images, x[None] of one with colours")
    if len(shape) > 4:
        shape = shape[-4:]
        steps.append(f"x = x.reshape(-1, {', '.join(map(str, shape[1:]))})")
    if len(shape) == 4 and shape[3] not in (1, 3):
        steps.append(_with_colours_last(*shape[1:]))
    if array.fortran:
        steps.append("x = numpy.ascontiguousarray(x)")
    if not steps and (0 in shape[1:] or math.prod(shape[1:]) > MAX_FILE_BYTES or shape[0] > _MAX_ROWS):
        return f"at most {_MAX_ROWS:,} of at most {MAX_FILE_BYTES:,} bytes and at least one pixel each: split it"
    return f"in NumPy {', then '.join(steps)}" if steps else None


def wanted(array: Array) -> str:
    """What to do about an array that holds no images, where no other does."""
    if np.dtype(array.dtype).kind == "V":
        return remedy(array) or ""
    return "name the images too" if len(array.shape) < 3 else "save one image or more"


def _with_colours_last(rows: int, columns: int, channels: int) -> str:
    """What makes images of 1 or 3 channels, which come last, of others of these sides; an alpha channel goes."""
    if channels in (2, 4) and rows not in (1, 3):
        return f"x = x[..., :{channels - 1}] of colours before alpha"
    if rows in (1, 3):
        return "x = x.transpose(0, 2, 3, 1)"
    if rows in (2, 4) and min(columns, channels) > 4:
        return f"x = x.transpose(0, 2, 3, 1)[..., :{rows - 1}] of colours before alpha"
    return "give images of 1 or 3 channels"


def scan(file: Readable, size: int, shown: str) -> tuple[Array, str, np.ndarray | None]:
    """An array file read once from its beginning to its end: its header, a digest of all of it, and the values, int64
    (N,), where it may be labels. Raises SourceError as :func:`read_header`."""
    hashed = _Hashed(file)
    array = read_header(hashed, size, shown)
    values = None
    if array.is_labels:
        values = np.frombuffer(hashed.read(array.bytes), np.dtype(array.dtype)).astype(np.int64)
    while hashed.read(_CHUNK):
        pass
    return array, hashed.digest.hexdigest(), values


class _Hashed:
    """A file to read from, with a digest of what was read."""

    def __init__(self, file: Readable) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def read(self, count: int = -1, /) -> bytes:
        data = self.file.read(count)
        self.digest.update(data)
        return data
