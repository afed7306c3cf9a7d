"""Accuracy and distance of a network on held-out images, clean and attacked."""

from collections.abc import Iterable

import torch
from torch import nn

from raypurify.attacks.base import Attack
from raypurify.clusters import ClusterDistributions
from raypurify.training.batch import Batch
from raypurify.training.together import frozen_statistics, mean_over_workers


def measure(
    network: nn.Module,
    batches: Iterable[Batch],
    *,
    attack: Attack | None = None,
    distributions: ClusterDistributions | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """``accuracy`` in [0, 1], ``images`` counted, and the mean ``distance`` to the nearest cluster when asked for.

    With an attack, each image is first replaced by its adversarial image against this very network.
    """
    network.eval()
    device = next(network.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    hits = count = 0
    distance = 0.0
    for batch in batches:
        images, labels = batch.images.to(device, torch.float32).div_(255), batch.labels.to(device)
        if attack is not None:
            images = attack(network, images, labels, generator=generator)
        with torch.no_grad():
            if distributions is None:
                logits = network(images)
            else:
                logits, latents = network(images, with_latents=True)
            hits += int((logits.argmax(1) == labels).sum())
            if distributions is not None:
                distance += float(distributions.nearest(latents)[1].sum())
        count += len(labels)
    figures = {"accuracy": hits / max(1, count), "images": count}
    return figures | ({"distance": distance / max(1, count)} if distributions is not None else {})


def validate(
    network: nn.Module,
    batches: Iterable[Batch],
    attack: Attack | None = None,
    distributions: ClusterDistributions | None = None,
    *,
    seed: int = 0,
    together: bool = False,
) -> dict[str, float]:
    """An epoch's figures on held-out images: ``validation_accuracy``, and ``validation_distance`` to the nearest
    cluster where ``distributions`` are given; under ``attack``, a multi-step one, where that is given, the same as
    ``validation_pgd_accuracy`` and ``validation_pgd_distance``.

    With ``together`` every worker of torch's default process group must call, each with its share of the images; all
    get the figures over all of them, of the first worker's network (the others' batch-norm statistics may be a step
    ahead or behind).
    """
    frozen_statistics(network, together)
    batches = list(batches)
    figures: dict[str, float] = {}
    for name, perturb in {"validation_": None, **({"validation_pgd_": attack} if attack else {})}.items():
        found = measure(network, batches, attack=perturb, distributions=distributions, seed=seed)
        images = found.pop("images")
        found = mean_over_workers(found, images, network) if together else found
        figures |= {name + key: value for key, value in found.items()}
    return figures
