"""STL's denoising auto-encoder (Sun et al., CVPR 2019, section 3.4), whose code is what its strata are made of."""

import torch
from torch import Tensor, nn

from raypurify.errors import ConfigError
from raypurify.nets.encoder import Encoder

HALVINGS = 3
MOST_SIDE = 1024


class DenoisingAutoEncoder(Encoder):
    """A convolutional auto-encoder: three times [3×3 convolution, batch norm, ReLU, max-pool by 2], and back.

    The decoder has three times [3×3 convolution, batch norm, ReLU, nearest upsampling by 2], then a 3×3 convolution to
    three channels and a sigmoid. The layers and their ``width`` of 32 channels are those of the authors' code, which
    has one more batch norm before the sigmoid; the paper gives none.

    ``network(images)`` gives reconstructions (N, 3, H, W) in [0, 1], float32, of images (N, 3, H, W) in [0, 1] whose
    sides are multiples of 8. ``network.latents(images)`` gives the code, the last pooled map flattened, of images of
    ``side``²: (N, dim) with dim = width·(side/8)². STL samples larger images down to 32² before (section 5.1), where
    dim is 16·width.

    Raises ConfigError for a width below 1, or a side that is no multiple of 8 or above 1024.

    >>> network = DenoisingAutoEncoder(width=2).eval()
    >>> network(torch.rand(1, 3, 32, 32)).shape, network.latents(torch.rand(1, 3, 32, 32)).shape
    (torch.Size([1, 3, 32, 32]), torch.Size([1, 32]))
    """

    def __init__(self, width: int = 32, side: int = 32):
        super().__init__()
        if width < 1:
            raise ConfigError(f"width={width}: an auto-encoder needs at least one channel")
        if not 1 <= side <= MOST_SIDE or side % 2**HALVINGS:
            raise ConfigError(
                f"side={side}: an auto-encoder that halves {HALVINGS} times needs a multiple of 8, {MOST_SIDE} at most"
            )
        self.settings = {"width": width, "side": side}
        self.side = side
        self.dim = width * (side >> HALVINGS) ** 2
        self.encoder = nn.Sequential(
            *(nn.Sequential(_layer(width if i else 3, width), nn.MaxPool2d(2)) for i in range(HALVINGS))
        )
        self.decoder = nn.Sequential(
            *(nn.Sequential(_layer(width, width), nn.Upsample(scale_factor=2)) for _ in range(HALVINGS)),
            nn.Conv2d(width, 3, 3, padding=1),
        )

    def latents(self, images: Tensor) -> Tensor:
        """The code (N, dim) of images (N, 3, side, side) in [0, 1], float32 whatever the autocast precision."""
        return self.encoder(_channels_last(images)).float().flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        # Near 0 and 1 a sigmoid of few bits is 0 and 1.
        return torch.sigmoid(self.decoder(self.encoder(_channels_last(images))).float())


def _layer(channels: int, width: int) -> nn.Sequential:
    # Batch norm has the bias.
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
    )


def _channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)
