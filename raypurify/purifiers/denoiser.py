"""A plain learned denoiser: what a defence gains over taking Gaussian noise away, at equal cost."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from raypurify.errors import ConfigError
from raypurify.nets.dncnn import DnCNN
from raypurify.purifiers.learned import Learned
from raypurify.purifiers.transform import check_seed, generator_of


@dataclass(frozen=True)
class Denoiser(Learned):
    """A small DnCNN (Zhang et al. 2017), trained to take away Gaussian noise of unknown size, and nothing else.

    x + n − f(x + n), f being what the network takes for noise, and n Gaussian noise of σ ``noise``, drawn by ``seed``
    and the image; 0 adds none. A perturbation is too weak to be taken for much noise, so that of the image as it comes
    the network takes little away; drowned in noise it goes with that, which is one draw of the denoised smoothing of
    Salman et al., "Denoised Smoothing", NeurIPS 2020.

    The shipped weights are of CIFAR-10 training images with noise of σ up to 55/255, the range of DnCNN-B in that
    paper, trained by ``benchmarks/denoisers.py``. Raises ConfigError for ``noise`` that is no number from 0 to 1.

    >>> Denoiser(noise=0.1).purify(torch.full((1, 3, 8, 8), 0.5)).images.shape
    torch.Size([1, 3, 8, 8])
    """

    noise: float = 0.0
    seed: int = 0

    network_class: ClassVar[type[nn.Module]] = DnCNN
    shipped: ClassVar[str] = "35450b31e740cb573d3e20c0ba8a289eec69d84dcc62dd0700e7e6ae7b361047"

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if not (math.isfinite(self.noise) and 0 <= self.noise <= 1):
            raise ConfigError(f"noise={self.noise!r}: σ of the noise is a number from 0 to 1")
        super().__post_init__()

    @property
    def random(self) -> bool:
        """Whether another seed can give another result."""
        return self.noise > 0

    def transform(self, images: Tensor) -> Tensor:
        if self.noise and len(images):
            pixels = images.detach().cpu().numpy()
            drawn = np.stack([generator_of(one, self.seed).standard_normal(one.shape, np.float32) for one in pixels])
            images = images + self.noise * torch.from_numpy(drawn).to(images.device)
        return super().transform(images)
