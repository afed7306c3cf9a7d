"""Reading the prepared images of a fit: Parquet of raw pixels, written by ``prepare``."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from raypurify.training import Batch

TRAIN, VALIDATION, FAILED = "split=train", "split=validation", "split=failed"


def read_pixels(table: pa.Table, side: int) -> np.ndarray:
    """(N, 3, side, side) uint8 of the image column, without a copy where the column is one chunk."""
    column = table.column("image").combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks)
    width = 3 * side * side
    flat = np.frombuffer(column.buffers()[1], np.uint8, len(column) * width, column.offset * width)
    return flat.reshape(-1, 3, side, side)


def read_part(folder: Path, part: str, columns: list[str] | None = None) -> pa.Table:
    """A whole part in memory, in row order; for the validation images and for small columns."""
    return pq.read_table(folder / part, columns=columns, partitioning=None).sort_by("row")


def batches(table: pa.Table, side: int, size: int = 256) -> Iterator[Batch]:
    """A small table of prepared images as batches, in its order."""
    images, labels = (
        torch.from_numpy(read_pixels(table, side).copy()),
        torch.from_numpy(table.column("label").to_numpy()),
    )
    for start in range(0, len(labels), size):
        yield Batch(images[start : start + size], labels[start : start + size])
