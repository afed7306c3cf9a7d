"""Accuracy and distance of a network on held-out images, clean and attacked."""

from collections.abc import Iterable

import torch
from torch import nn

from raypurify.attacks.base import Attack
from raypurify.clusters import ClusterDistributions
from raypurify.training.loop import Batch


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
            logits, latents = network(images, with_latents=True)
            hits += int((logits.argmax(1) == labels).sum())
            if distributions is not None:
                distance += float(distributions.nearest(latents)[1].sum())
        count += len(labels)
    figures = {"accuracy": hits / max(1, count), "images": count}
    return figures | ({"distance": distance / max(1, count)} if distributions is not None else {})
