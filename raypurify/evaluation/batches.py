"""The images of an evaluation, read through ``containers`` and cut into batches."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raypurify.containers.selection import select
from raypurify.containers.source import read_shard
from raypurify.errors import DataError, ImageError
from raypurify.evaluation.specs import ImagesSpec
from raypurify.images import decode_image, squared


@dataclass(frozen=True)
class GridBatch:
    """One batch of an evaluation: ``pixels`` (n, 3, H, W) uint8, with their ids and labels (n,)."""

    ids: tuple[str, ...]
    labels: np.ndarray
    pixels: np.ndarray

    @property
    def digest(self) -> str:
        """The SHA-256 of ids, labels and pixels."""
        facts = "\0".join(self.ids).encode("utf-8", "surrogateescape")
        return hashlib.sha256(facts + self.labels.tobytes() + self.pixels.tobytes()).hexdigest()


def read_grid_batches(spec: ImagesSpec, size: int) -> tuple[list[GridBatch], tuple[str, ...]]:
    """The images of a grid in batches of ``size``, the last one shorter, and the names of their classes.

    Raises SourceError, or DataError where an image has no label, cannot be read or is of another size than the first.
    """
    source = select(spec.open(), spec.limit, spec.sample)
    ids, labels, pixels = [], [], []
    for shard in source.shards:
        for row in read_shard(shard):
            if row.error is not None:
                raise DataError(f"image {row.id}: {row.error}; an evaluation needs every image")
            if row.label is None:
                raise DataError(f"image {row.id} has no label; an evaluation needs one of every image")
            ids.append(row.id)
            labels.append(row.label)
            assert row.data is not None  # as there is no error
            try:
                image = decode_image(row.data).pixels
            except ImageError as error:
                raise DataError(f"image {row.id}: {error}; an evaluation needs every image") from error
            pixels.append(squared(image, spec.size) if spec.size else image.transpose(2, 0, 1))
            if pixels[-1].shape != pixels[0].shape:
                raise DataError(f"image {row.id} is of another size than {ids[0]}; give images.size to squash them")
    batches = [
        GridBatch(tuple(ids[k : k + size]), np.array(labels[k : k + size]), np.stack(pixels[k : k + size]))
        for k in range(0, len(ids), size)
    ]
    return batches, source.classes or ()


def first_images(batches: Sequence[GridBatch], count: int) -> GridBatch:
    """The first so many images as one batch."""
    # Not more than hold these: a copy of all would be as large as the set.
    batches = batches[: max(1, math.ceil(count / len(batches[0].ids)))]
    ids = sum((batch.ids for batch in batches), ())[:count]
    labels, pixels = (np.concatenate([getattr(b, n) for b in batches])[:count] for n in ("labels", "pixels"))
    return GridBatch(ids, labels, pixels)
