"""VGG-16 for small images (Simonyan and Zisserman, ICLR 2015): the classifier that RSFP and STL attack on CIFAR-10."""

import torch
from torch import Tensor, nn

from raypurify.errors import ConfigError
from raypurify.nets.encoder import Encoder
from raypurify.nets.precision import at_least_single
from raypurify.nets.wide_resnet import MEAN, STD

# Channels of the 3×3 convolutions between max-pools, configuration D of the paper's table 1.
GROUPS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(Encoder):
    """The thirteen convolutions of VGG-16, each with batch norm, and one linear layer in place of its three.

    That is how it is usually made for CIFAR-10: five max-pools leave one pixel of 32², and the paper's two layers of
    4,096 would be most of the network. Of larger images the last map is averaged.

    ``network(images)`` gives logits (N, classes) of images (N, 3, H, W) in [0, 1] with sides of 32 or more,
    standardised inside; ``network.latents(images)`` the features before the linear layer (N, 512), and
    ``network(images, with_latents=True)`` both. Raises ConfigError for fewer classes than 2.

    >>> VGG16(classes=10).eval()(torch.rand(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    """

    dim = GROUPS[-1][-1]

    def __init__(self, classes: int = 10):
        super().__init__()
        if classes < 2:
            raise ConfigError(f"classes={classes}: a classifier needs at least two")
        self.settings = {"classes": classes}
        layers: list[nn.Module] = []
        channels = 3
        for group in GROUPS:
            for width in group:
                # Batch norm has the bias.
                conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
                layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(self.dim, classes)

    def latents(self, images: Tensor) -> Tensor:
        """The features before the linear layer, (N, 512), float32 under autocast, float64 of a network in double."""
        x = (images - MEAN) / STD
        return at_least_single(self.features(x.contiguous(memory_format=torch.channels_last))).mean((2, 3))

    def forward(self, images: Tensor, with_latents: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        latents = self.latents(images)
        logits = self.head(latents)
        return (logits, latents) if with_latents else logits
