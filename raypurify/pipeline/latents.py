"""Stage 3: latents R(x) of every training image, streamed through the baseline network by Ray Data."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from raypurify.nets.store import load_network
from raypurify.pipeline.prepared import TRAIN, read_pixels
from raypurify.pipeline.progress import shared_progress

BATCH = 256
PARTS = "by_class"


def extract_latents(folder: Path, prepared: Path, network: Path, rows: int, side: int) -> dict[str, Any]:
    """Write ``folder/by_class/label=…/*.parquet`` with columns row and latent (fixed-size float32 list)."""
    import ray

    shutil.rmtree(folder / PARTS, ignore_errors=True)
    gpus = ray.cluster_resources().get("GPU", 0)
    actors = max(1, int(gpus or ray.cluster_resources()["CPU"] - 1))
    progress = shared_progress(folder, rows, "images")
    images = ray.data.read_parquet(str(prepared / TRAIN), partitioning=None, columns=["row", "label", "image"])
    images.map_batches(
        _Extractor,
        fn_constructor_kwargs={"network": network, "side": side, "progress": progress},
        batch_size=BATCH,
        batch_format="pyarrow",
        num_gpus=1 if gpus else None,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors),
    ).write_parquet(str(folder / PARTS), partition_cols=["label"])
    return {"images": rows}


class _Extractor:
    def __init__(self, network: Path, side: int, progress):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.network, self.side, self.progress = load_network(network).to(self.device), side, progress

    @torch.no_grad()
    def __call__(self, table: pa.Table) -> pa.Table:
        images = torch.from_numpy(read_pixels(table, self.side).copy()).to(self.device).float().div_(255)
        latents = self.network.latents(images).cpu().numpy()
        self.progress.add.remote(len(table))
        column = pa.FixedSizeListArray.from_arrays(pa.array(latents.reshape(-1)), latents.shape[1])
        return table.select(["row", "label"]).append_column("latent", column)
