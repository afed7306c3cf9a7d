"""Pixel deflection: Prakash et al., "Deflecting adversarial attacks with pixel deflection", CVPR 2018."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from raypurify.errors import ConfigError
from raypurify.purifiers.transform import (
    Transform,
    check_seed,
    check_whole,
    each_image,
    generator_of,
    optional_module,
)

# As far as sides reach.
MOST_WINDOW = 1 << 16


@dataclass(frozen=True)
class PixelDeflection(Transform):
    """Pixel deflection: replaces pixels by random neighbours, then removes that noise, and some of the attack's.

    1. K = max(1, round(``share``·H·W)) times: I'[p] = I[n], p uniform over the image, n uniform over the part of the
       (2·``window`` + 1)² square around p that lies in it (algorithm 1 of the paper).
    2. Wavelet shrinkage, BayesShrink with soft thresholds for noise of deviation ``sigma`` in YCbCr: scikit-image's
       ``denoise_wavelet``.

    Without the paper's robust activation map, which tells from the classifier which pixels to spare
    (:class:`~raypurify.purifiers.deflection_ensemble.DeflectionEnsemble` has it): this is its variant that deflects
    everywhere alike. The defaults are those of the released code, 200 of 224×224 pixels, window
    10, σ = 0.04; stating K as a share of the pixels makes them fit images of any size. Needs the extra ``evaluation``.

    >>> import torch
    >>> PixelDeflection().purify(torch.rand(1, 3, 16, 16)).images.shape
    torch.Size([1, 3, 16, 16])
    """

    share: float = 200 / 224**2
    window: int = 10
    sigma: float = 0.04
    seed: int = 0

    # One level of wavelets needs two pixels.
    min_size: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if not (0 < self.share <= 1 and 0 < self.sigma < math.inf):
            raise ConfigError(f"share={self.share!r}, sigma={self.sigma!r}: need 0 < share ≤ 1, sigma > 0 and finite")
        check_whole("window", self.window, 1, MOST_WINDOW)
        optional_module("skimage.restoration")
        optional_module("pywt")

    def transform(self, images: Tensor) -> Tensor:
        return each_image(images, lambda image: self._purified(image, generator_of(image, self.seed)))

    def _purified(self, image: np.ndarray, rng: np.random.Generator, spared: np.ndarray | None = None) -> np.ndarray:
        """One draw of ``rng``, deflected and denoised."""
        height, width = image.shape[:2]
        count = max(1, round(self.share * height * width))
        deflected = deflect(image, count, self.window, rng, spared)
        settings = {"sigma": self.sigma, "mode": "soft", "method": "BayesShrink", "convert2ycbcr": True}
        return optional_module("skimage.restoration").denoise_wavelet(deflected, channel_axis=-1, **settings)


def deflect(
    image: np.ndarray, count: int, window: int, rng: np.random.Generator, spared: np.ndarray | None = None
) -> np.ndarray:
    """A copy of ``image`` (H, W, 3) with ``count`` pixels, drawn with repetition, replaced by a neighbour's value.

    Which ones is uniform, or with ``spared`` (H, W) in [0, 1] proportional to 1 − spared: what Prakash et al. get by
    drawing uniformly and passing a pixel over with that probability. It must not be 1 everywhere.

    >>> image = np.arange(48.0).reshape(4, 4, 3)
    >>> int((deflect(image, 1, 2, np.random.default_rng(0)) != image).any(2).sum())
    1
    """
    drawn = None
    if spared is not None:
        chance = (1 - spared.astype(np.float64)).ravel()
        drawn = np.unravel_index(rng.choice(len(chance), size=count, p=chance / chance.sum()), spared.shape)
    places, neighbours = [], []
    for axis, side in enumerate(image.shape[:2]):
        place = rng.integers(side, size=count) if drawn is None else drawn[axis]
        places.append(place)
        # The part of a square within the image is a rectangle, so each axis is uniform on its own.
        neighbours.append(rng.integers(np.maximum(place - window, 0), np.minimum(place + window, side - 1) + 1))
    deflected = image.copy()
    deflected[tuple(places)] = image[tuple(neighbours)]
    return deflected
