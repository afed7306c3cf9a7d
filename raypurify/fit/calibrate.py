"""Stage 7: the bundle, measured on validation images no stage was trained on."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raypurify.attacks import PGD
from raypurify.bundle import Calibration, load_bundle, save_bundle
from raypurify.clusters import ClusterDistributions
from raypurify.config import Settings
from raypurify.nets.store import load_network
from raypurify.purifiers import RSFP
from raypurify.runtime.progress import Progress
from raypurify.training import Batch
from raypurify.training.data import VALIDATION, batches, read_part

BATCH = 64


def write_bundle(
    folder: Path,
    prepared: Path,
    baseline: Path,
    robust: Path,
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
    network, draft = load_network(robust), folder / "draft"
    nothing = Calibration(distance_threshold=0.0, quantile=settings.calibration.quantile, images=0)
    # Ray gives a task of one CPU one thread, but nothing else of a fit runs beside this one.
    torch.set_num_threads(os.cpu_count() or 1)
    save_bundle(draft, network, distributions, dictionaries, **about, calibration=nothing, measured={})
    table = read_part(prepared, VALIDATION)
    purifier = RSFP(load_bundle(draft), device)
    calibration, measured = _measure(purifier, load_network(baseline).to(device), table, settings, folder)
    digest = save_bundle(
        folder / "bundle", network, distributions, dictionaries, **about, calibration=calibration, measured=measured
    )
    shutil.rmtree(draft)
    return {"digest": digest}


def _measure(purifier: RSFP, baseline: nn.Module, table, settings: Settings, folder: Path):
    side, few = settings.data.image_size, table[: settings.calibration.images]
    progress = Progress(folder, len(table) + 3 * len(few), "images")
    attack = PGD(**settings.calibration.attack.model_dump())
    cluster_class = torch.tensor(purifier.bundle.manifest.cluster_class, device=purifier.device)

    clean = _Tally()
    distances = []
    for images, labels in _floats(table, side, purifier.device):
        with torch.no_grad():
            index, distance = purifier.distributions.nearest(purifier.latents(images))
            clean.add("baseline", baseline(images).argmax(1), labels)
            clean.add("robust", purifier.network(images).argmax(1), labels)
        clean.add("cluster_class", cluster_class[index], labels)
        distances.append(distance.cpu())
        progress.add(len(images))
    distances = torch.cat(distances)
    quantile = settings.calibration.quantile
    calibration = Calibration(
        distance_threshold=float(torch.quantile(distances, quantile)), quantile=quantile, images=len(distances)
    )

    hit = _Tally()
    shifted = []
    for images, labels in _floats(few, side, purifier.device):
        on_baseline = _attacked(attack, baseline, images, labels)
        progress.add(len(images))
        on_robust = _attacked(attack, purifier.network, images, labels)
        progress.add(len(images))
        purified_clean, purified = purifier.purify(images), purifier.purify(on_baseline)
        with torch.no_grad():
            hit.add("baseline_clean", baseline(images).argmax(1), labels)
            hit.add("baseline_attacked", baseline(on_baseline).argmax(1), labels)
            hit.add("baseline_clean_purified", baseline(purified_clean.images).argmax(1), labels)
            hit.add("baseline_attacked_purified", baseline(purified.images).argmax(1), labels)
            hit.add("robust_attacked", purifier.network(on_robust).argmax(1), labels)
        hit.add("cluster_class_attacked", cluster_class[purified.cluster], labels)
        shifted.append(purified.distance.cpu())
        progress.add(len(images))
    measured = {
        "set": "validation images, held out from every stage",
        "attack": settings.calibration.attack.model_dump(),
        "clean": clean.figures() | {"images": len(table), "distance_mean": round(float(distances.mean()), 3)},
        "attacked": hit.figures() | {"images": len(few), "distance_mean": round(float(torch.cat(shifted).mean()), 3)},
    }
    return calibration, measured


class _Tally:
    def __init__(self):
        self.hits: dict[str, list[int]] = {}

    def add(self, name: str, predicted: Tensor, labels: Tensor) -> None:
        self.hits.setdefault(name, []).extend((predicted == labels).tolist())

    def figures(self) -> dict[str, float]:
        return {name: round(sum(hits) / len(hits), 4) for name, hits in self.hits.items()}


def _floats(table, side: int, device: torch.device):
    batch: Batch
    for batch in batches(table, side, BATCH):
        yield batch.images.to(device).float() / 255, batch.labels.to(device)


def _attacked(attack, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return attack(network, images, labels, generator=torch.Generator().manual_seed(0))
