"""JPEG compression: Guo et al., "Countering adversarial images using input transformations", ICLR 2018."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor

from raypurify.errors import ConfigError
from raypurify.images import to_float, to_pixels
from raypurify.purifiers.transform import Transform, each_image


@dataclass(frozen=True)
class JPEG(Transform):
    """JPEG compression: rounds to 8 bits, encodes at ``quality`` (1 to 100; Guo et al. take 75), decodes again.

    Pillow's encoder with its default settings: 4:2:0, so colour is kept at half the resolution.

    >>> import torch
    >>> JPEG().purify(torch.full((1, 3, 9, 8), 0.2)).images.unique()
    tensor([0.2000])
    """

    quality: int = 75

    def __post_init__(self) -> None:
        if self.quality not in range(1, 101):
            raise ConfigError(f"quality={self.quality!r}: JPEG quality is a whole number from 1 to 100")

    def transform(self, images: Tensor) -> Tensor:
        return each_image(images, self._compressed)

    def _compressed(self, image: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(to_pixels(image.transpose(2, 0, 1))).save(file, format="JPEG", quality=self.quality)
        return to_float(np.asarray(Image.open(file))).transpose(1, 2, 0)
