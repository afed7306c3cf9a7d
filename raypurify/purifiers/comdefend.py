"""Jia et al., "ComDefend: an efficient image compression model to defend adversarial examples", CVPR 2019."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from raypurify.nets.compression import CompressionNetwork
from raypurify.purifiers.learned import Learned


@dataclass(frozen=True)
class ComDefend(Learned):
    """ComDefend: an image from a code of 12 bits a pixel, half of its own 24.

    Two networks (:class:`~raypurify.nets.compression.CompressionNetwork`), trained together on clean images: what a
    code of so few bits has no room for is to be the perturbation. Where the released code adds noise of σ 1 to the
    code before it rounds, nothing is drawn here, so that the same image gives the same result; training drowns the code
    in twenty times as much. Images of any size are coded as a whole, where theirs are cut into blocks of 32². Rounding
    has no gradient: what an attacker follows is that of the code's mean under the noise of training.

    The shipped weights are of CIFAR-10 training images, of a quarter of the paper's channels, trained by
    ``benchmarks/denoisers.py``.

    >>> import torch
    >>> ComDefend().purify(torch.full((1, 3, 8, 8), 0.5)).images.shape
    torch.Size([1, 3, 8, 8])
    """

    network_class: ClassVar[type[nn.Module]] = CompressionNetwork
    shipped: ClassVar[str] = "d7029ca53fd810538c619162dbc73069cc2cc52b82e9143903401def51f8addd"
