"""Crop-Ens: crops, total variation and quilting together (Guo et al., ICLR 2018, as STL compares with it)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from raypurify.errors import ConfigError
from raypurify.purifiers.quilting import Quilting
from raypurify.purifiers.transform import check_whole, generator_of
from raypurify.purifiers.tvm import TotalVariation

MOST_CROPS = 1000
PIXELS = 1 << 22
"""Pixels of the crops, at the image's size, that are purified together; of larger images it is one crop."""


@dataclass(frozen=True)
class CropEnsemble(Quilting):
    """The mean of an image's crops, each enlarged, purified by total variation and by quilting, and put back.

    Guo et al. cut ``crops`` random crops of ``crop`` of an image's side, rescale each to the size that the classifier
    takes, and average what it says of all; their ensembles average that over defences, too: "Crop-Ens" is STL's name
    for cropping with TVM and quilting. A purifier gives one image of the size that it got, so here:

    1. ``crops`` crops at places drawn by ``seed`` and the image, enlarged to its size (bilinear), and the image itself,
       without which some pixels would be in no crop;
    2. each through :class:`~raypurify.purifiers.tvm.TotalVariation` (``drop``, ``lmbda``, ``steps``) and through
       :class:`~raypurify.purifiers.quilting.Quilting` (``bank``, ``patch``, ``overlap``, ``neighbours``, ``patches``);
       the mean of both;
    3. each shrunk to where it was cut (antialiased); every pixel is the mean of all that cover it.

    The classifier sees one image and not thirty: what it would gain from seeing a part of the image enlarged, and from
    a vote, is not in this. What remains is the mean over defences that see the perturbation at another scale and grid.
    Theirs are 30 crops of 90 of 224 pixels; each costs as much as TVM and quilting of the image. There are 1000 at
    most, and no more are enlarged at a time than ``PIXELS`` hold: memory does not grow with ``crops``.

    >>> CropEnsemble(crops=2, steps=5, patches=500).purify(torch.rand(1, 3, 9, 12)).images.shape
    torch.Size([1, 3, 9, 12])
    """

    crop: float = 90 / 224
    crops: int = 30
    drop: float = 0.5
    lmbda: float = 0.03
    steps: int = 200

    shipped: ClassVar[str] = Quilting.shipped

    def __post_init__(self) -> None:
        if not 0 < self.crop < 1:
            raise ConfigError(f"crop={self.crop!r}: need 0 < crop < 1")
        check_whole("crops", self.crops, 1, MOST_CROPS)
        variation = TotalVariation(self.drop, self.lmbda, self.steps, self.seed)
        super().__post_init__()
        object.__setattr__(self, "_variation", variation)
        object.__setattr__(self, "min_size", max(self.patch, variation.min_size))

    def transform(self, images: Tensor) -> Tensor:
        return torch.stack([self._mean(image) for image in images]) if len(images) else images.clone()

    def _mean(self, image: Tensor) -> Tensor:
        size = tuple(image.shape[-2:])
        height, width = (max(1, math.floor(self.crop * side)) for side in size)
        rng = generator_of(image.detach().cpu().numpy(), self.seed)
        tops, lefts = (rng.integers(side - part + 1, size=self.crops) for side, part in zip(size, (height, width)))
        places = [(..., slice(top, top + height), slice(left, left + width)) for top, left in zip(tops, lefts)]
        total, count = self._purified(image[None])[0], torch.ones_like(image)
        some = max(1, PIXELS // (size[0] * size[1]))
        for start in range(0, self.crops, some):
            of = places[start : start + some]
            parts = torch.stack([image[place] for place in of])
            purified = self._purified(F.interpolate(parts, size, mode="bilinear"))
            small = F.interpolate(purified, (height, width), mode="bilinear", antialias=True)
            for place, part in zip(of, small):
                total[place] += part
                count[place] += 1
        return total / count

    def _purified(self, images: Tensor) -> Tensor:
        """The mean of what both defences make of images (n, 3, H, W)."""
        images = images.clamp(0, 1)
        variation: TotalVariation = self._variation  # type: ignore[attr-defined]  # frozen: set above
        return (variation.transform(images) + super().transform(images)) / 2
