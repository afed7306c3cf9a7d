"""Banks of clean images, whose patches an image can be pieced together from."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from raypurify.errors import ConfigError
from raypurify.storage import resolve

MAX_VALUES = 1 << 28
"""Values that the patches of a bank may have in all; quilting keeps eight bytes of each."""
MAX_BYTES = 1 << 29
"""Size of the largest file of a bank that is read: all of it is in memory, images of 8 bits and nothing else."""


def read_bank(path: str | Path) -> tuple[Tensor, str]:
    """The images (n, 3, h, w) uint8 of a bank on disk, and the SHA-256 of the file.

    The file is what ``safetensors.torch.save_file({"images": images}, path)`` writes; ``benchmarks/patch_bank.py``
    makes one. Raises ConfigError for a file that is missing, that is larger than ``MAX_BYTES``, which is said before it
    is read, or that holds anything else.
    """
    try:
        place = resolve(path)
        size = place.stamp[0]
        if size > MAX_BYTES:
            raise ConfigError(
                f"bank={str(path)!r}: it has {size:,} bytes, and {MAX_BYTES:,} are the most that are read: "
                "give fewer or smaller images"
            )
        # A store may not say how large a file is, and a file may grow.
        data = place.read(MAX_BYTES)
        images = load(data)["images"]
    except ConfigError:
        raise
    except (OSError, ValueError, SafetensorError, KeyError) as error:
        raise ConfigError(
            f"bank={str(path)!r}: no images in it ({error}): give a file of benchmarks/patch_bank.py"
        ) from error
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or not len(images):
        raise ConfigError(
            f"bank={str(path)!r}: 'images' is {images.dtype} of shape {tuple(images.shape)}; "
            "it must be uint8 (n, 3, h, w)"
        )
    return images, hashlib.sha256(data).hexdigest()


def patches_of(images: Tensor, patch: int, count: int) -> Tensor:
    """``count`` patches (count, 3·patch²) uint8 of images (n, 3, h, w), a fixed choice among all places of all images;
    all of them where there are not as many.

    Raises ConfigError where the images are smaller than a patch, or the patches too many to keep.

    >>> patches_of(torch.zeros(2, 3, 6, 5, dtype=torch.uint8), patch=4, count=100).shape
    torch.Size([12, 48])
    """
    height, width = images.shape[-2:]
    if min(height, width) < patch:
        raise ConfigError(
            f"patch={patch}: the images of the bank have {height}×{width} pixels and hold no patch of {patch}²: "
            "lower patch, or give a bank of larger images"
        )
    windows = images.unfold(2, patch, 1).unfold(3, patch, 1)
    rows, columns = windows.shape[2:4]
    total = len(images) * rows * columns
    if min(count, total) * 3 * patch**2 > MAX_VALUES:
        raise ConfigError(f"patches={count}: with patch={patch} that is too much to keep in memory: lower patches")
    # The numbers of all are not written down: there may be far more than are chosen.
    chosen = np.arange(min(count, total))
    if count < total:
        chosen = np.sort(np.random.default_rng(0).choice(total, count, replace=False))
    image, row, column = (torch.from_numpy(part) for part in np.unravel_index(chosen, (len(images), rows, columns)))
    return windows[image, :, row, column].flatten(1)
