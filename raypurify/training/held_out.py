"""Which images a training on one machine learns from, and which it is validated on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from raypurify.config import DataSettings
from raypurify.errors import DataError
from raypurify.training.data import VALIDATION, ImageSet, read_set
from raypurify.training.order import some_of


def read_and_hold_out(
    paths: Sequence[Path], held_out: Sequence[Path], data: DataSettings, seed: int
) -> tuple[ImageSet, ImageSet]:
    """Read the images of ``paths`` to train on, and those to validate on: of ``held_out``, else of the prepared folders
    among ``paths`` that have some, else a seeded choice (see ``hold_out``).

    Raises SourceError or DataError, see ``read_set``.
    """
    images = read_set(paths, data.image_size)
    kept = held_out or [path for path in paths if (path / VALIDATION).is_dir()]
    if kept:
        return images, read_set(kept, data.image_size, VALIDATION)
    return hold_out(images, data, seed)


def hold_out(images: ImageSet, data: DataSettings, seed: int) -> tuple[ImageSet, ImageSet]:
    """A seeded choice of images to train on, at most ``data.limit``, and of ``data.validation`` others.

    >>> images = ImageSet(np.arange(9), np.zeros(9, np.int64), np.zeros((9, 3, 1, 1), np.uint8))
    >>> [len(part) for part in hold_out(images, DataSettings(validation=2, limit=5), seed=0)]
    [5, 2]

    Raises DataError where nothing would be left to train on.
    """
    count = data.validation
    if len(images) <= count:
        raise DataError(f"{len(images)} images are too few to hold out {count}: lower data.validation or add images")
    held = some_of(len(images), count, seed)
    rest = np.setdiff1d(np.arange(len(images)), held)
    return images.take(rest[some_of(len(rest), data.limit or len(rest), seed)]), images.take(held)
