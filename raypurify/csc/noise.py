"""How much noise an image carries, from the image alone."""

from torch import Tensor

from raypurify.errors import DataError

# The median of |n| for n ~ N(0, 1).
NORMAL_MEDIAN = 0.6744897501960817


def noise_level(images: Tensor) -> Tensor:
    """σ̂ of each image (N,): median(|HH|) / 0.6745 over the finest diagonal Haar details of all channels.

    The estimate of D. L. Donoho and I. M. Johnstone, "Ideal spatial adaptation by wavelet shrinkage", Biometrika 1994,
    section 6.1.1: HH = (a − b − c + d) / 2 of every 2×2 square; most of them lie in smooth places, where only noise is
    left, and the median does not see the rest. ``images`` (N, C, H, W), H and W at least 2; an odd last row or column
    is left out. Raises DataError for smaller images.

    >>> import torch
    >>> noisy = 0.5 + 0.1 * torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    >>> round(noise_level(noisy).item(), 2)
    0.1
    """
    height, width = (side // 2 * 2 for side in images.shape[-2:])
    if not (height and width):
        raise DataError(f"images of {tuple(images.shape[-2:])} have no 2×2 squares to measure noise in")
    x = images[..., :height, :width]
    a, b, c, d = (x[..., i::2, j::2] for i in (0, 1) for j in (0, 1))
    return ((a - b - c + d) / 2).abs().flatten(1).median(1).values / NORMAL_MEDIAN
