"""The bilateral filter: Tomasi, Manduchi, "Bilateral filtering for gray and color images", ICCV 1998."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from raypurify.errors import ConfigError
from raypurify.purifiers.transform import Transform
from raypurify.regions import LEAST_SIGMA, MOST_SIGMA

MAX_RADIUS = 16


@dataclass(frozen=True)
class Bilateral(Transform):
    """The bilateral filter: averages each pixel with those near to it in the image and in colour,

        y(p) = Σ_q w(p, q) x(q) / Σ_q w(p, q), w(p, q) = exp(−‖p − q‖² / 2σ_s² − ‖x(p) − x(q)‖² / 2σ_c²),

    over the (2 · ``radius`` + 1)² pixels q around p, with σ_s = ``sigma_space`` in pixels and σ_c = ``sigma_colour``
    over the three colours of an image in [0, 1]. The border is repeated outwards.

    >>> Bilateral().purify(torch.rand(1, 3, 9, 12)).images.shape
    torch.Size([1, 3, 9, 12])
    """

    radius: int = 2
    sigma_space: float = 1.5
    sigma_colour: float = 0.1

    differentiable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.radius, int) or self.radius not in range(1, MAX_RADIUS + 1):
            raise ConfigError(f"radius={self.radius!r}: need a whole number from 1 to {MAX_RADIUS}")
        for name in ("sigma_space", "sigma_colour"):
            if not LEAST_SIGMA <= getattr(self, name) <= MOST_SIGMA:
                raise ConfigError(f"{name}={getattr(self, name)!r}: need {LEAST_SIGMA:g} to {MOST_SIGMA:g}")

    def transform(self, images: Tensor) -> Tensor:
        reach, (height, width) = self.radius, images.shape[-2:]
        padded = F.pad(images, (reach,) * 4, mode="replicate")
        weights, sums = torch.zeros_like(images[:, :1]), torch.zeros_like(images)
        for down in range(2 * reach + 1):
            for along in range(2 * reach + 1):
                other = padded[..., down : down + height, along : along + width]
                far = ((down - reach) ** 2 + (along - reach) ** 2) / (2 * self.sigma_space**2)
                unlike = (other - images).square().sum(1, keepdim=True) / (2 * self.sigma_colour**2)
                weight = torch.exp(-far - unlike)
                weights, sums = weights + weight, sums + weight * other
        return sums / weights
