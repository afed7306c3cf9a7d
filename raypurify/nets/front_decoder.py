"""The decoder of the sparse front end (Bakiskan et al., section 2.3): from codes of patches to images."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import relu

from raypurify.errors import ConfigError

AROUND = 2
"""Pixels that the two 3×3 convolutions after the first put around the image, and by which they look around."""


class FrontDecoder(nn.Module):
    """The decoder: three transposed convolutions with a ReLU after each, cut to the image's size and clipped to [0, 1].

    Bakiskan et al., section 2.3, which gives no sizes; those of the authors' code for 32² images are L → 300 channels
    of 4×4 with stride 2, 300 → 100 → 3 of 3×3 with stride 1, and the middle is kept. Here the first has the ``size``
    and the ``stride`` of the patches, which is the same for theirs, so that a patch's code is put where the patch was
    for patches of any size. ``channels`` are the two between. ``decoder(code, (H, W))`` gives images (N, 3, H, W)
    float32 of codes (N, L, m, n) that :class:`~raypurify.nets.front_encoder.FrontEncoder` made of images of that size.

    Raises ConfigError for channels below 1, or a stride that leaves pixels out.

    >>> import torch
    >>> FrontDecoder(atoms=20, size=4, stride=2, channels=(8, 4))(torch.randn(1, 20, 3, 4), (8, 9)).shape
    torch.Size([1, 3, 8, 9])
    """

    def __init__(self, atoms: int = 500, size: int = 4, stride: int = 2, channels: Sequence[int] = (300, 100)):
        super().__init__()
        if min(atoms, *channels) < 1 or len(channels) != 2 or not 1 <= stride <= size:
            raise ConfigError(
                f"atoms={atoms}, channels={tuple(channels)}, size={size}, stride={stride}: need two numbers of "
                "channels, each at least 1, and a stride from 1 to the patch's size"
            )
        first, second = channels
        self.placed = nn.ConvTranspose2d(atoms, first, size, stride)
        self.mixed = nn.ConvTranspose2d(first, second, 3)
        self.coloured = nn.ConvTranspose2d(second, 3, 3)

    def forward(self, code: Tensor, size: tuple[int, int]) -> Tensor:
        hidden = relu(self.mixed(relu(self.placed(code))))
        grown = relu(self.coloured(hidden).float())
        height, width = size
        return grown[..., AROUND : AROUND + height, AROUND : AROUND + width].clamp(max=1)
