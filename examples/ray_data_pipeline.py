"""A Ray Data pipeline that purifies on its way: read images, purify in actors, use the result.

    python examples/ray_data_pipeline.py

For folders, Parquet files and tars there is `raypurify purify`, which also keeps provenance, names bad images and goes
on after a crash. This is for a pipeline that exists already, before training or inference.
"""

from pathlib import Path

import numpy as np
import ray
import torch

import raypurify

FOLDER = Path(__file__).resolve().parent / "cifar10/attacked"


class Purify:
    """An actor that loads the bundle once, and purifies batch after batch."""

    def __init__(self, bundle: str):
        # On GPUs: device="cuda" here, and num_gpus=1 in map_batches.
        self.purifier = raypurify.load(bundle)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        images = torch.from_numpy(batch["image"].copy()).permute(0, 3, 1, 2) / 255  # (N, 3, H, W) in [0, 1]
        done = self.purifier.purify(images)
        pixels = (done.images * 255).round().byte().permute(0, 2, 3, 1)
        return {
            **batch,
            "purified": pixels.numpy(),
            "cluster": done.cluster.numpy(),
            "change": done.relative_change.numpy(),
        }


if __name__ == "__main__":
    images = ray.data.read_images(str(FOLDER), include_paths=True, mode="RGB")  # rows: image (H, W, 3) uint8, path
    # Rows of one batch must be of one size. An actor takes one CPU; more actors, more images at a time.
    one = ray.data.ActorPoolStrategy(size=1)
    purified = images.map_batches(Purify, fn_constructor_args=["cifar10"], batch_size=12, compute=one)
    # Nothing has run so far: a dataset is computed when it is read, batch by batch, so it need not fit into memory.
    count = 0
    for batch in purified.iter_batches(batch_size=12):
        count += len(batch["purified"])
        print(f"{count:3d} images {batch['purified'].shape[1:]}, changed by {batch['change'].mean():.1%} on average")
