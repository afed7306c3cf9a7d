"""Small planted problems that the training tests share."""

import torch

from raypurify.training import Batch

SIDE = 16


def planted(count: int, seed: int = 0, contrast: float = 0.15) -> Batch:
    """Two classes that differ in the direction of their stripes, under noise; the cluster of an image is its class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    stripes = torch.sin(torch.arange(SIDE) * 1.5)
    patterns = torch.stack([stripes[:, None].expand(SIDE, SIDE), stripes[None].expand(SIDE, SIDE)])
    images = 0.5 + contrast * patterns[labels][:, None] + 0.1 * torch.randn(count, 3, SIDE, SIDE, generator=generator)
    return Batch((images.clamp(0, 1) * 255).to(torch.uint8), labels, labels.clone())


def cut(batch: Batch, size: int, order: torch.Tensor | None = None):
    """A batch in batches of ``size``."""
    order = torch.arange(len(batch.labels)) if order is None else order
    for at in order.split(size):
        yield Batch(batch.images[at], batch.labels[at], batch.clusters[at])


def clone(tree):
    """A copy of a checkpoint, as writing and reading it would make."""
    if isinstance(tree, torch.Tensor):
        return tree.clone()
    if isinstance(tree, dict):
        return {key: clone(value) for key, value in tree.items()}
    return [clone(value) for value in tree] if isinstance(tree, list) else tree
