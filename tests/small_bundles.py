"""Small untrained bundles, one for each method: real files of two classes, and where a method has clusters of three of
them, made in a second."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from raypurify.bundle import Calibration, save_bundle
from raypurify.bundle.tensors import Tensors
from raypurify.clusters import ClusterDistributions, fit_strata
from raypurify.config import Settings, load_settings
from raypurify.nets import WideResNet
from raypurify.nets.dae import DenoisingAutoEncoder
from raypurify.purifiers.front_end import front_end_tensors
from raypurify.purifiers.region_sparse import region_sparse_tensors
from raypurify.purifiers.rsfp import rsfp_tensors
from raypurify.purifiers.stl import stl_tensors
from raypurify.training.front_end import front_of

CLASSES = ["kočka", "dog"]


def write_rsfp(folder: Path) -> Path:
    """A bundle of rsfp, of which nothing was trained."""
    torch.manual_seed(0)
    settings = load_settings(preset="tiny")
    network = WideResNet(settings.network.depth, settings.network.width, 2).eval()
    with torch.no_grad():
        latents = network.latents(torch.rand(60, 3, 32, 32)).numpy()
    distributions = ClusterDistributions.fit(latents, np.arange(60) % 3, form=settings.clusters.form)
    return _written(folder, "rsfp", settings, rsfp_tensors(network, distributions, _atoms()), [0, 0, 1])


def write_stl(folder: Path) -> Path:
    """A bundle of stl, of which nothing was trained."""
    torch.manual_seed(0)
    settings = load_settings(preset="tiny-stl")
    strata = settings.strata.model_copy(update={"count": 3, "components": 5, "neighbours": 5, "keep": 40})
    settings = settings.model_copy(update={"strata": strata})
    network = DenoisingAutoEncoder(settings.dae.width, settings.data.image_size).eval()
    with torch.no_grad():
        latents = network.latents(torch.rand(60, 3, 32, 32))
    tensors = stl_tensors(network, fit_strata(latents, strata).strata, _atoms())
    return _written(folder, "stl", settings, tensors, [None] * 3)


def write_region_sparse(folder: Path) -> Path:
    """A bundle of region_sparse, of whose atoms none was learned."""
    torch.manual_seed(0)
    settings = load_settings(preset="tiny-region")
    parts = {
        "region": settings.region.model_copy(update={"nonzeros": 3}),
        "patches": settings.patches.model_copy(update={"atoms": 8}),
    }
    settings = settings.model_copy(update=parts)
    return _written(folder, "region_sparse", settings, region_sparse_tensors(_atoms()[0]), [None])


def write_front_end(folder: Path, supervised: bool = False, classifier: str = "cifar-resnet") -> Path:
    """A bundle of front_end, of which nothing was trained."""
    torch.manual_seed(0)
    settings = small_front_settings(supervised, classifier)
    network = front_of(settings, _atoms()[0], len(CLASSES)).eval()
    return _written(folder, "front_end", settings, front_end_tensors(network), [None])


def small_front_settings(supervised: bool, classifier: str = "cifar-resnet") -> Settings:
    """Settings of front_end for the atoms of these bundles."""
    settings = load_settings(preset="tiny-front-end")
    parts = {
        "dictionary": settings.dictionary.model_copy(update={"atoms": 8, "size": 8, "stride": 4}),
        "encoder": settings.encoder.model_copy(update={"top": 5, "dropout": 0.5}),
        "decoder": settings.decoder.model_copy(update={"supervised": supervised, "depth": 8, "classifier": classifier}),
    }
    return settings.model_copy(update=parts)


WRITERS: dict[str, Callable[[Path], Path]] = {
    "rsfp": write_rsfp,
    "stl": write_stl,
    "region_sparse": write_region_sparse,
    "front_end": write_front_end,
}
"""By the name of a method, what writes a small bundle of it into a folder and gives that back."""


def _written(
    folder: Path, method: str, settings: Settings, tensors: Tensors, cluster_class: Sequence[int | None]
) -> Path:
    save_bundle(
        folder,
        tensors,
        method=method,
        name="untrained",
        settings=settings,
        classes=CLASSES,
        cluster_class=list(cluster_class),
        dictionary_source=["own"] * len(cluster_class),
        training_data={"train": 60, "digest": "0" * 64},
        training={},
        calibration=Calibration(distance_threshold=1e9, quantile=0.99, images=1),
        measured={"set": "none"},
    )
    return folder


def _atoms() -> Tensor:
    atoms = torch.randn(3, 8, 3, 8, 8)
    return atoms / torch.linalg.vector_norm(atoms, dim=(2, 3, 4), keepdim=True)
