"""Labelled images read into memory: the prepared Parquet of a fit (raw pixels), Parquet of that form, or NPZ."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from raypurify.errors import DataError, SourceError, of_file
from raypurify.files import DAMAGED_ZIP, reading
from raypurify.storage import Place, Where, overlapped, resolve
from raypurify.training.batch import Batch

TRAIN, VALIDATION, FAILED = "split=train", "split=validation", "split=failed"
COLUMNS = ["row", "label", "image"]


@dataclass(frozen=True)
class ImageSet:
    """Images (N, 3, S, S) uint8 with labels (N,) and the rows (N,) of the source that they are, ascending; int64."""

    rows: np.ndarray
    labels: np.ndarray
    images: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: np.ndarray) -> "ImageSet":
        """The images at these positions, in that order."""
        return ImageSet(self.rows[positions], self.labels[positions], self.images[positions])

    def batches(self, order: np.ndarray, size: int, clusters: np.ndarray | None = None) -> Iterator[Batch]:
        """Batches of ``size`` in ``order`` (positions); ``clusters`` (N,) are those of all images."""
        for start in range(0, len(order), size):
            at = order[start : start + size]
            own = None if clusters is None else torch.from_numpy(clusters[at])
            yield Batch(torch.from_numpy(self.images[at]), torch.from_numpy(self.labels[at]), own)


def read_set(paths: Sequence[Path], side: int, part: str = TRAIN) -> ImageSet:
    """Read all images of ``paths``, in the order of their rows.

    A path is a prepared folder (its ``part`` is read) or one of Parquet files, a Parquet file with columns row, label
    and image (uint8, CHW), or an NPZ file with arrays images (N, 3, S, S) or (N, S, S, 3) uint8, labels (N,) and
    perhaps row (N,); without it, rows go on from the file before.

    Raises SourceError for what cannot be read, DataError for images of another shape or a row that comes twice.
    """
    sets: list[ImageSet] = []
    for path in map(Path, paths):
        first = sum(map(len, sets))
        try:
            sets.append(_from_npz(path, side, first) if path.suffix == ".npz" else _from_parquet(path, side, part))
        except (DataError, SourceError):
            raise
        except (OSError, pa.ArrowException, KeyError, *DAMAGED_ZIP) as e:
            raise _unreadable(path, e) from e
    rows = np.concatenate([one.rows for one in sets])
    if not len(rows):
        raise DataError(f"no images in {', '.join(map(str, paths))}; give files that hold some")
    order = np.argsort(rows, kind="stable")
    twice = np.flatnonzero(np.diff(rows[order]) == 0)
    if len(twice):
        raise DataError(f"row {rows[order][twice[0]]} comes twice: give each image once, or rows of its own")
    labels, images = (np.concatenate([getattr(one, name) for one in sets]) for name in ("labels", "images"))
    return ImageSet(rows[order], labels[order], images[order])


def clusters_of(rows: np.ndarray, cluster_of_row: np.ndarray, clusters: int) -> np.ndarray:
    """The cluster (N,) of each row (N,) of the source. Raises DataError for a row without one: the clusters are of
    other images.

    >>> clusters_of(np.array([2, 0]), np.array([1, -1, 0]), clusters=2)
    array([0, 1])
    """
    known = (rows >= 0) & (rows < len(cluster_of_row))
    own = np.where(known, cluster_of_row[np.where(known, rows, 0)], -1)
    wrong = np.flatnonzero((own < 0) | (own >= clusters))
    if len(wrong):
        raise DataError(
            f"{len(wrong)} training images have no cluster, the first is row {rows[wrong[0]]}: "
            "train on the images that the clusters were made of"
        )
    return own


def count_classes(labels: np.ndarray, held_out: np.ndarray) -> int:
    """How many classes the training labels (N,) have. Raises DataError where one cannot train with them."""
    known = np.concatenate([labels, held_out])
    if known.min() < 0:
        raise DataError(f"label {known.min()}: every image needs the number of its class, from 0")
    classes = int(labels.max()) + 1
    if held_out.max(initial=0) >= classes:
        raise DataError(
            f"label {held_out.max()} of a held-out image is out of range: there are {classes} classes; train on all"
        )
    if classes > len(labels) or (np.bincount(labels) == 0).any():
        missing = np.setdiff1d(np.arange(min(classes, len(labels) + 1)), labels)[0]
        raise DataError(f"class {missing} has no training image: number the classes from 0 without gaps, or add images")
    if classes < 2:
        raise DataError("all images are of one class: a classifier needs at least two")
    return classes


def read_pixels(table: pa.Table, side: int) -> np.ndarray:
    """The pixels (N, 3, side, side) uint8 of the image column, without a copy where the column is one chunk."""
    column = table.column("image").combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks)
    width = 3 * side * side
    flat = np.frombuffer(column.buffers()[1], np.uint8, len(column) * width, column.offset * width)
    return flat.reshape(-1, 3, side, side)


def read_part(folder: Where, part: str, columns: list[str] | None = None, rows: np.ndarray | None = None) -> pa.Table:
    """Read a part of a prepared folder, in row order, of it these ``rows`` where they are given; for the validation
    images and for small columns. Raises SourceError naming a file that is damaged."""
    chosen = None if rows is None else pc.field("row").isin(rows)

    def read(file: Place) -> pa.Table:
        with reading(file), file.open() as opened:
            return pq.read_table(opened, columns=columns, filters=chosen)

    place = resolve(folder) / part
    with reading(place):
        return pa.concat_tables(overlapped(read, place.files(".parquet"))).sort_by("row")


def batches(table: pa.Table, side: int, size: int = 256) -> Iterator[Batch]:
    """Batches of the prepared images of a small table, in its order."""
    images, labels = read_pixels(table, side), torch.from_numpy(table.column("label").to_numpy())
    for start in range(0, len(labels), size):
        yield Batch(torch.from_numpy(images[start : start + size].copy()), labels[start : start + size])


def _from_parquet(path: Path, side: int, part: str) -> ImageSet:
    # One by one: what Arrow says of a damaged part of a file does not name it.
    dataset = pq.ParquetDataset(path / part if (path / part).is_dir() else path, partitioning=None)
    table = pa.concat_tables(map(_read, dataset.files))
    kind = table.schema.field("image").type
    if kind != pa.binary(3 * side * side):
        raise DataError(
            f"{path}: the image column holds {kind}, not the {3 * side * side} raw bytes of a {side}×{side} image: "
            "give the prepare folder of a fit, and data.image_size as it was there"
        )
    rows, labels = (_whole(path, name, table.column(name).to_numpy()) for name in ("row", "label"))
    return ImageSet(rows, labels, read_pixels(table, side))


def _read(file: str) -> pa.Table:
    try:
        return pq.read_table(file, columns=COLUMNS, partitioning=None)
    except (OSError, pa.ArrowException) as e:
        raise _unreadable(file, e) from e


def _unreadable(file: str | Path, error: BaseException) -> SourceError:
    return SourceError(
        f"cannot read images from {file}: {of_file(error)}; get it again, or where a fit prepared it, delete the "
        "folder prepare of that fit and run it again"
    )


def _from_npz(path: Path, side: int, first: int) -> ImageSet:
    with np.load(path, allow_pickle=False) as file:
        images, labels = file["images"], file["labels"]
        rows = file["row"] if "row" in file else first + np.arange(len(labels))
    if images.ndim == 4 and images.shape[3] == 3 and images.shape[1] != 3:
        images = images.transpose(0, 3, 1, 2)
    if images.dtype != np.uint8 or images.shape != (len(labels), 3, side, side) or rows.shape != labels.shape:
        raise DataError(
            f"{path}: images {images.shape} {images.dtype}, labels {labels.shape}, row {rows.shape}; expected "
            f"(N, 3, {side}, {side}) uint8 (data.image_size is {side}), (N,) and (N,): give them so"
        )
    return ImageSet(_whole(path, "row", rows), _whole(path, "label", labels), images)


def _whole(path: Path, name: str, values: np.ndarray) -> np.ndarray:
    """The values of a column as int64. Raises DataError naming the first that is no whole number."""
    wrong = np.flatnonzero(values % 1 != 0) if values.dtype.kind in "iuf" else [0][: len(values)]
    if len(wrong):
        raise DataError(f"{path}: {name} {values[wrong[0]]} of image {wrong[0]} is no whole number; give one for each")
    return values.astype(np.int64)
