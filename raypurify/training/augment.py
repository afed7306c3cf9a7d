"""The field's standard augmentation of small images: random flip, random crop from a padded image."""

import torch
from torch import Tensor
from torch.nn import functional as F


def flip_and_crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image (N, C, H, W) flipped with probability ½ and cropped at random from a zero-padded copy.

    The padding is an eighth of the side (4 pixels at 32², as in He et al. 2016, section 4.2).

    >>> flip_and_crop(torch.rand(2, 3, 32, 32), torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3, 32, 32])
    """
    n, _, height, width = images.shape
    pad = max(1, height // 8)
    padded = F.pad(images, (pad,) * 4)
    top, left = (torch.randint(0, 2 * pad + 1, (n, 1), generator=generator) for _ in range(2))
    columns = torch.arange(width).expand(n, width)
    flip = torch.rand(n, 1, generator=generator) < 0.5
    columns = torch.where(flip, columns.flip(1), columns) + left
    rows = torch.arange(height) + top
    index = torch.arange(n)[:, None, None]
    # Advanced indices around a slice put the channel axis last.
    picked = padded[index.to(images.device), :, rows[:, :, None].to(images.device), columns[:, None].to(images.device)]
    return picked.permute(0, 3, 1, 2)
