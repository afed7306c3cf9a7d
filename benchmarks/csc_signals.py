"""What the benchmarks of sparse coding share: the signals, how exactly they are coded, on how many cores."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from raypurify.csc import tikhonov_split
from raypurify.images import decode_image, to_float

REL_TOL, CORES = 5e-3, 2


def high_parts(data: Path, name: str, count: int) -> torch.Tensor:
    """High parts (count, 3, H, W) of the first images of the Parquet file ``name``."""
    rows = next(pq.ParquetFile(data / name).iter_batches(count, columns=["image"]))
    images = np.stack([to_float(decode_image(row).pixels) for row in rows["image"].to_pylist()])
    return tikhonov_split(torch.from_numpy(images))[1]
