"""Samples of clusters: a seeded choice of images, and their pixels, by one streaming pass over the prepared files."""

import itertools
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from raypurify.files import open_parquet, reading
from raypurify.storage import Place

# The sample of each batch of a copy, int32, in the metadata of its schema.
SAMPLES = b"samples"


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
    folder: Place, files: list[Place], samples: list[np.ndarray], source_rows: int, say: Callable[[str], None]
) -> list[Place]:
    """Copy the images of ``samples``, disjoint arrays of row numbers, out of prepared ``files`` into a new ``folder``.

    One Ray task a file streams through it, and holds no more of it than the sampled images. The copies, which are
    returned, are files too, one for each: every node can read them, and they outlive any. ``say`` hears how far it is.
    """
    import ray

    folder.delete_folder()
    sample_of_row = np.full(source_rows, -1, np.int32)
    for number, rows in enumerate(samples):
        sample_of_row[rows] = number
    shared, copy = ray.put(sample_of_row), ray.remote(_copy)
    copies = [folder / f"{file.name.removesuffix('.parquet')}.arrow" for file in files]
    waiting = [copy.remote(*pair, shared) for pair in zip(files, copies)]
    while waiting:
        done, waiting = ray.wait(waiting)
        ray.get(done)
        say(f"images fetched from {len(files) - len(waiting)}/{len(files)} files")
    return copies


def read_sample(copies: list[Place], number: int, side: int) -> np.ndarray:
    """The images of one sample, (n, 3, side, side) uint8, by their rows, whichever files they came from.

    The files are named because a network file system may list a folder as it was half a minute ago.
    """
    # Imported late: it loads torch, which the tasks that copy should not wait for.
    from raypurify.training.data import read_pixels

    parts = []
    for copy in copies:
        with reading(copy), copy.open() as opened, pa.ipc.open_file(opened) as file:
            numbers = np.frombuffer(file.schema.metadata[SAMPLES], np.int32)
            at = np.searchsorted(numbers, number)
            found = at < len(numbers) and numbers[at] == number
            parts.append(pa.Table.from_batches([file.get_batch(int(at))] if found else [], file.schema))
    return read_pixels(pa.concat_tables(parts).sort_by("row"), side)


def _copy(source: Place, target: Place, sample_of_row: np.ndarray) -> None:
    # A batch a sample, so that a learner reads no more of a store's file than its own.
    columns = ["row", "image"]
    with open_parquet(source, columns) as file:
        parts = [file.schema_arrow.empty_table().select(columns)]
        for batch in file.iter_batches(1024, columns=columns):
            hits = np.flatnonzero(sample_of_row[batch.column("row").to_numpy()] >= 0)
            parts.append(pa.Table.from_batches([batch]).take(hits))
    table = pa.concat_tables(parts)
    sample = sample_of_row[table.column("row").to_numpy()]
    order = np.lexsort((table.column("row").to_numpy(), sample))
    table, (numbers, firsts) = table.take(order), np.unique(sample[order], return_index=True)
    schema = table.schema.with_metadata({SAMPLES: numbers.astype(np.int32).tobytes()})
    with target.writing() as written, pa.ipc.new_file(written, schema) as out:
        for begin, end in itertools.pairwise([*firsts.tolist(), len(table)]):
            out.write_batch(table.slice(begin, end - begin).combine_chunks().to_batches()[0])
