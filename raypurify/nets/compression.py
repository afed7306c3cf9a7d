"""ComDefend's two networks (Jia et al., CVPR 2019): an image becomes 12 bits a pixel, and an image again."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from raypurify.errors import ConfigError

BITS = 12
"""Bits of a pixel's code, half of the 24 of an image (Jia et al.)."""
# Channels of the layers between an image and its code, in units of the first one's.
_WIDTHS = (1, 2, 4, 8, 16, 8, 4, 2)


class CompressionNetwork(nn.Module):
    """ComCNN, which makes a code of 12 bits a pixel, and RecCNN, which makes an image of that.

    Each has nine 3×3 convolutions at full resolution with ELUs between them, of ``width`` times 1, 2, 4, 8, 16, 8, 4,
    2 channels, and the reverse; the released ones have width 16 and 1.6 million weights. With a = ComCNN(x − ½),
    n standard normal and σ = ``noise``:

        in training    y = RecCNN(s(σ(a + n)))    s the logistic function,
        else           y = RecCNN([a > 0]).

    Noise that large makes s(·) nearly 0 or 1, and a code that survives it one that rounding does not change. Theirs is
    s(a' + σn): here ComCNN's output counts in units of σ, which is the same network with a last layer that need not
    grow twentyfold.

    ``network(images)`` gives reconstructions (N, 3, H, W) in [0, 1], float32, of images of any size. The gradient of
    [a > 0] is taken to be that of its mean under the noise, Φ(a). Raises ConfigError for a width below 1, and unless
    ``noise`` is above 0 and finite.

    >>> CompressionNetwork(width=1).eval()(torch.rand(1, 3, 7, 9)).shape
    torch.Size([1, 3, 7, 9])
    """

    def __init__(self, width: int = 16, noise: float = 20.0):
        super().__init__()
        if width < 1 or not 0 < noise < math.inf:
            raise ConfigError(f"width={width}, noise={noise}: need at least one channel and finite noise above 0")
        self.settings = {"width": width, "noise": noise}
        self.noise = noise
        channels = [width * times for times in _WIDTHS]
        self.com = _convolutions([3, *channels, BITS])
        self.rec = _convolutions([BITS, *channels[:0:-1], channels[0], 3])

    def linear_code(self, images: Tensor) -> Tensor:
        """ComCNN's output a (N, 12, H, W), in units of the noise's σ."""
        return self.com(images.contiguous(memory_format=torch.channels_last) - 0.5).float()

    def reconstruction(self, code: Tensor) -> Tensor:
        """RecCNN's images (N, 3, H, W) in [0, 1] of codes (N, 12, H, W) in [0, 1]."""
        return torch.sigmoid(self.rec(code).float())

    def noisy_code(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The code (N, 12, H, W) that training sees, s(σ(a + n)) in [0, 1], with n drawn from ``generator``."""
        a = self.linear_code(images)
        noise = torch.randn(a.shape, generator=generator, device=a.device)
        return torch.sigmoid(self.noise * (a + noise))

    def code(self, images: Tensor) -> Tensor:
        """The code (N, 12, H, W) of zeros and ones, with the gradient of Φ(a)."""
        a = self.linear_code(images)
        bits = (a > 0).to(a)
        if not (torch.is_grad_enabled() and a.requires_grad):
            return bits
        smooth = torch.special.ndtr(a)
        return smooth + (bits - smooth).detach()

    def forward(
        self, images: Tensor, noisy: bool = False, generator: torch.Generator | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Reconstructions of images; with ``noisy``, as in training, together with their noisy codes."""
        if not noisy:
            return self.reconstruction(self.code(images))
        code = self.noisy_code(images, generator)
        return self.reconstruction(code), code


def _convolutions(channels: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ELU(inplace=True)]
    return nn.Sequential(*layers[:-1])
