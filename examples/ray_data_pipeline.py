"""A Ray Data pipeline that purifies on its way: read images, purify in actors, use the result.

    python examples/ray_data_pipeline.py

For folders, Parquet files and tars there is `raypurify purify`, which also goes on after a crash. This is for a
pipeline that exists already, before training or inference; docs/libraries.md has other readers, GPUs and checkpoints.
"""

from pathlib import Path

import ray

from raypurify.ray import Purify

FOLDER = Path(__file__).resolve().parent / "cifar10/attacked"

if __name__ == "__main__":
    # Rows: bytes, the file of an image, and path. A file that is damaged becomes a row that says so.
    files = ray.data.read_binary_files(str(FOLDER), include_paths=True)
    # An actor loads the bundle once and takes one CPU; more actors, more images at a time.
    purified = files.map_batches(Purify, fn_constructor_kwargs={"bundle": "cifar10"}, batch_size=12, concurrency=1)
    # Nothing has run so far: a dataset is computed when it is read, batch by batch, so it need not fit into memory.
    count = 0
    for batch in purified.iter_batches(batch_size=12):
        failed = (batch["reason"] != "").sum()
        count += len(batch["bytes"])
        print(f"{count:3d} images, {failed} failed, changed by {batch['relative_change'].mean():.1%} on average")
