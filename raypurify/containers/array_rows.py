"""Images of arrays on their way: the rows of a shard, and the piece that is made of them.

A shard writes ``OUT/_raypurify/pixels/<shard>.pixels``, its images in C order, failed ones as they were; of a selection
also ``<shard>.labels``, those of its rows as int64.
"""

import array as arrays
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raypurify.containers.contract import Images, Outputs, Sink
from raypurify.containers.ledger import STATE
from raypurify.containers.npy import Array
from raypurify.containers.npz import read_within
from raypurify.containers.packed import FileCut, check_stamp
from raypurify.containers.rows import Row, Shard, file_id
from raypurify.errors import ImageError, RaypurifyError, SinkError, SourceError
from raypurify.images import decode_image

PIECES = f"{STATE}/pixels"
PIXELS, LABELS = ".pixels", ".labels"


@dataclass(frozen=True)
class Member:
    """An array of a file, of a zip by its ``name``, else "". ``start`` is where in the file it begins, None where it is
    compressed."""

    name: str
    array: Array
    start: int | None

    @property
    def fields(self) -> list[Any]:
        """All of it as JSON has it."""
        array = self.array
        return [self.name, [array.dtype, list(array.shape), array.fortran, array.offset], self.start]

    @classmethod
    def of(cls, fields: Sequence[Any]) -> "Member":
        """The member of these ``fields``."""
        name, (dtype, shape, fortran, offset), start = fields
        return cls(name, Array(dtype, tuple(shape), fortran, offset), start)


@dataclass(frozen=True, kw_only=True)
class ArrayCut(FileCut):
    """Images of an array from number ``start`` on, of this ``shape`` (H, W, C). The file at ``path`` below the input
    holds it from byte ``offset`` on, of its member ``name`` where that is ``packed``. ``labels`` are those of the span;
    ids begin with ``prefix``."""

    start: int
    path: str
    name: str
    prefix: str
    offset: int
    packed: bool
    shape: tuple[int, int, int]
    labels: arrays.array | None = None


def read_pixels(shard: Shard) -> np.ndarray:
    """The images of a shard, uint8 (n, H, W, C). Raises SourceError where the file is gone, changed or damaged."""
    check_stamp(shard)
    cut: ArrayCut = shard.cut
    size = int(np.prod(cut.shape))
    start, count = cut.offset + cut.start * size, cut.span * size
    try:
        with shard.place.open() as file:
            if cut.packed:
                data = read_within(file, cut.name, start, count, str(shard.place))
            else:
                file.seek(start)
                data = file.read(count)
    except RaypurifyError:
        raise
    except OSError as error:
        raise SourceError(f"{shard.place}: cannot be read: {error}; run again when it is mended") from error
    if len(data) < count:
        raise SourceError(f"{shard.place}: is cut short; run again when it is whole")
    pixels = np.frombuffer(data, np.uint8).reshape(cut.span, *cut.shape)
    return pixels if cut.picked is None else pixels[list(cut.picked)]


def read(shard: Shard) -> Iterator[Row]:
    """The rows of a shard of arrays (``Container.read``), each as the bytes of a PPM or PGM."""
    cut: ArrayCut = shard.cut
    height, width, channels = cut.shape
    header = b"P%d %d %d 255\n" % (6 if channels == 3 else 5, width, height)
    for at, (number, pixels) in enumerate(zip(cut.numbers, read_pixels(shard))):
        label = cut.labels[number] if shard.classes and cut.labels is not None else -1
        identity = f"{cut.prefix}/{cut.start + number}"
        yield Row(identity, shard.first_row + at, header + pixels.tobytes(), label if label >= 0 else None)


def write(sink: Sink, shard: Shard, images: Images) -> Outputs:
    """The piece of a shard (``Container.write``); images that failed are in it as they were."""
    cut: ArrayCut = shard.cut
    failed = any(isinstance(image, ImageError) for _, image in images)
    pixels = read_pixels(shard).copy() if failed else np.empty((shard.rows, *cut.shape), np.uint8)
    for at, (row, image) in enumerate(images):
        if isinstance(image, ImageError):
            continue
        made = decode_image(image, max_pixels=cut.shape[0] * cut.shape[1]).pixels[..., : cut.shape[2]]
        if made.shape != cut.shape:
            raise SinkError(f"{sink.place}: image {row.id} came back as {made.shape}, not {cut.shape}; report this")
        pixels[at] = made
    sink.put(f"{PIECES}/{shard.name}{PIXELS}", pixels.tobytes())
    if cut.picked is not None and cut.labels is not None:
        labels = np.asarray(cut.labels)[list(cut.picked)]
        sink.put(f"{PIECES}/{shard.name}{LABELS}", labels.tobytes())
    return dict.fromkeys(range(shard.first_row, shard.first_row + shard.rows), file_id(cut.path))
