"""Wide residual networks (Zagoruyko and Komodakis, BMVC 2016) whose pooled features are the latents R(x)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raypurify.errors import ConfigError
from raypurify.nets.encoder import Encoder
from raypurify.nets.precision import at_least_single

MEAN, STD = 0.5, 0.25


def blocks_per_group(depth: int) -> int:
    """Number of residual blocks in each of the three groups of a WRN of this depth.

    Two ways of counting are in use: 6n + 4 (Zagoruyko and Komodakis: WRN-16, WRN-28) and 6n + 2 (Madry et al. and
    RSFP's WRN-32-10, the network others call WRN-34-10). Raises ConfigError for a depth that is neither.

    >>> blocks_per_group(28), blocks_per_group(32), blocks_per_group(34)
    (4, 5, 5)
    """
    for offset in (4, 2):
        if depth > offset and (depth - offset) % 6 == 0:
            return (depth - offset) // 6
    raise ConfigError(f"network depth {depth} must be 6n + 4 (10, 16, 22, 28, 34, 70 …) or 6n + 2 (32 of the paper)")


class WideResNet(Encoder):
    """A WRN-depth-width for images (N, 3, H, W) in [0, 1]; the input is standardised inside.

    ``network(images)`` gives logits (N, classes); ``network.latents(images)`` gives R(x), the globally pooled features
    before the linear head (N, 64·width); ``network(images, with_latents=True)`` gives both from one pass.

    Raises ConfigError for a depth that is none (:func:`blocks_per_group`), without width or classes, and for a dropout
    out of range.

    >>> network = WideResNet(depth=10, width=1, classes=10)
    >>> network.latents(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 64])
    """

    def __init__(self, depth: int, width: int, classes: int, dropout: float = 0.0):
        super().__init__()
        if width < 1 or classes < 1 or not 0 <= dropout < 1:
            raise ConfigError(
                f"width={width}, classes={classes}, dropout={dropout}: need a width and a class, and 0 ≤ dropout < 1"
            )
        self.settings = {"depth": depth, "width": width, "classes": classes, "dropout": dropout}
        count, channels = blocks_per_group(depth), 16
        layers: list[nn.Module] = [_conv(3, channels, 1)]
        for group, planes in enumerate((16 * width, 32 * width, 64 * width)):
            for block in range(count):
                layers.append(_Block(channels, planes, 2 if group and block == 0 else 1, dropout))
                channels = planes
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.head = nn.Linear(channels, classes)
        self.dim = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.head.bias)

    def latents(self, images: Tensor) -> Tensor:
        """R(x): pooled features (N, dim), float32 under autocast, float64 of a network in double."""
        x = (images - MEAN) / STD
        x = self.features(x.contiguous(memory_format=torch.channels_last))
        return at_least_single(x).mean((2, 3))

    def forward(self, images: Tensor, with_latents: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        latents = self.latents(images)
        logits = self.head(latents)
        return (logits, latents) if with_latents else logits


class _Block(nn.Module):
    """Pre-activation basic block; the shortcut is a 1×1 convolution of the activated input where shapes change."""

    def __init__(self, channels: int, planes: int, stride: int, dropout: float):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), _conv(channels, planes, stride)
        self.norm2, self.conv2 = nn.BatchNorm2d(planes), _conv(planes, planes, 1)
        self.dropout = dropout
        self.shortcut = nn.Conv2d(channels, planes, 1, stride, bias=False) if channels != planes or stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(x))
        skip = x if self.shortcut is None else self.shortcut(h)
        h = F.relu(self.norm2(self.conv1(h)))
        if self.dropout:
            h = F.dropout(h, self.dropout, self.training)
        return self.conv2(h) + skip


def _conv(channels: int, planes: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, planes, 3, stride, 1, bias=False)
