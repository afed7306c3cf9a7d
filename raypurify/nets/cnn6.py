"""The six convolutions of PCL's small network (Mustafa et al., Table 1), for images like those of MNIST."""

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from raypurify.errors import ConfigError
from raypurify.nets.encoder import Encoder
from raypurify.nets.precision import at_least_single
from raypurify.nets.wide_resnet import MEAN, STD

# Sides of the last map, of images of 28².
SIDE = 3
WIDE, NARROW = 512, 64


class CNN6(Encoder):
    """CNN-6, the network of PCL for MNIST and Fashion-MNIST, after the one of center loss (Wen et al., ECCV 2016).

    The layers of PCL's Table 1, and what each gives of images of 28²::

        1   Conv(32, 5×5) and PReLU, twice, max-pool of 2×2        32 × 14²
        2   the same with 64 channels                              64 × 7²
        3   the same with 128                                      128 × 3²
        4   FC(512) of the flattened map                           512
        5   FC(64), whose output are the latents                   64
        6   the head, FC(classes)                                  classes

    The table has the pool within "× 2", which would leave nothing of 28²; here it follows each pair, as in Wen et al.
    Nothing is between the linear layers. Images have three channels, of grey ones equal: 1,420,272 parameters for 10
    classes, 1,600 fewer for images of one channel. Of larger images the last map is averaged to 3², so that the
    network takes them too.

    ``network(images)`` gives logits (N, classes) of images (N, 3, H, W) in [0, 1] with sides of 8 or more, standardised
    inside; ``network.latents(images)`` the features before the head (N, 64), and ``network(images,
    with_latents=True)`` both. Raises ConfigError for fewer classes than 2.

    >>> CNN6().eval()(torch.rand(1, 3, 28, 28)).shape
    torch.Size([1, 10])
    """

    dim = NARROW

    def __init__(self, classes: int = 10):
        super().__init__()
        if classes < 2:
            raise ConfigError(f"classes={classes}: a classifier needs at least two")
        self.settings = {"classes": classes}
        self.groups = nn.Sequential(_pair(3, 32), _pair(32, 64), _pair(64, 128))
        self.wide, self.narrow = nn.Linear(128 * SIDE**2, WIDE), nn.Linear(WIDE, NARROW)
        self.head = nn.Linear(NARROW, classes)

    def latents(self, images: Tensor) -> Tensor:
        """The features before the head, (N, 64), float32 under autocast, float64 of a network in double."""
        x = self.groups(((images - MEAN) / STD).contiguous(memory_format=torch.channels_last))
        if x.shape[2:] != (SIDE, SIDE):
            x = adaptive_avg_pool2d(x, SIDE)
        return at_least_single(self.narrow(self.wide(x.flatten(1))))

    def forward(self, images: Tensor, with_latents: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        latents = self.latents(images)
        logits = self.head(latents)
        return (logits, latents) if with_latents else logits


def _pair(channels: int, planes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs in (channels, planes):
        conv = nn.Conv2d(inputs, planes, 5, padding=2)
        # What PReLU begins with below zero.
        nn.init.kaiming_normal_(conv.weight, a=0.25)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]  # it has one
        layers += [conv, nn.PReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2))
