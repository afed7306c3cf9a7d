"""Non-local means: Buades, Coll, Morel, "A non-local algorithm for image denoising", CVPR 2005."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from raypurify.errors import ConfigError
from raypurify.purifiers.transform import Transform, each_image, optional_module


@dataclass(frozen=True)
class NonLocalMeans(Transform):
    """Non-local means: averages each pixel with those around it, weighted by how alike their patches are:

        w(i, j) = exp(−‖P_i − P_j‖² / h²), with the mean square over the patch's pixels and channels,

    for j in the ``search``² pixels around i and patches of ``patch``². The defaults, a window of 13, patches of 3, h =
    4/255, are Xu et al.'s for CIFAR-10 (feature squeezing, 2018; 11 for ImageNet). They call OpenCV, which works on 8
    bits and compares lightness and colour apart; this is scikit-image's fast ``denoise_nl_means`` on RGB. Needs the
    extra ``evaluation``.

    >>> import torch
    >>> NonLocalMeans().purify(torch.rand(1, 3, 9, 12)).images.shape
    torch.Size([1, 3, 9, 12])
    """

    search: int = 13
    patch: int = 3
    h: float = 4 / 255

    # scikit-image drops an axis of one pixel.
    min_size: ClassVar[int] = 2

    def __post_init__(self) -> None:
        for name, value in (("search", self.search), ("patch", self.patch)):
            if value not in range(1, 100, 2):
                raise ConfigError(f"{name}={value!r}: need an odd whole number from 1 to 99")
        if not 0 < self.h < math.inf:
            raise ConfigError(f"h={self.h!r}: need a finite number > 0")
        optional_module("skimage.restoration")

    def transform(self, images: Tensor) -> Tensor:
        denoise = optional_module("skimage.restoration").denoise_nl_means
        settings = {"patch_size": self.patch, "patch_distance": self.search // 2, "h": self.h, "channel_axis": -1}
        return each_image(images, lambda image: denoise(image, **settings))
