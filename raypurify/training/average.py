"""The exponential moving average of a network's weights, which training may keep in place of the last ones."""

import copy

import torch
from torch import nn


def average_of(network: nn.Module) -> nn.Module:
    """A copy to average into, in evaluation mode and without gradients."""
    return copy.deepcopy(network).eval().requires_grad_(False)


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """w̄ ← d·w̄ + (1 − d)·w after optimiser step ``step`` (from 0); buffers, batch-norm's statistics, are copied.

    d = min(decay, (1 + step) / (10 + step)): a young average forgets faster, or it would hold the random weights of
    the beginning for 1/(1 − decay) steps (Polyak averaging as in TensorFlow's ExponentialMovingAverage).

    >>> average, network = nn.Linear(1, 1), nn.Linear(1, 1)
    >>> _ = nn.init.constant_(average.weight, 1), nn.init.constant_(network.weight, 2)
    >>> update_average(average, network, decay=0.75, step=100)
    >>> average.weight.item()
    1.25
    """
    d = min(decay, (1 + step) / (10 + step))
    for mean, weight in zip(average.parameters(), network.parameters()):
        mean.lerp_(weight, 1 - d)
    for kept, buffer in zip(average.buffers(), network.buffers()):
        kept.copy_(buffer)
