"""Prepared images as a purifier leaves them, in the same form: what a classifier is retrained on."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from raypurify.errors import SinkError
from raypurify.fit.units import Unit, cut_units, prepared_files, read_tables
from raypurify.images import to_pixels
from raypurify.purifiers.batch import BATCH_PIXELS
from raypurify.runtime.pool import work_off
from raypurify.runtime.progress import shared_progress
from raypurify.runtime.resources import cluster_resources
from raypurify.storage import Place
from raypurify.training.data import TRAIN, VALIDATION, read_pixels
from raypurify.training.noise import with_noise

UNIT_ROWS = 512


def purify_prepared(
    folder: Place, prepared: Place, side: int, make: Callable[[str], Any], noise: Sequence[float], seed: int
) -> dict[str, Any]:
    """Purify all prepared images into ``folder/split=…/UNIT.parquet``: columns row, id, label, image (uint8, CHW).

    ``make(device)`` makes the purifier, in every actor. Before, each image gets Gaussian noise of one dissimilarity out
    of ``noise``, decided by (seed, row) as ``training.noise`` says. Units that an earlier run finished stay.

    Raises SinkError where a file cannot be written, and what the purifier raises.
    """
    todo: dict[Place, Unit] = {}
    rows = {}
    for part in (TRAIN, VALIDATION):
        units, there = cut_units(prepared_files(prepared / part), UNIT_ROWS), set((folder / part).names())
        rows[part] = sum(unit.rows for unit in units)
        files = {f"{unit.name}.parquet": unit for unit in units}
        todo |= {folder / part / name: unit for name, unit in files.items() if name not in there}
    images = sum(rows.values())
    if todo:
        _run(todo, images, folder, side, make, tuple(noise), seed)
    return {"images": images, "train": rows[TRAIN]}


def _run(
    todo: dict[Place, Unit], images: int, folder: Place, side: int, make: Callable, noise: tuple[float, ...], seed: int
) -> None:
    import ray

    progress = shared_progress(folder, images, "images", start=images - sum(unit.rows for unit in todo.values()))
    has = cluster_resources()
    worker = ray.remote(num_cpus=1, num_gpus=1 if has.gpus else 0)(_Worker)
    for place in work_off(
        todo,
        "unit",
        lambda: worker.remote(make, "cuda" if has.gpus else "cpu", side, noise, seed),
        min(len(todo), has.gpus or max(1, has.cores)),
        lambda actor, place: actor.do.remote(todo[place], place),
    ):
        progress.add.remote(todo[place].rows)


class _Worker:
    """Purifies and commits one unit a call."""

    def __init__(self, make: Callable, device: str, side: int, noise: tuple[float, ...], seed: int):
        torch.set_num_threads(1)
        self.purifier, self.device, self.side, self.noise, self.seed = make(device), device, side, noise, seed

    def do(self, unit: Unit, place: Place) -> None:
        tables = []
        for table in read_tables(unit, max(1, BATCH_PIXELS // self.side**2)):
            rows, clean = table["row"].to_numpy(), read_pixels(table, self.side)
            noisy = np.stack([with_noise(x, self.noise, self.seed, int(row)) for x, row in zip(clean, rows)])
            done = self.purifier.purify(torch.from_numpy(noisy).to(self.device)).images.cpu().numpy()
            pixels = [to_pixels(image).transpose(2, 0, 1).tobytes() for image in done]
            kind = pa.binary(3 * self.side**2)
            tables.append(table.select(["row", "id", "label"]).append_column("image", pa.array(pixels, kind)))
        try:
            with place.writing() as file:
                pq.write_table(pa.concat_tables(tables), file, row_group_size=UNIT_ROWS)
        except OSError as e:
            raise SinkError(f"{e}: free space or mend that file, then run the same command again") from e
