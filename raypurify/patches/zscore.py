"""Patch normalisation: the z-score over the patches of one image, dimension by dimension (RegionSparse, eq. 17)."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

# Of images in [0, 1]: what varies less is constant, but for rounding.
LEAST = 1e-6


class ZScore(NamedTuple):
    """The ``mean`` (d,) and the standard deviation ``scale`` (d,) of patches; 1 where they do not vary.

    Equation 17: Nor(P⁽ⁱ⁾) = (P⁽ⁱ⁾ − E P⁽ⁱ⁾) / √Var P⁽ⁱ⁾, expectation and variance over the patches of one image.

    >>> z = zscore_of([torch.tensor([[0.0, 1.0], [1.0, 1.0]])])
    >>> z.normal(torch.tensor([[1.0, 1.0]]))
    tensor([[1., 0.]], dtype=torch.float64)
    """

    mean: Tensor
    scale: Tensor

    def normal(self, patches: Tensor) -> Tensor:
        """The normalised patches (n, d)."""
        return (patches - self.mean) / self.scale

    def back(self, patches: Tensor) -> Tensor:
        """The patches (n, d) that ``normal`` made these of."""
        return patches * self.scale + self.mean


def zscore_of(bands: Iterable[Tensor]) -> ZScore:
    """The z-score of patches that come in bands (n, d), which are gone through once; differentiable, float64."""
    count, mean, spread = 0, torch.zeros(()), torch.zeros(())
    for band in bands:
        band = band.double()
        own = band.mean(0)
        apart, total = own - mean, count + len(band)
        # Chan, Golub, LeVeque (1979): the sums of two parts from those of each.
        spread = spread + (band - own).square().sum(0) + apart.square() * count * len(band) / total
        mean = mean + apart * len(band) / total
        count = total
    variance = spread / count
    varies = variance > LEAST**2
    return ZScore(mean, torch.where(varies, variance.where(varies, 1).sqrt(), 1))


def unchanged(patches: Tensor) -> ZScore:
    """What normalises nothing, for patches (n, d): mean 0 and scale 1.

    >>> unchanged(torch.rand(2, 3)).scale
    tensor([1., 1., 1.], dtype=torch.float64)
    """
    mean = torch.zeros(patches.shape[1], dtype=torch.float64, device=patches.device)
    return ZScore(mean, torch.ones_like(mean))
