"""Random resizing and padding: Xie et al., "Mitigating adversarial effects through randomization", ICLR 2018."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from raypurify.errors import ConfigError
from raypurify.purifiers.transform import Transform, check_seed, generator_of


@dataclass(frozen=True)
class ResizePad(Transform):
    """Random resizing and padding: scales the image to a random size below its own, at a random place on black.

    Xie et al. enlarge 299² to a random size from 299 to 330 and pad with zeros to 331², because their classifier takes
    images of any size. A purifier gives back the size that it got, so here the canvas has that size, and the image is
    scaled to between ``smallest`` of it, 299/331 as in the paper, and one pixel less: the share of the canvas that the
    image fills, and where, is distributed as theirs; what the scaling down loses (bilinear, antialiased) is not in
    their method.

    >>> ResizePad().purify(torch.ones(1, 3, 32, 32)).images.min()
    tensor(0.)
    """

    smallest: float = 299 / 331
    seed: int = 0

    # Of two pixels one can be left.
    min_size: ClassVar[int] = 2
    differentiable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if not 0 < self.smallest < 1:
            raise ConfigError(f"smallest={self.smallest!r}: need 0 < smallest < 1")

    def transform(self, images: Tensor) -> Tensor:
        return torch.stack([self._placed(image) for image in images]) if len(images) else images

    def _placed(self, image: Tensor) -> Tensor:
        rng = generator_of(image.detach().cpu().numpy(), self.seed)
        height, width = image.shape[-2:]
        longest = max(height, width)
        least = max(1, min(math.ceil(self.smallest * longest), longest - 1))
        scale = rng.integers(least, longest) / longest
        new_height, new_width = (max(1, round(side * scale)) for side in (height, width))
        top, left = int(rng.integers(height - new_height + 1)), int(rng.integers(width - new_width + 1))
        small = F.interpolate(image[None], (new_height, new_width), mode="bilinear", antialias=True)[0]
        return F.pad(small, (left, width - new_width - left, top, height - new_height - top))
