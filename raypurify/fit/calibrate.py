"""The calibrate stage: the bundle, measured on validation images no stage was trained on."""

import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from raypurify.attacks import PGD
from raypurify.bundle import Calibration, save_bundle
from raypurify.bundle.tensors import Tensors
from raypurify.clusters import ClusterDistributions
from raypurify.clusters.strata import Strata
from raypurify.config import Settings
from raypurify.methods import load
from raypurify.nets import WideResNet
from raypurify.nets.dae import DenoisingAutoEncoder
from raypurify.nets.front_end import DefendedClassifier, FrontEnd
from raypurify.nets.store import load_network
from raypurify.purifiers.bundled import Bundled
from raypurify.purifiers.front_end import front_end_tensors
from raypurify.purifiers.region_sparse import region_sparse_tensors
from raypurify.purifiers.rsfp import RSFP, rsfp_tensors
from raypurify.purifiers.stl import stl_tensors
from raypurify.runtime.progress import Progress
from raypurify.runtime.resources import local_cores
from raypurify.storage import Place
from raypurify.training.calibration import measure_attacked, measure_change, measure_choice, measure_clean
from raypurify.training.data import VALIDATION, batches, read_part

BATCH = 64
Measured = tuple[Calibration, dict[str, Any]]


def write_bundle(
    folder: Place,
    prepared: Place,
    baseline: Place,
    robust: Place,
    distributions: ClusterDistributions,
    dictionaries: Tensor,
    settings: Settings,
    about: dict[str, Any],
    device: str = "cpu",
) -> dict[str, Any]:
    """Write ``folder/bundle`` of the method rsfp with its calibration and figures, measured on ``device``, and report
    its digest. The ``baseline`` is the classifier that is attacked and defended."""
    tensors = rsfp_tensors(load_network(robust, WideResNet), distributions, dictionaries)
    how, side = settings.calibration, settings.data.image_size
    classifier, attack = load_network(baseline, WideResNet).to(device), PGD(**how.attack.model_dump())

    def measure(purifier: Bundled, table: pa.Table) -> Measured:
        assert isinstance(purifier, RSFP)
        few = table[: how.images]
        on_images = Progress(folder, len(table) + 3 * len(few), "images").add
        calibration, clean = measure_clean(purifier, classifier, batches(table, side, BATCH), how.quantile, on_images)
        attacked = measure_attacked(purifier, classifier, batches(few, side, BATCH), attack, on_images)
        return calibration, {"attack": how.attack.model_dump(), "clean": clean, "attacked": attacked}

    return _write(folder, prepared, tensors, about, measure, device)


def write_stl_bundle(
    folder: Place,
    prepared: Place,
    encoder: Place,
    strata: Strata,
    dictionaries: Tensor,
    settings: Settings,
    about: dict[str, Any],
    device: str = "cpu",
) -> dict[str, Any]:
    """Write ``folder/bundle`` of the method stl with its calibration and figures, measured on ``device``, and report
    its digest. There is no classifier in it, and so no figure of one."""
    tensors = stl_tensors(load_network(encoder, DenoisingAutoEncoder), strata, dictionaries)
    return _write(folder, prepared, tensors, about, partial(_alone, folder, settings), device)


def write_region_sparse_bundle(
    folder: Place,
    prepared: Place,
    dictionary: Tensor,
    settings: Settings,
    about: dict[str, Any],
    device: str = "cpu",
) -> dict[str, Any]:
    """Write ``folder/bundle`` of the method region_sparse, with what ``write_stl_bundle`` says."""
    tensors = region_sparse_tensors(dictionary)
    return _write(folder, prepared, tensors, about, partial(_alone, folder, settings), device)


def write_front_end_bundle(
    folder: Place,
    prepared: Place,
    network: Place,
    settings: Settings,
    about: dict[str, Any],
    device: str = "cpu",
) -> dict[str, Any]:
    """Write ``folder/bundle`` of the method front_end, with what ``write_stl_bundle`` says; ``network`` is that of the
    stage decoder."""
    if settings.decoder.supervised:
        tensors = front_end_tensors(load_network(network, DefendedClassifier))
    else:
        tensors = front_end_tensors(load_network(network, FrontEnd))
    return _write(folder, prepared, tensors, about, partial(_alone, folder, settings), device)


def _alone(folder: Place, settings: Settings, purifier: Bundled, table: pa.Table) -> Measured:
    """The calibration of a purifier without a classifier, and what it takes from clean images."""
    how, side = settings.calibration, settings.data.image_size
    few = table[: how.images]
    on_images = Progress(folder, len(table) + len(few), "images").add
    calibration, clean = measure_choice(purifier, batches(table, side, BATCH), how.quantile, on_images)
    return calibration, {"clean": clean, "purified": measure_change(purifier, batches(few, side, BATCH), on_images)}


def _write(
    folder: Place,
    prepared: Place,
    tensors: Tensors,
    about: dict[str, Any],
    measure: Callable[[Bundled, pa.Table], Measured],
    device: str,
) -> dict[str, Any]:
    """The bundle of these tensors, with what ``measure(purifier, validation images)`` gives.

    The figures come from the bundle as a user loads it, after rounding to float16: a draft is written, loaded and
    measured; the manifest of the final one holds what was found.
    """
    nothing = Calibration(distance_threshold=0.0, quantile=0.5, images=0)
    # Ray gives a task of one CPU one thread, but nothing else of a fit runs beside this one.
    torch.set_num_threads(local_cores())
    with tempfile.TemporaryDirectory() as draft:
        save_bundle(draft, tensors, **about, calibration=nothing, measured={})
        purifier = load(draft, device)
    calibration, measured = measure(purifier, read_part(prepared, VALIDATION))
    measured = {"set": "validation images, held out from every stage"} | measured
    digest = save_bundle(folder / "bundle", tensors, **about, calibration=calibration, measured=measured)
    return {"digest": digest}
