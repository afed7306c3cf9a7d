"""A plain learned denoiser: what a defence gains over taking Gaussian noise away, at equal cost."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from raypurify.nets.dncnn import DnCNN
from raypurify.purifiers.learned import Learned


@dataclass(frozen=True)
class Denoiser(Learned):
    """A small DnCNN (Zhang et al. 2017), trained to take away Gaussian noise of unknown size, and nothing else.

    x − f(x), f being what the network takes for noise. The shipped weights are of CIFAR-10 training images with noise
    of σ up to 55/255, the range of DnCNN-B in that paper, trained by ``benchmarks/denoisers.py``.

    >>> import torch
    >>> Denoiser().purify(torch.full((1, 3, 8, 8), 0.5)).images.shape
    torch.Size([1, 3, 8, 8])
    """

    network_class: ClassVar[type[nn.Module]] = DnCNN
    shipped: ClassVar[str] = "35450b31e740cb573d3e20c0ba8a289eec69d84dcc62dd0700e7e6ae7b361047"
