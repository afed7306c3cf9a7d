"""Bundles of CIFAR-10 that differ in who chooses the dictionary and in how many there are, for ``grids/choosers.yaml``.

    python benchmarks/chooser_bundles.py --data DIR --out runs/choosers [--images 20000]

DIR holds ``cifar10/train-*.parquet``. ``strata-4`` and ``strata-30`` are STL's: strata of the codes of the auto-encoder
that ships with ``cifar10-stl``, and the vote of training images. ``clusters-4`` is RSFP's: k-means over the robust
latents of all classes together, of the network that ships with ``cifar10``, and the Mahalanobis distance. The thirty
clusters of ``cifar10`` are the fourth. ``--images`` of the training images are divided so, and the dictionary of each
part is learned as those of ``cifar10``, from as many of its images, at its λ and Tikhonov weight: nothing else differs.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from dictionary_bundles import learn, save_changed, training_images
from torch import Tensor

import raypurify
from raypurify.clusters import ClusterDistributions, fit_kmeans, fit_strata
from raypurify.purifiers.rsfp import RSFP, rsfp_tensors
from raypurify.purifiers.stl import STL, stl_tensors

STRATA, CLUSTERS = (4, 30), (4,)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=20000)
    arguments = parser.parse_args()
    rsfp, stl = raypurify.load("cifar10"), raypurify.load("cifar10-stl")
    images = training_images(arguments.data, rsfp, arguments.images)
    for count in STRATA:
        write_strata(arguments.out / f"strata-{count}", stl, rsfp, images, count)
    for count in CLUSTERS:
        write_clusters(arguments.out / f"clusters-{count}", rsfp, images, count)


def write_strata(folder: Path, stl: STL, rsfp: RSFP, images: Tensor, count: int) -> None:
    """A bundle of the method stl with so many strata, and dictionaries at the settings of RSFP's."""
    how = stl.settings.strata.model_copy(update={"count": count})
    fitted = fit_strata(torch.cat([stl.latents(some) for some in images.split(500)]), how, stl.settings.seed)
    atoms = dictionaries(rsfp, images, torch.from_numpy(fitted.labels), count)
    settings = stl.settings.model_copy(update={"strata": how, "csc": rsfp.settings.csc})
    save_changed(folder, stl, stl_tensors(stl.network, fitted.strata, atoms), settings, cluster_class=[None] * count)


def write_clusters(folder: Path, rsfp: RSFP, images: Tensor, count: int) -> None:
    """A bundle of the method rsfp whose clusters are of no class: each has the number of the first, which it needs."""
    latents = torch.cat([rsfp.latents(some) for some in images.split(500)]).numpy()
    labels = np.asarray(fit_kmeans(latents, count, seed=rsfp.settings.seed).labels)
    how = rsfp.settings.clusters
    distributions = ClusterDistributions.fit(latents, labels, how.form, how.rank)
    atoms = dictionaries(rsfp, images, torch.from_numpy(labels), count)
    tensors = rsfp_tensors(rsfp.network, distributions, atoms)
    save_changed(folder, rsfp, tensors, rsfp.settings, cluster_class=[0] * count)


def dictionaries(rsfp: RSFP, images: Tensor, part: Tensor, count: int) -> Tensor:
    """The dictionary (count, M, 3, h, w) of each part of the images."""
    how = rsfp.settings.dictionaries
    atoms = []
    for k in range(count):
        atoms.append(learn(rsfp, images[part == k][: how.images], how))
        print(f"dictionary {k + 1} of {count}, {int((part == k).sum())} images", flush=True)
    return torch.stack(atoms)


if __name__ == "__main__":
    main()
