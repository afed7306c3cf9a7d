"""Bundles that differ from one of CIFAR-10 in their dictionaries alone, to choose those settings on held-out images.

    python benchmarks/dictionary_bundles.py --data DIR --out variants [--bundle cifar10] [--images 20000]
    raypurify evaluate benchmarks/grids/dictionaries.yaml --data DIR --set images.paths=validation.parquet --out OUT

DIR holds ``cifar10/train-*.parquet``. ``--images`` of the training images go to the cluster that the bundle would
purify them with, and each cluster's dictionary is learned from 256 of its own, or as many as a variant says.
``one.safetensors`` is one dictionary for all images, from as many as all clusters have together. validation.parquet is
what validation_images.py writes.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from torch import Tensor

import raypurify
from raypurify.bundle import Manifest, save_bundle
from raypurify.bundle.names import DICTIONARIES
from raypurify.bundle.tensors import Tensors
from raypurify.config import DictionarySettings, Settings
from raypurify.fit.prepare import choose_split
from raypurify.images import decode_image, to_float
from raypurify.purifiers import RSFP, Bundled, learn_global_dictionary
from raypurify.purifiers.rsfp import rsfp_tensors

VARIANTS = {
    "atoms-64": {},
    "atoms-16": {"atoms": 16},
    "atoms-32": {"atoms": 32},
    "atoms-128": {"atoms": 128},
    "size-5": {"size": 5},
    "size-11": {"size": 11},
    "images-64": {"images": 64},
}

# Images of a cluster below which its dictionary would say little.
FEWEST = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bundle", default="cifar10")
    parser.add_argument("--images", type=int, default=20000)
    arguments = parser.parse_args()
    purifier = raypurify.load(arguments.bundle)
    images = training_images(arguments.data, purifier, arguments.images)
    cluster = torch.cat([purifier.distributions.nearest(purifier.latents(some))[0] for some in images.split(500)])
    members = [torch.nonzero(cluster == k).flatten() for k in range(len(purifier.dictionaries))]
    few = sum(len(own) < FEWEST for own in members)
    print(f"{few} of {len(members)} clusters have fewer than {FEWEST} images, and the dictionary of all", flush=True)
    for name, changes in VARIANTS.items():
        how = purifier.settings.dictionaries.model_copy(update=changes)
        of_all = learn(purifier, images[torch.cat([own[: how.images] for own in members])], how)
        atoms = [learn(purifier, images[own[: how.images]], how) if len(own) >= FEWEST else of_all for own in members]
        save_variant(arguments.out / name, purifier, torch.stack(atoms), how)
        if not changes:
            save_file({"atoms": of_all.contiguous()}, arguments.out / "one.safetensors")
        print(name, flush=True)


def training_images(data: Path, purifier: Bundled, count: int) -> Tensor:
    """``count`` images (n, 3, H, W) that the bundle's fit trained on, in a seeded order."""
    table = pa.concat_tables(map(pq.read_table, sorted(data.glob("cifar10/train-*.parquet"))))
    split = choose_split(len(table), purifier.settings.data, purifier.settings.seed)
    rows = np.random.default_rng(0).permutation(np.flatnonzero(split == 1))[:count]
    pixels = [to_float(decode_image(row).pixels) for row in table["image"].take(rows).to_pylist()]
    return torch.from_numpy(np.stack(pixels))


def learn(purifier: Bundled, images: Tensor, how: DictionarySettings) -> Tensor:
    return learn_global_dictionary(images, how, purifier.settings.csc, purifier.settings.seed)


def save_variant(folder: Path, purifier: RSFP, dictionaries: Tensor, how: DictionarySettings) -> None:
    settings = purifier.settings.model_copy(update={"dictionaries": how})
    save_changed(folder, purifier, rsfp_tensors(purifier.network, purifier.distributions, dictionaries), settings)


def save_changed(folder: Path, purifier: Bundled, tensors: Tensors, settings: Settings, **about: Any) -> None:
    """Save the purifier's bundle as one of these tensors and settings; ``about`` is what else differs in its manifest.
    The name is the folder's, and a dictionary is each cluster's own."""
    manifest = purifier.bundle.manifest
    kept = set(Manifest.model_fields) - {"format_version", "raypurify", "files"}
    own = [str(k) for k in range(len(tensors[DICTIONARIES]["atoms"]))]
    fields = {name: getattr(manifest, name) for name in kept}
    save_bundle(
        folder, tensors, **fields | {"name": folder.name, "settings": settings, "dictionary_source": own} | about
    )


if __name__ == "__main__":
    main()
