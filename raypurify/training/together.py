"""What the workers of one training do together: one network's statistics, means and sums over all, one gradient."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def frozen_statistics(network: nn.Module, together: bool) -> None:
    """Put a network into evaluation mode, ``together`` with the first worker's batch-norm statistics on all workers."""
    network.eval()
    if together:
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, 0)


def mean_over_workers(figures: dict[str, float], images: float, network: nn.Module) -> dict[str, float]:
    """Means over the images of all workers, of figures that are means over this worker's ``images``."""
    sums: Tensor = torch.tensor([*figures.values(), 1.0], dtype=torch.float64) * images
    sums = sums.to(next(network.parameters()).device)
    torch.distributed.all_reduce(sums)
    return dict(zip(figures, (sums[:-1] / sums[-1].clamp(min=1)).tolist()))


def sum_over_workers(values: Tensor) -> Tensor:
    """The sum over all workers of what each has; they all get it."""
    total = values.clone()
    torch.distributed.all_reduce(total)
    return total


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give parameters that no wrapper keeps in step the mean over the workers of their gradients, those that have one.

    On every worker the same ones must have one.
    """
    world = torch.distributed.get_world_size()
    for parameter in parameters:
        if parameter.grad is not None:
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= world
