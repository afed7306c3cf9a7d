"""What goes around a classifier of somebody else, so that it takes images in [0, 1] and gives the classes asked for."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Normalised(nn.Module):
    """A classifier of standardised images, network((x − mean) / std), that takes images (N, 3, H, W) in [0, 1].

    ``size`` resizes images to a square first (bilinear, with antialiasing; differentiable); ``outputs`` are the logits
    to give, in this order, for images whose classes are some of the network's.

    >>> Normalised(nn.Flatten(), (0.5,) * 3, (1.0,) * 3, size=1, outputs=(2, 0))(torch.ones(1, 3, 4, 4))
    tensor([[0.5000, 0.5000]])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float] = (0.0,) * 3,
        std: Sequence[float] = (1.0,) * 3,
        size: int | None = None,
        outputs: Sequence[int] | None = None,
    ):
        super().__init__()
        self.network, self.size = network, size
        self.outputs = list(outputs) if outputs is not None else None
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        if self.size and images.shape[-2:] != (self.size, self.size):
            images = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        logits = self.network((images - self.mean) / self.std)
        return logits if self.outputs is None else logits[:, self.outputs]
