"""Feature squeezing: Xu, Evans, Qi, "Feature squeezing: detecting adversarial examples in deep neural networks", 2018.

Its squeezers as purifiers, without the detector that the paper builds on the change of the prediction.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from raypurify.csc.padding import pad_mirrored
from raypurify.errors import ConfigError
from raypurify.purifiers.transform import Transform

PIECE = 1 << 22
"""Values of windows that are written down together: those of an image are its pixels times ``size``²."""


@dataclass(frozen=True)
class BitDepth(Transform):
    """Bit depth reduction: rounds every value to one of 2^bits levels.

    round(x·(2^b − 1)) / (2^b − 1), halves to even, with b = ``bits`` from 1 to 8. Xu et al. try 5 and 4 on CIFAR-10 and
    ImageNet and keep 5.

    >>> import torch
    >>> BitDepth(bits=1).purify(torch.tensor([0.4, 0.6]).expand(1, 3, 1, 2)).images[0, 0]
    tensor([[0., 1.]])
    """

    bits: int = 5

    def __post_init__(self) -> None:
        if self.bits not in range(1, 9):
            raise ConfigError(f"bits={self.bits!r}: need a whole number from 1 to 8")

    def transform(self, images: Tensor) -> Tensor:
        steps = 2**self.bits - 1
        return (images * steps).round() / steps


@dataclass(frozen=True)
class Median(Transform):
    """Median filter: the median of the ``size``² pixels around each pixel, per channel, mirrored at the edge.

    An even window has its centre up and left of the pixel, and gives the upper of its two middle values: what Xu et al.
    get from ``scipy.ndimage.median_filter``. They try 2 and 3 on colour images and keep 2. Windows are taken
    a ``PIECE`` at a time, so that memory does not grow with ``size``, but where gradients are followed.

    >>> import torch
    >>> dot = torch.nn.functional.pad(torch.ones(1, 3, 1, 1), (2, 2, 2, 2))
    >>> Median(size=3).purify(dot).images.max()
    tensor(0.)
    """

    size: int = 2

    differentiable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.size not in range(2, 32):
            raise ConfigError(f"size={self.size!r}: need a whole number from 2 to 31")

    def transform(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        # Planes of their own, of which all windows are a view.
        planes = pad_mirrored(images, self.size // 2).contiguous().flatten(0, 1)
        windows = planes.unfold(1, self.size, 1).unfold(2, self.size, 1)[:, :height, :width]
        return _of_rank(windows, self.size**2 // 2 + 1).reshape(images.shape)


def _of_rank(windows: Tensor, rank: int) -> Tensor:
    """The value of this rank, from 1, in each of the windows, (n, H, W) of (n, H, W, h, w), which share pixels."""
    if windows.numel() <= max(PIECE, windows[:1, :1, :1].numel()):
        return windows.flatten(-2).kthvalue(rank).values
    axis = next(axis for axis, length in enumerate(windows.shape) if length > 1)
    return torch.cat([_of_rank(half, rank) for half in windows.chunk(2, axis)], axis)
