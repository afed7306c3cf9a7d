"""The one contract of every purifier: bulk jobs, the endpoint, the evaluation and notebooks call the same object."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Purified:
    """Purified images and what was done to each of them.

    images: (N, 3, H, W) float32 in [0, 1], the size of the input;
    cluster: (N,) global index of the cluster whose dictionary was used;
    distance: (N,) Mahalanobis distance of the latent to that cluster;
    flagged: (N,) True where the distance exceeds the calibrated clean quantile;
    relative_change: (N,) ‖purified − input‖₂ / ‖input‖₂ (0 for a black image);
    iterations: (N,) solver iterations.
    """

    images: Tensor
    cluster: Tensor
    distance: Tensor
    flagged: Tensor
    relative_change: Tensor
    iterations: Tensor


class Purifier(Protocol):
    """Anything with ``purify(images)``: (N, 3, H, W) float in [0, 1] → Purified; same input, same output."""

    def purify(self, images: Tensor) -> Purified: ...
