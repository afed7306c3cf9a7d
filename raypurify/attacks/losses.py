"""Losses that attacks raise: cross-entropy, the margin, and the difference of logits ratio, one value per image."""

import math

from torch import Tensor
from torch.nn.functional import cross_entropy

from raypurify.attacks.base import Loss
from raypurify.errors import ConfigError, DataError


def ce(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy −log softmax(Z)_y of each image (N,).

    >>> import torch
    >>> ce(torch.zeros(1, 2), torch.tensor([0]))
    tensor([0.6931])
    """
    return cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """By how much the best other class beats the label, (N,): max over i ≠ y of Z_i, less Z_y.

    >>> import torch
    >>> margin(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([1]))
    tensor([-1.])
    """
    own = labels[:, None]
    return logits.scatter(1, own, -math.inf).amax(1) - logits.gather(1, own)[:, 0]


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """The difference of logits ratio (max_{i≠y} Z_i − Z_y) / (Z_π1 − Z_π3) of each image (N,), Z_π sorted downwards.

    Croce and Hein, ICML 2020, eq. 6: unlike cross-entropy it changes neither with the scale of the logits nor with
    their shift, so that a confident classifier does not make its gradient vanish. Raises DataError below 3 classes.

    >>> import torch
    >>> dlr(torch.tensor([[4.0, 3.0, 2.0]]), torch.tensor([0]))
    tensor([-0.5000])
    """
    if logits.shape[1] < 3:
        raise DataError(f"{logits.shape[1]} classes: the loss dlr compares three; attack with loss margin")
    top = logits.topk(3, dim=1).values
    return margin(logits, labels) / (top[:, 0] - top[:, 2] + 1e-12)


LOSSES: dict[str, Loss] = {"ce": ce, "margin": margin, "dlr": dlr}
"""The losses that settings of attacks name."""


def loss_of(name: str) -> Loss:
    """The loss of that name in ``LOSSES``. Raises ConfigError for another."""
    if name not in LOSSES:
        raise ConfigError(f"loss={name!r}: choose one of {', '.join(LOSSES)}")
    return LOSSES[name]


def values(loss: Loss, logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of each image (N,). Raises DataError where ``loss`` gives anything else, such as a sum."""
    each = loss(logits, labels)
    if each.shape != labels.shape:
        raise DataError(f"the attack needs the loss of each image, and got shape {tuple(each.shape)}")
    return each
