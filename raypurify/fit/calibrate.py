"""The calibrate stage: the bundle, measured on validation images no stage was trained on."""

import os
import tempfile
from typing import Any

import torch
from torch import Tensor

from raypurify.attacks import PGD
from raypurify.bundle import Calibration, load_bundle, save_bundle
from raypurify.clusters import ClusterDistributions
from raypurify.config import Settings
from raypurify.nets import WideResNet
from raypurify.nets.store import load_network
from raypurify.purifiers import RSFP
from raypurify.runtime.progress import Progress
from raypurify.storage import Place
from raypurify.training.calibration import measure_attacked, measure_clean
from raypurify.training.data import VALIDATION, batches, read_part

BATCH = 64


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
    """Write ``folder/bundle`` with its calibration and figures, measured on ``device``, and report its digest.

    The figures come from the bundle as a user loads it, after rounding to float16: a draft is written, loaded and
    measured; the manifest of the final one holds what was found.
    """
    network, how = load_network(robust, WideResNet), settings.calibration
    nothing = Calibration(distance_threshold=0.0, quantile=how.quantile, images=0)
    # Ray gives a task of one CPU one thread, but nothing else of a fit runs beside this one.
    torch.set_num_threads(os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as draft:
        save_bundle(draft, network, distributions, dictionaries, **about, calibration=nothing, measured={})
        purifier = RSFP(load_bundle(draft), device)
    table, side = read_part(prepared, VALIDATION), settings.data.image_size
    few = table[: how.images]
    progress = Progress(folder, len(table) + 3 * len(few), "images")
    attack = PGD(**how.attack.model_dump())
    classifier = load_network(baseline, WideResNet).to(device)
    calibration, clean = measure_clean(
        purifier, classifier, batches(table, side, BATCH), how.quantile, on_images=progress.add
    )
    attacked = measure_attacked(purifier, classifier, batches(few, side, BATCH), attack, on_images=progress.add)
    measured = {
        "set": "validation images, held out from every stage",
        "attack": how.attack.model_dump(),
        "clean": clean,
        "attacked": attacked,
    }
    digest = save_bundle(
        folder / "bundle", network, distributions, dictionaries, **about, calibration=calibration, measured=measured
    )
    return {"digest": digest}
