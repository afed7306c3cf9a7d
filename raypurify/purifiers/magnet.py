"""MagNet's reformer: Meng and Chen, "MagNet: a two-pronged defense against adversarial examples", CCS 2017.

The reformer as a purifier, without the detectors that the paper puts before it.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from raypurify.nets.reformer import Reformer
from raypurify.purifiers.learned import Learned


@dataclass(frozen=True)
class MagNet(Learned):
    """The reconstruction of an image by an auto-encoder trained on slightly noised images (section 4.2 of MagNet).

    What an image has beside the manifold of clean images is to get lost on the way. The shipped weights are of CIFAR-10
    training images with noise of σ 0.025, trained by ``benchmarks/denoisers.py``; STL and RSFP compare with this.

    >>> import torch
    >>> MagNet().purify(torch.full((1, 3, 8, 8), 0.5)).images.shape
    torch.Size([1, 3, 8, 8])
    """

    network_class: ClassVar[type[nn.Module]] = Reformer
    shipped: ClassVar[str] = "eadbc20c209f358208b8bec6b410ccdc39585c7d5f991533ff5d1a8e16526ff2"
