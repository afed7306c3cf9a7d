"""What the workers of one training do together when they measure: one network's statistics, means over all images."""

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
