"""A bank of clean images for quilting: what the package ships for CIFAR-10, and those of other images.

    python benchmarks/patch_bank.py --data DIR --out patches.safetensors
    python benchmarks/patch_bank.py --data DIR --preset imagenet10 --size 64 --out bank.safetensors
    python benchmarks/patch_bank.py --images train.parquet --size 64 --out bank.safetensors

Of the rows of DIR's ``cifar10/train-*.parquet``, or ``imagenette224/train.parquet``, that the preset trains on,
``--count`` are chosen by seed, as many of each class. ``--images`` are labelled images of any other set, as ``raypurify
evaluate`` takes them, of which it chooses ``--count``. ``--size`` squashes them to that side. The first command's file,
copied to ``raypurify/purifiers/weights``, is what ships; its SHA-256 is ``Quilting.shipped``.
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from validation_images import IMAGES

from raypurify.config import load_settings
from raypurify.evaluation.batches import read_grid_batches
from raypurify.evaluation.specs import ImagesSpec
from raypurify.fit.prepare import choose_split
from raypurify.images import decode_image, squared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--data", type=Path)
    given.add_argument("--images")
    parser.add_argument("--preset", choices=IMAGES, default="cifar10")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=250)
    parser.add_argument("--size", type=int, help="default: the images' own")
    arguments = parser.parse_args()
    if arguments.data:
        images = trained_on(arguments.data, arguments.count, arguments.preset, arguments.size)
    else:
        spec = ImagesSpec(paths=arguments.images, sample=arguments.count, size=arguments.size)
        images = read_grid_batches(spec, arguments.count)[0][0].pixels
    save_file({"images": torch.from_numpy(np.ascontiguousarray(images))}, arguments.out)
    print(f"{images.shape} sha256 {hashlib.sha256(arguments.out.read_bytes()).hexdigest()}")


def trained_on(data: Path, count: int, preset: str, size: int | None) -> np.ndarray:
    """``count`` images (count, 3, H, W) uint8 that the preset trains on, in the order of the set."""
    table = pa.concat_tables(map(pq.read_table, sorted(data.glob(IMAGES[preset]))))
    settings = load_settings(preset=preset)
    rows = np.flatnonzero(choose_split(len(table), settings.data, settings.seed) == 1)
    rows = rows[balanced(table["label"].to_numpy()[rows], count)]
    images = [decode_image(file).pixels for file in table["image"].take(rows).to_pylist()]
    return np.stack([squared(image, size) if size else image.transpose(2, 0, 1) for image in images])


def balanced(labels: np.ndarray, count: int) -> np.ndarray:
    """The places of ``count`` labels, chosen by seed, those of each class equally often, or once more; ascending."""
    order = np.random.default_rng(0).permutation(len(labels))
    kinds, kind = np.unique(labels[order], return_inverse=True)
    # The how manieth of its class each one is: the first ones of all classes come first.
    turn = (kind[:, None] == np.arange(len(kinds))).cumsum(0)[np.arange(len(kind)), kind]
    return np.sort(order[np.argsort(turn, kind="stable")[:count]])


if __name__ == "__main__":
    main()
