"""Symmetric padding of images."""

import torch


def pad_mirrored(images: torch.Tensor, pad: int) -> torch.Tensor:
    """Images (N, C, H, W) continued by ``pad`` ≥ 0 pixels on every side, mirrored at the edge: ``… b a | a b c …``."""
    height, width = images.shape[-2:]
    return images[..., _mirror_indices(height, pad, images.device), :][..., _mirror_indices(width, pad, images.device)]


def _mirror_indices(size: int, pad: int, device: torch.device) -> torch.Tensor:
    # Half-sample symmetry has period 2n, so one modulo also serves paddings longer than the image.
    position = torch.arange(-pad, size + pad, device=device) % (2 * size)
    return torch.minimum(position, 2 * size - 1 - position)
