"""The images of a training epoch, streamed by Ray Data to each worker in an order that depends on nothing but seeds."""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from raypurify.fit.units import Unit, cut_units, prepared_files, read_tables, take_rows
from raypurify.runtime.session import ray_data
from raypurify.storage import Place
from raypurify.training.data import TRAIN
from raypurify.training.order import epoch_order

# Images that are read together, and bytes of images that are shuffled among each other: 8,192 images of 32².
UNIT_ROWS, WINDOW_BYTES = 512, 24 << 20
# Tasks that read at a time, for each worker.
READERS = 2


def training_units(prepared: Place) -> list[Unit]:
    """The training images that ``prepare`` wrote, in units of reading."""
    return cut_units(prepared_files(prepared / TRAIN), UNIT_ROWS)


def steps_of(images: int, batch_size: int, world: int) -> tuple[int, int]:
    """Steps of an epoch, and the images of a step on each of ``world`` workers.

    >>> steps_of(1000, batch_size=64, world=2)
    (15, 32)
    """
    batch = batch_size // world
    return (images // world // batch if batch else 0), batch


def epoch_tables(
    units: list[Unit],
    side: int,
    batch: int,
    steps: int,
    epoch: int,
    seed: int,
    rank: int,
    world: int,
    first: int = 0,
) -> Iterator[pa.Table]:
    """Tables of ``batch`` images (columns row, label, image), ``steps`` of them, for one worker and epoch; from step
    ``first`` on.

    The units come in the order that ``epoch_order`` draws; each worker has an equal run of their rows, in windows of
    ``WINDOW_BYTES`` that the reading tasks shuffle. ``prepare`` has mixed the images once. (seed, epoch, rank, world)
    decide the order alone: Ray Data splits a stream among workers by who asks first, which no run repeats.
    """
    order = [units[i] for i in epoch_order(len(units), epoch, seed)]
    share, rows = sum(unit.rows for unit in units) // world, max(1, WINDOW_BYTES // (3 * side**2))
    mine = take_rows(order, rank * share, (rank + 1) * share)
    done = first * batch
    windows = [
        {
            "units": take_rows(mine, start, min(start + rows, share)),
            "seed": (seed % 2**32, epoch, rank, start),
            "done": max(0, done - start),
        }
        for start in range(done // rows * rows, share, rows)
    ]
    # No CPU is asked for: training workers, as many as an elastic cluster has room for, may hold all there are.
    stream = ray_data().from_items([{"window": window} for window in windows], override_num_blocks=len(windows))
    # Whole windows, cut here: a thread of Ray's that cuts batches takes the interpreter from the loop that feeds a GPU.
    tables = stream.map_batches(_mixed, batch_size=1, num_cpus=0, concurrency=READERS).iter_batches(
        batch_size=None, batch_format="pyarrow"
    )
    # Every worker takes the same number of steps, or the others would wait for ever in the gradient sum.
    for _, table in zip(range(first, steps), cut_evenly(tables, batch)):
        yield table


def cut_evenly(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Tables of ``rows`` rows each, cut from others; what is left at the end is dropped. Copies only where two meet.

    >>> [t["a"].to_pylist() for t in cut_evenly([pa.table({"a": [1, 2, 3]}), pa.table({"a": [4, 5]})], 2)]
    [[1, 2], [3, 4]]
    """
    rest = None
    for table in tables:
        at = 0
        if rest is not None:
            at = min(rows - len(rest), len(table))
            rest = pa.concat_tables([rest, table[:at]])
            if len(rest) < rows:
                continue
            yield rest.combine_chunks()
        stop = at + (len(table) - at) // rows * rows
        yield from (table[start : start + rows] for start in range(at, stop, rows))
        rest = table[stop:] if stop < len(table) else None


def _mixed(batch: dict[str, np.ndarray]) -> pa.Table:
    window, columns = batch["window"][0], ["row", "label", "image"]
    tables = [table.select(columns) for unit in window["units"] for table in read_tables(unit, UNIT_ROWS)]
    table = pa.concat_tables(tables)
    return table.take(np.random.default_rng(window["seed"]).permutation(len(table))[window["done"] :])
