"""What a network gives that images are clustered by: latents."""

from abc import abstractmethod
from typing import Any

from torch import Tensor, nn


class Encoder(nn.Module):
    """A network with latents: of images (N, 3, H, W) in [0, 1] it gives ``latents(images)``, (N, dim) float32.

    ``settings`` are the arguments that make another of its architecture; ``dim`` is the number of latents.
    """

    settings: dict[str, Any]
    dim: int

    @abstractmethod
    def latents(self, images: Tensor) -> Tensor:
        """The latents (N, dim) of images (N, 3, H, W) in [0, 1]."""
