"""The batch that one step of training works on."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Images (N, 3, S, S) uint8, labels (N,), and for robust training the global index of each image's cluster (N,)."""

    images: Tensor
    labels: Tensor
    clusters: Tensor | None = None
