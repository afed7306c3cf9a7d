"""Samples of clusters: a seeded choice of images, and their pixels, by one streaming pass over the prepared files."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import feather

from raypurify.files import replacing


def choose_samples(cluster_of_row: np.ndarray, count: int, images: int, seed: int) -> list[np.ndarray]:
    """Rows (n,) of at most ``images`` images of each cluster, a seeded choice that does not depend on other clusters.

    ``cluster_of_row`` (rows,) holds the cluster of each row of the source, below ``count``, and −1 for none.
    """
    order = np.argsort(cluster_of_row, kind="stable")
    bounds = np.searchsorted(cluster_of_row[order], np.arange(count + 1))
    return [draw(order[bounds[k] : bounds[k + 1]], images, (seed, k)) for k in range(count)]


def draw(rows: np.ndarray, images: int, seed: tuple[int, ...]) -> np.ndarray:
    """At most ``images`` of ``rows`` (n,), chosen by a seed, in ascending order."""
    return np.sort(np.random.default_rng(seed).permutation(rows)[:images])


def fetch_samples(
    folder: Path, files: list[Path], samples: list[np.ndarray], source_rows: int, say: Callable[[str], None]
) -> list[Path]:
    """Copy the images of ``samples``, disjoint arrays of row numbers, out of prepared ``files`` into a new ``folder``.

    One Ray task a file streams through it, and holds no more of it than the sampled images. The copies, which are
    returned, are files too, one for each: every node can read them, and they outlive any. ``say`` hears how far it is.
    """
    import ray

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    sample_of_row = np.full(source_rows, -1, np.int32)
    for number, rows in enumerate(samples):
        sample_of_row[rows] = number
    shared, copy = ray.put(sample_of_row), ray.remote(_copy)
    copies = [folder / f"{path.stem}.arrow" for path in files]
    waiting = [copy.remote(*pair, shared) for pair in zip(files, copies)]
    while waiting:
        done, waiting = ray.wait(waiting)
        ray.get(done)
        say(f"images fetched from {len(files) - len(waiting)}/{len(files)} files")
    return copies


def read_sample(copies: list[Path], number: int, side: int) -> np.ndarray:
    """The images of one sample, (n, 3, side, side) uint8, by their rows, whichever files they came from.

    The files are named because a network file system may list a folder as it was half a minute ago.
    """
    # Imported late: it loads torch, which the tasks that copy should not wait for.
    from raypurify.training.data import read_pixels

    parts = []
    for path in copies:
        table = feather.read_table(path, memory_map=True)
        begin, end = np.searchsorted(table.column("sample").to_numpy(), (number, number + 1))
        parts.append(table.slice(begin, end - begin))
    return read_pixels(pa.concat_tables(parts).sort_by("row"), side)


def _copy(source: Path, target: Path, sample_of_row: np.ndarray) -> None:
    file = pq.ParquetFile(source)
    parts = [file.schema_arrow.empty_table().select(["row", "image"]).append_column("sample", pa.array([], pa.int32()))]
    for batch in file.iter_batches(1024, columns=["row", "image"]):
        sample = sample_of_row[batch.column("row").to_numpy()]
        hits = np.flatnonzero(sample >= 0)
        table = pa.Table.from_batches([batch]).take(hits)
        parts.append(table.append_column("sample", pa.array(sample[hits])))
    table = pa.concat_tables(parts).sort_by([("sample", "ascending"), ("row", "ascending")])
    with replacing(target) as temporary:
        feather.write_feather(table, str(temporary), compression="uncompressed")
