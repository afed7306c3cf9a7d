"""DnCNN (Zhang et al., IEEE TIP 2017): a network that tells the noise of an image, which is then subtracted."""

import torch
from torch import Tensor, nn

from raypurify.errors import ConfigError


class DnCNN(nn.Module):
    """A residual denoiser, x − f(x): f has ``depth`` 3×3 convolutions of ``width`` channels.

    The first has a ReLU, those between it and the last batch norm and a ReLU (Zhang et al., section III-A). Theirs has
    20 layers of 64 channels for noise of unknown size; 5 of 32 are as small as the auto-encoders that stand beside it.

    ``network(images)`` gives images (N, 3, H, W), float32, which may overshoot [0, 1], of images of any size. Raises
    ConfigError for fewer layers than 2 or a width below 1.

    >>> DnCNN(width=2, depth=3).eval()(torch.rand(1, 3, 7, 9)).shape
    torch.Size([1, 3, 7, 9])
    """

    def __init__(self, width: int = 32, depth: int = 5):
        super().__init__()
        if width < 1 or depth < 2:
            raise ConfigError(f"width={width}, depth={depth}: a denoiser needs a channel and two layers at least")
        self.settings = {"width": width, "depth": depth}
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU(inplace=True)]
        for _ in range(depth - 2):
            # Batch norm has the bias.
            conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        for module in layers:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        # Training starts from the identity.
        last = nn.Conv2d(width, 3, 3, padding=1)
        for value in last.parameters():
            nn.init.zeros_(value)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, images: Tensor) -> Tensor:
        return images - self.layers(images.contiguous(memory_format=torch.channels_last)).float()
