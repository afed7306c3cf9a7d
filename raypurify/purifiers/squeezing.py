"""Feature squeezing: Xu, Evans, Qi, "Feature squeezing: detecting adversarial examples in deep neural networks", 2018.

Its squeezers as purifiers, without the detector that the paper builds on the change of the prediction.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from raypurify.csc.padding import pad_mirrored
from raypurify.errors import ConfigError
from raypurify.purifiers.transform import Transform


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
    get from ``scipy.ndimage.median_filter``. They try 2 and 3 on colour images and keep 2.

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
        padded = pad_mirrored(images, self.size // 2)
        windows = padded.unfold(2, self.size, 1).unfold(3, self.size, 1)[:, :, :height, :width]
        return windows.flatten(-2).kthvalue(self.size**2 // 2 + 1).values
