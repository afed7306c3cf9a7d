"""Robust semantic feature purification: stage iii of RSFP's Algorithm 1."""

import torch
from torch import Tensor
from torch.nn import functional as F

from raypurify.bundle import Bundle
from raypurify.csc import solve_cbpdn, tikhonov_split
from raypurify.errors import DataError
from raypurify.purifiers.base import Purified


class RSFP:
    """The purifier of a bundle.

    For an image x (Silva et al., section III-E):

    1. x_low = argmin_l ½‖l − x‖² + (λ_T/2) Σⱼ‖Gⱼ l‖², x_high = x − x_low (the Tikhonov split);
    2. the cluster (c, j) whose clean distribution is nearest to R_rob(x) by Mahalanobis distance;
    3. r = argmin_r ½‖Σ_m d_m ∗ r_m − x_high‖² + λ Σ_m‖r_m‖₁ with that cluster's dictionary (eq. 6);
    4. purified = clip(x_low + Σ_m d_m ∗ r_m, 0, 1) (eq. 8).

    The network sees the image resized to its own input size; everything else works at the image's size.

    >>> import raypurify, torch
    >>> raypurify.load("cifar10").purify(torch.rand(2, 3, 32, 40)).images.shape
    torch.Size([2, 3, 32, 40])
    """

    def __init__(self, bundle: Bundle, device: str | torch.device = "cpu"):
        self.bundle = bundle
        self.device = torch.device(device)
        self.network = bundle.network.to(self.device).eval().requires_grad_(False)
        self.distributions = bundle.distributions.to(self.device)
        self.dictionaries = bundle.dictionaries.to(self.device)
        self.settings = bundle.settings
        self.digest = bundle.digest
        self.classes_of_cluster = [bundle.manifest.classes[c] for c in bundle.manifest.cluster_class]
        self.min_size = max(self.dictionaries.shape[-2:])

    def latents(self, images: Tensor) -> Tensor:
        """Robust latents R_rob (N, d) of images of any size."""
        side = self.settings.data.image_size
        if images.shape[-2:] != (side, side):
            images = F.interpolate(images, (side, side), mode="bilinear", antialias=True).clamp(0, 1)
        return self.network.latents(images)

    @torch.no_grad()
    def purify(self, images: Tensor) -> Purified:
        """Purify images (N, 3, H, W), floating point in [0, 1], H and W no smaller than an atom.

        Deterministic; an image's result does not depend on the rest of its batch beyond rounding. Raises DataError for
        anything else than such images.
        """
        images = self._checked(images)
        csc = self.settings.csc
        low, high = tikhonov_split(images, lmbda=csc.tikhonov, pad=csc.pad)
        cluster, distance = self.distributions.nearest(self.latents(images))
        code = solve_cbpdn(self.dictionaries, high, lmbda=csc.lmbda, rel_tol=csc.rel_tol, index=cluster, sparse=True)
        purified = (low + code.reconstruction).clamp(0, 1)
        size = images.flatten(1).norm(dim=1)
        change = (purified - images).flatten(1).norm(dim=1) / torch.where(size > 0, size, torch.inf)
        flagged = distance > self.bundle.manifest.calibration.distance_threshold
        return Purified(purified, cluster, distance, flagged, change, code.iterations)

    def _checked(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise DataError(
                "images must be a floating-point tensor (N, 3, H, W) in [0, 1], "
                f"not {images.dtype} of shape {tuple(images.shape)}"
            )
        if min(images.shape[-2:]) < self.min_size:
            raise DataError(
                f"images of {images.shape[-2]}×{images.shape[-1]} are smaller than an atom ({self.min_size}²)"
            )
        if len(images) and not (images.amin() >= 0 and images.amax() <= 1):
            raise DataError("image values must be finite and in [0, 1]: divide 8-bit pixels by 255")
        return images.to(self.device, torch.float32)
