"""How much noise an image carries, from the image alone."""

import torch
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
    return _details(images).abs().median(1).values / NORMAL_MEDIAN


def smooth_noise_level(images: Tensor, width: float = 0.25) -> Tensor:
    """The noise level with the median of a smooth distribution in the median's place: for attackers, differentiable.

    The median of |HH| moves with the one square in the middle alone, and soon with another. Here every detail counts
    as a logistic distribution of scale b = ``width`` · mean |HH| around itself: the result is m / 0.6745, where half of
    the mass of all lies within [−m, m]. Its gradient in HH is spread over the squares that lie within a few b of ±m,
    and tells what steps of an attack's size do to the true median. A little above ``noise_level`` of the same images.

    >>> import torch
    >>> noisy = 0.5 + 0.1 * torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    >>> round(smooth_noise_level(noisy).item(), 2)
    0.11
    """
    details = _details(images)
    # Of an image without any detail the scale is a rounding error, not zero.
    scale = (width * details.abs().mean(1, keepdim=True)).clamp_min(1e-7)

    def excess(m: Tensor) -> Tensor:
        """By how much the mass within [−m, m] exceeds one half."""
        return (((m - details) / scale).sigmoid() + ((m + details) / scale).sigmoid()).mean(1, keepdim=True) - 1.5

    with torch.no_grad():
        low, high = torch.zeros_like(scale), details.abs().amax(1, keepdim=True) + 2 * scale
        for _ in range(50):
            middle = (low + high) / 2
            beyond = excess(middle) > 0
            low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
        middle = (low + high) / 2
        inside = [((middle + sign * details) / scale).sigmoid() for sign in (-1, 1)]
        slope = (sum(s * (1 - s) for s in inside) / scale).mean(1, keepdim=True)
    # One step of Newton's method from the solution has the gradient of the implicit function theorem.
    return (middle - excess(middle) / slope)[:, 0] / NORMAL_MEDIAN


def _details(images: Tensor) -> Tensor:
    """The finest diagonal Haar details HH of each image (N, n)."""
    height, width = (side // 2 * 2 for side in images.shape[-2:])
    if not (height and width):
        raise DataError(f"images of {tuple(images.shape[-2:])} have no 2×2 squares to measure noise in")
    x = images[..., :height, :width]
    a, b, c, d = (x[..., i::2, j::2] for i in (0, 1) for j in (0, 1))
    return ((a - b - c + d) / 2).flatten(1)
