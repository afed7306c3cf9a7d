"""The field's standard augmentations: random flip with a random crop from a padded image, or with a resized crop."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

# Of a resized crop: least share of the image's area, largest ratio of width to height and of height to width.
LEAST_AREA, LARGEST_RATIO = 0.35, 4 / 3


def augmented(images: Tensor, how: str, generator: torch.Generator) -> Tensor:
    """Images (N, C, H, W) augmented as the setting ``augment`` says: crop, resized_crop or none."""
    return {"crop": flip_and_crop, "resized_crop": flip_and_resize, "none": lambda x, _: x}[how](images, generator)


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


def flip_and_resize(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image (N, C, H, W) flipped with probability ½, and a random rectangle of it resized to its full size.

    The rectangle has 35 to 100 % of the area and up to 4:3 times the image's proportions, either way (Szegedy et al.
    2015, section 6, who begin at 8 %: for the large images of whole ImageNet).

    >>> flip_and_resize(torch.rand(2, 3, 64, 64), torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3, 64, 64])
    """
    n = len(images)
    area, ratio, across, down, flip = torch.rand(5, n, generator=generator)
    side, skew = (LEAST_AREA + (1 - LEAST_AREA) * area).sqrt(), ((2 * ratio - 1) * math.log(LARGEST_RATIO) / 2).exp()
    width, height = (side * skew).clamp(max=1), (side / skew).clamp(max=1)
    # Maps the result's coordinates, from −1 to 1, to the image's.
    maps = torch.zeros(n, 2, 3)
    maps[:, 0, 0], maps[:, 0, 2] = torch.where(flip < 0.5, -width, width), (1 - width) * (2 * across - 1)
    maps[:, 1, 1], maps[:, 1, 2] = height, (1 - height) * (2 * down - 1)
    grid = F.affine_grid(maps.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
