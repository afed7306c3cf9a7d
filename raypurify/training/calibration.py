"""A purifier measured on clean and attacked images: its distance threshold, and the figures a bundle states."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from raypurify.attacks.base import Attack
from raypurify.bundle import Calibration
from raypurify.purifiers import RSFP, Bundled
from raypurify.purifiers.localisation import share_of
from raypurify.training.batch import Batch
from raypurify.training.denoising import psnr

Figures = dict[str, float | int]

# Values of the curve of clean distances: one for each percent, and the least.
CURVE = 101


def measure_clean(
    purifier: RSFP, baseline: nn.Module, batches: Iterable[Batch], quantile: float, on_images: Callable[[int], None]
) -> tuple[Calibration, Figures]:
    """The ``quantile`` of clean images' distances to their nearest cluster with their curve, and figures over these
    ``images``.

    Accuracies in [0, 1], rounded to four decimals: of the ``baseline``, of the ``robust`` network, and of the class
    that the nearest cluster is of, ``cluster_class``; ``distance_mean``. ``on_images`` hears how many are done.
    """
    device, cluster_class = purifier.device, _cluster_class(purifier)
    hits, distances = _Hits(), []
    for batch in batches:
        images, labels = _floats(batch, device)
        with torch.no_grad():
            index, distance = purifier.distributions.nearest(purifier.latents(images))
            hits.add("baseline", baseline(images).argmax(1), labels)
            hits.add("robust", purifier.network(images).argmax(1), labels)
        hits.add("cluster_class", cluster_class[index], labels)
        distances.append(distance.cpu())
        on_images(len(images))
    every = torch.cat(distances)
    return _calibrated(every, quantile), hits.figures(every)


def measure_choice(
    purifier: Bundled, batches: Iterable[Batch], quantile: float, on_images: Callable[[int], None]
) -> tuple[Calibration, Figures]:
    """The ``quantile`` of clean images' distances with their curve, and figures over these ``images``, of any method.

    ``distance_mean``, and where there are clusters to choose from the shares in [0, 1] of images in those with most and
    least of them, ``largest_share`` and ``smallest_share``. ``on_images`` hears how many are done.
    """
    chosen, distances = [], []
    for batch in batches:
        with torch.no_grad():
            cluster, distance = purifier.choose(_floats(batch, purifier.device)[0])
        chosen.append(cluster.cpu())
        distances.append(distance.cpu())
        on_images(len(cluster))
    every = torch.cat(distances)
    shares = torch.cat(chosen).bincount(minlength=len(purifier.dictionaries)) / len(every)
    figures: Figures = {"images": len(every), "distance_mean": float(f"{float(every.mean()):.4g}")}
    if len(shares) > 1:
        figures |= {"largest_share": round(float(shares.max()), 4), "smallest_share": round(float(shares.min()), 4)}
    return _calibrated(every, quantile), figures


def measure_change(purifier: Bundled, batches: Iterable[Batch], on_images: Callable[[int], None]) -> Figures:
    """What purification takes from clean ``images``, of any method: means of ``relative_change`` ‖x′ − x‖₂/‖x‖₂, of
    ``psnr`` in dB, of the solver's ``iterations``, and of the share that was coded, ``region_share``, where that is not
    all of an image."""
    changes, ratios, iterations, shares = [], [], [], []
    for batch in batches:
        images, _ = _floats(batch, purifier.device)
        out = purifier.purify(images)
        changes.append(out.relative_change)
        ratios.append(psnr(out.images, images))
        iterations.append(out.iterations.float())
        if out.region is not None:
            shares.append(share_of(out.region, *images.shape[-2:]))
        on_images(len(images))
    change, ratio, steps = (float(torch.cat(values).mean()) for values in (changes, ratios, iterations))
    return {
        "images": sum(map(len, changes)),
        "relative_change": round(change, 4),
        "psnr": round(ratio, 2),
        "iterations": round(steps, 1),
        **({"region_share": round(float(torch.cat(shares).mean()), 4)} if shares else {}),
    }


def measure_attacked(
    purifier: RSFP, baseline: nn.Module, batches: Iterable[Batch], attack: Attack, on_images: Callable[[int], None]
) -> Figures:
    """Figures over ``images`` under ``attack``: on the baseline, purified before it and not, and on the robust network.

    Accuracies in [0, 1], rounded to four decimals: ``baseline_clean``, ``baseline_attacked``, the same with
    ``_purified``, ``robust_attacked``, and of the class that an attacked image's cluster is of,
    ``cluster_class_attacked``; ``distance_mean`` of the attacked images. ``on_images`` hears three times of each batch:
    after either attack and after purification.
    """
    device, cluster_class = purifier.device, _cluster_class(purifier)
    hits, distances = _Hits(), []
    for batch in batches:
        images, labels = _floats(batch, device)
        on_baseline = _attacked(attack, baseline, images, labels)
        on_images(len(images))
        on_robust = _attacked(attack, purifier.network, images, labels)
        on_images(len(images))
        purified_clean, purified = purifier.purify(images), purifier.purify(on_baseline)
        with torch.no_grad():
            hits.add("baseline_clean", baseline(images).argmax(1), labels)
            hits.add("baseline_attacked", baseline(on_baseline).argmax(1), labels)
            hits.add("baseline_clean_purified", baseline(purified_clean.images).argmax(1), labels)
            hits.add("baseline_attacked_purified", baseline(purified.images).argmax(1), labels)
            hits.add("robust_attacked", purifier.network(on_robust).argmax(1), labels)
        hits.add("cluster_class_attacked", cluster_class[purified.cluster], labels)
        distances.append(purified.distance.cpu())
        on_images(len(images))
    return hits.figures(torch.cat(distances))


def _calibrated(distances: Tensor, quantile: float) -> Calibration:
    return Calibration(
        distance_threshold=float(torch.quantile(distances, quantile)),
        quantile=quantile,
        images=len(distances),
        quantiles=_curve(distances),
    )


def _curve(distances: Tensor) -> tuple[float, ...]:
    """The distances at equal steps of their number, to six digits."""
    steps = torch.linspace(0, 1, CURVE, dtype=torch.float64)
    return tuple(float(f"{value:.6g}") for value in torch.quantile(distances.double(), steps).tolist())


class _Hits:
    """Which images each classifier was right on."""

    def __init__(self) -> None:
        self.of: dict[str, list[bool]] = {}

    def add(self, name: str, predicted: Tensor, labels: Tensor) -> None:
        self.of.setdefault(name, []).extend((predicted == labels).tolist())

    def figures(self, distances: Tensor) -> Figures:
        accuracies = {name: round(sum(hits) / len(hits), 4) for name, hits in self.of.items()}
        return accuracies | {"images": len(distances), "distance_mean": round(float(distances.mean()), 3)}


def _cluster_class(purifier: RSFP) -> Tensor:
    return torch.tensor(purifier.bundle.manifest.cluster_class, device=purifier.device)


def _floats(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
    return batch.images.to(device).float() / 255, batch.labels.to(device)


def _attacked(attack: Attack, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return attack(network, images, labels, generator=torch.Generator().manual_seed(0))
