"""The one contract of every purifier: bulk jobs, the endpoint, the evaluation and notebooks call the same object."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from raypurify.errors import DataError

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Purified:
    """Purified images and what was done to each of them.

    images: (N, 3, H, W) float32 in [0, 1], the size of the input;
    cluster: (N,) global index of the cluster whose dictionary was used; -1 from a purifier without clusters;
    distance: (N,) how far the image is from that cluster, as the purifier measures it; NaN without clusters;
    flagged: (N,) True where the distance exceeds the calibrated clean quantile;
    relative_change: (N,) ‖purified − input‖₂ / ‖input‖₂ (0 for a black image);
    iterations: (N,) solver iterations of a sparse code; 0 where there is none;
    cluster_given: whether the caller named the clusters (``Bundled.purify``); by default the purifier chose them;
    region: (N, 4) int64 left, top, right, bottom in pixels of the box that alone was coded, the last two exclusive;
    None from a purifier that codes whole images.
    """

    images: Tensor
    cluster: Tensor
    distance: Tensor
    flagged: Tensor
    relative_change: Tensor
    iterations: Tensor
    cluster_given: bool = False
    region: Tensor | None = None


class Purifier(Protocol):
    """The contract of a purifier: ``purify(images)`` takes (N, 3, H, W) floats in [0, 1] and gives a Purified.

    The same input gives the same output. An image's result does not depend on the rest of its batch beyond rounding,
    and the input is not written to. No side of an image may be below ``min_size``; that and any other input raises
    DataError, by :func:`checked`.
    """

    @property
    def min_size(self) -> int: ...

    def purify(self, images: Tensor) -> Purified: ...


def checked(images: Tensor, min_size: int, smallest: str) -> Tensor:
    """The images (N, 3, H, W) as float32, on their device.

    Raises DataError unless they are floating-point, have three channels, no side below ``min_size`` (that of
    ``smallest``, for the message), and no value outside [0, 1].

    >>> checked(torch.rand(2, 3, 8, 9).double(), 8, "an atom").dtype
    torch.float32
    """
    if not isinstance(images, Tensor):
        raise DataError(
            f"images must be a tensor (N, 3, H, W) in [0, 1], not {type(images).__name__}: of pixels (N, H, W, 3) in "
            "NumPy give torch.from_numpy(x).permute(0, 3, 1, 2) / 255; files are for raypurify purify"
        )
    if images.ndim != 4 or images.shape[1] != 3:
        remedy = ": give one image as image[None]" if images.ndim == 3 and images.shape[0] == 3 else ""
        raise DataError(f"images must have the shape (N, 3, H, W), not {tuple(images.shape)}{remedy}")
    if images.dtype not in _FLOATS:
        raise DataError(f"images must be floating-point in [0, 1], not {images.dtype}: divide 8-bit pixels by 255")
    if images.layout != torch.strided or images.is_meta:
        raise DataError(
            f"images must hold all their values, not {images.layout} on {images.device}: give a dense tensor"
        )
    height, width = images.shape[-2:]
    if min(height, width) < min_size:
        raise DataError(f"images of {height}×{width} are smaller than {smallest} ({min_size}²)")
    if len(images) and not (images.amin() >= 0 and images.amax() <= 1):
        raise DataError("image values must be finite and in [0, 1]: divide 8-bit pixels by 255")
    return images.to(torch.float32)


def relative_change(purified: Tensor, images: Tensor) -> Tensor:
    """The relative change ‖purified − images‖₂ / ‖images‖₂ of each image, (N,); 0 for a black image.

    >>> relative_change(torch.full((1, 3, 2, 2), 0.6), torch.full((1, 3, 2, 2), 0.5))
    tensor([0.2000])
    """
    size = images.flatten(1).norm(dim=1)
    return (purified - images).flatten(1).norm(dim=1) / torch.where(size > 0, size, torch.inf)


def without_clusters(purified: Tensor, images: Tensor, iterations: Tensor | None = None) -> Purified:
    """The report of a purifier without clusters: cluster -1 at distance NaN, nothing flagged.

    >>> without_clusters(torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2)).cluster
    tensor([-1])
    """
    cluster = torch.full((len(images),), -1, device=images.device)
    return Purified(
        images=purified,
        cluster=cluster,
        distance=torch.full_like(cluster, torch.nan, dtype=torch.float32),
        flagged=torch.zeros_like(cluster, dtype=torch.bool),
        relative_change=relative_change(purified, images),
        iterations=torch.zeros_like(cluster) if iterations is None else iterations,
    )
