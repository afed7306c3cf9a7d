"""Pairs and triplets in a batch: for every image one of its own class, and one of another."""

import torch
from torch import Tensor


def partners(labels: Tensor, same: bool) -> tuple[Tensor, Tensor]:
    """For each image of a batch the next one, around the end, of its own class or of another: its position (N,), and
    whether there is one, (N,) bool.

    Batches are in random order, so that these are random pairs, and need no generator.

    >>> partners(torch.tensor([0, 1, 0, 0]), same=True)
    (tensor([2, 1, 3, 0]), tensor([ True, False,  True,  True]))
    """
    count = len(labels)
    at = torch.arange(count, device=labels.device)
    # Column s of a row is what stands s + 1 places further.
    later = (at[:, None] + 1 + at[None, : count - 1]) % count
    fits = (labels[later] == labels[:, None]) == same
    some = fits.any(1)
    first = later.gather(1, fits.int().argmax(1, keepdim=True))[:, 0] if count > 1 else at
    return torch.where(some, first, at), some


def squared_distance(features: Tensor, others: Tensor) -> Tensor:
    """‖f − g‖² (N,) of features (N, d) and others (N, d)."""
    return (features - others).square().sum(1)
