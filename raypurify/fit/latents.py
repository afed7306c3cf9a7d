"""The latents stage: R(x) of every training image, in units that a pool of actors works off and commits one by one."""

from contextlib import closing
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from raypurify.errors import DataError, RaypurifyError, SinkError
from raypurify.files import write_json
from raypurify.fit.units import Unit, cut_units, prepared_files, read_tables
from raypurify.nets.encoder import Encoder
from raypurify.nets.store import load_network
from raypurify.runtime.progress import shared_progress
from raypurify.runtime.resources import cluster_resources
from raypurify.runtime.session import ray_data
from raypurify.storage import Place, overlapped
from raypurify.training.data import TRAIN, read_pixels

BATCH, BATCH_PIXELS, WRITE_ROWS = 256, 1 << 20, 1024
PARTS, DONE = "by_class", "done"


def extract_latents(folder: Place, prepared: Place, network: Place, side: int, unit_rows: int = 0) -> dict[str, Any]:
    """Write ``folder/by_class/label=C/UNIT.parquet``: columns row (int64, ascending) and latent (d float32).

    Units that an earlier run committed, by ``folder/done/UNIT.json``, stay as they are. Raises DataError where latents
    are not finite, SinkError where a file cannot be used, TrainingError where the network cannot be read.
    """
    model: Encoder = load_network(network)
    files = prepared_files(prepared / TRAIN)
    images = sum(rows for _, rows in files)
    # From the data alone: a resume on another cluster finds the same units.
    units = cut_units(files, unit_rows or -(-min(32768, max(1024, images // 16)) // BATCH) * BATCH)
    marked = set((folder / DONE).names())
    done = [unit for unit in units if f"{unit.name}.json" in marked]
    _remove_others(folder, done)
    if len(done) < len(units):
        _run([unit for unit in units if unit not in done], model, folder, side, images)
        _remove_others(folder, units)
    return {"images": images, "features": model.dim}


def _run(todo: list[Unit], model: Encoder, folder: Place, side: int, images: int) -> None:
    import ray

    progress = shared_progress(folder, images, "images", start=images - sum(unit.rows for unit in todo))
    has = cluster_resources()
    # With one task in flight the pool would never grow; with many, units queue behind one actor while others are idle.
    most = min(len(todo), has.gpus or max(1, has.cpus - 1))
    data = ray_data()
    pool = data.ActorPoolStrategy(min_size=1, max_size=most, max_tasks_in_flight_per_actor=2)
    results = data.from_items([{"unit": unit} for unit in todo], override_num_blocks=len(todo)).map_batches(
        _Extractor,
        fn_constructor_args=(ray.put(model), folder, side, "cuda" if has.gpus else "cpu", progress),
        batch_size=1,
        num_cpus=1,
        num_gpus=1 if has.gpus else None,
        compute=pool,
    )
    # Closing ends the actors, after an error too.
    with closing(iter(results.iter_rows())) as outcomes:
        for outcome in outcomes:
            if outcome["error"] is not None:
                raise outcome["error"]


class _Extractor:
    """Does and commits one unit a call; it holds the unit's latents and the pixels of one batch."""

    def __init__(self, model: Any, folder: Place, side: int, device: str, progress: Any):
        import ray

        # The bytes do not depend on the number of cores.
        torch.set_num_threads(1)
        self.network, self.folder, self.side, self.progress = ray.get(model).to(device), folder, side, progress
        self.device = device

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        # Raised here, an error would reach the driver as text only, wrapped by Ray Data.
        error: RaypurifyError | None = None
        try:
            self._write(batch["unit"][0].name, *self._extract(batch["unit"][0]))
        except RaypurifyError as e:
            error = e
        except OSError as e:
            error = SinkError(f"{e}: free space or mend that file, then run the same command again")
        return {"error": [error]}

    @torch.no_grad()
    def _extract(self, unit: Unit) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows (n,) int64, labels (n,) int64 and latents (n, d) float32, in the prepared order."""
        rows, labels = np.empty((2, unit.rows), np.int64)
        latents = np.empty((unit.rows, self.network.dim), np.float32)
        bad: list[tuple[int, str]] = []
        stop = 0
        for table in read_tables(unit, max(1, min(BATCH, BATCH_PIXELS // self.side**2))):
            images = torch.from_numpy(read_pixels(table, self.side).copy()).to(self.device).float().div_(255)
            part = slice(stop, stop := stop + len(table))
            rows[part], labels[part] = table["row"].to_numpy(), table["label"].to_numpy()
            latents[part] = self.network.latents(images).cpu().numpy()
            failed = np.flatnonzero(~np.isfinite(latents[part]).all(1))
            bad += zip(rows[part][failed].tolist(), table["id"].take(failed).to_pylist())
            self.progress.reach.remote(unit.name, stop)
        if bad:
            row, name = min(bad)
            raise DataError(
                f"no finite latents for {len(bad)} of {unit.rows} images, the first is row {row}, {name}: "
                "if it is most of them the network diverged, lower its learning rate; if it is few, remove them"
            )
        return rows, labels, latents

    def _write(self, name: str, rows: np.ndarray, labels: np.ndarray, latents: np.ndarray) -> None:
        """A file per class, each renamed into place when it is whole, then the marker of the unit."""
        schema = pa.schema({"row": pa.int64(), "latent": pa.list_(pa.float32(), latents.shape[1])})
        order, counts = np.lexsort((rows, labels)), {}
        for members in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
            label = int(labels[members[0]])
            place = self.folder / PARTS / f"label={label}" / f"{name}.parquet"
            with (
                place.writing() as file,
                pq.ParquetWriter(file, schema, use_dictionary=False, compression="none") as writer,
            ):
                for some in np.split(members, range(WRITE_ROWS, len(members), WRITE_ROWS)):
                    column = pa.FixedSizeListArray.from_arrays(latents[some].reshape(-1), latents.shape[1])
                    writer.write_table(pa.Table.from_arrays([pa.array(rows[some]), column], schema=schema))
            counts[label] = len(members)
        write_json(self.folder / DONE / f"{name}.json", {"rows": counts, "features": latents.shape[1]})


def _remove_others(folder: Place, keep: list[Unit]) -> None:
    """Remove what is not of the units in ``keep``: of another cut, of a unit to redo, of a writer that was killed."""
    names = {unit.name for unit in keep}
    parts = [
        folder / PARTS / label / name for label in (folder / PARTS).names() for name in (folder / PARTS / label).names()
    ]
    files = [*parts, *(folder / DONE / name for name in (folder / DONE).names())]
    for _ in overlapped(Place.delete, (file for file in files if file.name.split(".")[0] not in names)):
        pass
