"""A classifier, an attack and a purifier of one's own, for own_grid.yaml, which names them.

A grid runs the code that it names: load none from people whose code you would not run.
"""

from dataclasses import dataclass

import torch
from own_purifier import BoxBlur  # beside this file, or installed: both are found, here and on every worker
from torch import Tensor, nn

from raypurify.nets.normalised import Normalised

__all__ = ["BoxBlur", "SignNoise", "make"]


def make(width: int = 8, classes: int = 10) -> nn.Module:
    """A classifier takes images (N, 3, H, W) in [0, 1] and gives logits (N, classes); the grid's settings come here.

    This one has weights as they are drawn, the same in every process: give `weights` a file to fill it from.
    """
    hidden = nn.Conv2d(3, width, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()
    network = nn.Sequential(*hidden, nn.Linear(16 * width, classes))
    return Normalised(network, mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26))


@dataclass(frozen=True)
class SignNoise:
    """An attack perturbs images within `eps` in `norm`. This one knows nothing: it goes to random corners."""

    eps: float = 8 / 255
    norm: str = "linf"

    def __call__(self, model, images: Tensor, labels: Tensor, *, generator=None, loss=None) -> Tensor:
        signs = torch.randint(2, images.shape, generator=generator).to(images) * 2 - 1
        return (images + self.eps * signs).clamp(0, 1)
