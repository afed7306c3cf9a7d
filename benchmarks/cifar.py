"""The training images of CIFAR-10, decoded once, for scripts that train on one machine."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raypurify.config import load_settings
from raypurify.fit.prepare import choose_split
from raypurify.images import decode_image
from raypurify.training.data import ImageSet


def all_images(data: Path, out: Path) -> ImageSet:
    """The images of ``data/cifar10/train-*.parquet``; ``out/images.npz`` keeps them decoded."""
    file = out / "images.npz"
    if not file.exists():
        table = pa.concat_tables(map(pq.read_table, sorted(data.glob("cifar10/train-*.parquet"))))
        pixels = [decode_image(one).pixels.transpose(2, 0, 1) for one in table["image"].to_pylist()]
        out.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part.npz")
        np.savez(part, images=np.stack(pixels), labels=table["label"].to_numpy())
        part.rename(file)
    with np.load(file) as found:
        return ImageSet(np.arange(len(found["labels"])), found["labels"], found["images"])


def split_images(data: Path, out: Path, limit: int | None = None) -> tuple[ImageSet, ImageSet]:
    """The images that the preset ``cifar10`` trains on, a seeded choice of at most ``limit``, and those that it holds
    out."""
    images, settings = all_images(data, out), load_settings(preset="cifar10")
    part = choose_split(len(images), settings.data.model_copy(update={"limit": limit}), settings.seed)
    return images.take(np.flatnonzero(part == 1)), images.take(np.flatnonzero(part == 2))
