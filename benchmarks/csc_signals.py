"""What benchmarks share: images, signals for sparse coding, how exactly they are coded, on how many cores."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from raypurify.csc import tikhonov_split
from raypurify.images import decode_image, to_float

REL_TOL, CORES = 5e-3, 2


def first_images(data: Path, name: str, count: int) -> torch.Tensor:
    """The first images (count, 3, H, W) of the Parquet file ``name``."""
    rows = next(pq.ParquetFile(data / name).iter_batches(count, columns=["image"]))
    return torch.from_numpy(np.stack([to_float(decode_image(row).pixels) for row in rows["image"].to_pylist()]))


def high_parts(data: Path, name: str, count: int) -> torch.Tensor:
    """High parts (count, 3, H, W) of the first images of the Parquet file ``name``."""
    return tikhonov_split(first_images(data, name, count))[1]
