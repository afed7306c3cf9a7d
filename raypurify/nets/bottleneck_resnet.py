"""ResNet of bottlenecks for small images: the ResNet-110 of PCL (Mustafa et al., Table 1), for CIFAR and SVHN."""

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from raypurify.errors import ConfigError
from raypurify.nets.encoder import Encoder
from raypurify.nets.precision import at_least_single
from raypurify.nets.wide_resnet import MEAN, STD

EXPANSION = 4
FEATURES = 1024


class BottleneckResNet(Encoder):
    """ResNet-``depth`` of three groups of n bottleneck blocks, then FC(1024) and the linear head: depth 9n + 2.

    The layers of PCL's Table 1, and what each gives of images of 32²::

        1   Conv(16, 3×3), batch norm, ReLU                                16 × 32²
        2   n blocks of Conv(16, 1×1), Conv(16, 3×3), Conv(64, 1×1)        64 × 32²
        3   n blocks of 32, 32 and 128 channels                            128 × 16²
        4   n blocks of 64, 64 and 256, global average pool                256
        5   FC(1024), whose output are the latents                         1024
        6   the head, FC(classes)                                          classes

    Depth 110 is the table's, 12 blocks a group: 1,418,586 parameters for 10 classes. The network that its authors'
    code calls ResNet-110 has 18, which are 164 layers: 1,975,002 parameters. Batch norm is behind each convolution; a
    block's shortcut is a 1×1 convolution with batch norm where shapes change (He et al. 2016, option B). Nothing is
    between FC(1024) and the head, and no pool in layer 1, whose "ReLU(2 × 2)" the code has none for either.

    ``network(images)`` gives logits (N, classes) of images (N, 3, H, W) in [0, 1], standardised inside;
    ``network.latents(images)`` the features before the head (N, 1024), and ``network(images, with_latents=True)``
    both. Raises ConfigError for another depth, and for fewer classes than 2.

    >>> network = BottleneckResNet(depth=11).eval()
    >>> network(torch.rand(1, 3, 32, 32)).shape, network.latents(torch.rand(1, 3, 32, 32)).shape
    (torch.Size([1, 10]), torch.Size([1, 1024]))
    """

    dim = FEATURES

    def __init__(self, depth: int, classes: int = 10):
        super().__init__()
        if depth < 11 or (depth - 2) % 9:
            raise ConfigError(f"depth={depth}: a ResNet of bottlenecks must have 9n + 2 layers: 11, 20, 110, 164, …")
        if classes < 2:
            raise ConfigError(f"classes={classes}: a classifier needs at least two")
        self.settings = {"depth": depth, "classes": classes}
        blocks, channels = (depth - 2) // 9, 16
        self.first = _normed(3, channels, 3)
        groups = []
        for group in range(3):
            planes, layers = 16 * 2**group, []
            for block in range(blocks):
                layers.append(_Bottleneck(channels, planes, 2 if group and block == 0 else 1))
                channels = EXPANSION * planes
            groups.append(nn.Sequential(*layers))
        self.groups = nn.Sequential(*groups)
        self.features = nn.Linear(channels, FEATURES)
        self.head = nn.Linear(FEATURES, classes)

    def latents(self, images: Tensor) -> Tensor:
        """The features before the head, (N, 1024), float32 under autocast, float64 of a network in double."""
        x = ((images - MEAN) / STD).contiguous(memory_format=torch.channels_last)
        pooled = at_least_single(self.groups(relu(self.first(x)))).mean((2, 3))
        return at_least_single(self.features(pooled))

    def forward(self, images: Tensor, with_latents: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        latents = self.latents(images)
        logits = self.head(latents)
        return (logits, latents) if with_latents else logits


class _Bottleneck(nn.Module):
    """A block relu(convolutions(x) + shortcut(x)): to ``planes`` channels, over 3×3 pixels, to four times as many."""

    def __init__(self, channels: int, planes: int, stride: int):
        super().__init__()
        wide = EXPANSION * planes
        self.narrow, self.spatial = _normed(channels, planes, 1), _normed(planes, planes, 3, stride)
        self.widen = _normed(planes, wide, 1)
        self.shortcut = _normed(channels, wide, 1, stride) if stride > 1 or channels != wide else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.widen(relu(self.spatial(relu(self.narrow(x))))) + self.shortcut(x))


def _normed(channels: int, planes: int, side: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels, planes, side, stride, side // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(planes))
