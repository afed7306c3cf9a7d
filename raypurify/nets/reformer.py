"""MagNet's auto-encoder (Meng and Chen, CCS 2017, section 4.2), which its reformer sends every image through."""

import torch
from torch import Tensor, nn

from raypurify.errors import ConfigError


class Reformer(nn.Module):
    """An auto-encoder without a bottleneck: 3×3 convolutions, each with a sigmoid: two to ``width`` channels, one to 3.

    That is MagNet's for CIFAR-10. Public reproductions of it have as few as 3 channels; 32, the width of STL's
    auto-encoder, rebuilds more of an image.

    ``network(images)`` gives reconstructions (N, 3, H, W) in [0, 1], float32, of images of any size. Raises ConfigError
    for a width below 1.

    >>> Reformer(width=2).eval()(torch.rand(1, 3, 7, 9)).shape
    torch.Size([1, 3, 7, 9])
    """

    def __init__(self, width: int = 32):
        super().__init__()
        if width < 1:
            raise ConfigError(f"width={width}: an auto-encoder needs at least one channel")
        self.settings = {"width": width}
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.Sigmoid(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.Sigmoid(),
            nn.Conv2d(width, 3, 3, padding=1),
        )

    def forward(self, images: Tensor) -> Tensor:
        return torch.sigmoid(self.layers(images.contiguous(memory_format=torch.channels_last)).float())
