"""Robust semantic feature purification: stage iii of RSFP's Algorithm 1."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from raypurify.bundle import Bundle
from raypurify.csc import SparseCode
from raypurify.errors import DataError
from raypurify.purifiers.base import Purified, checked, relative_change
from raypurify.purifiers.rewriting import rewrite

# What the network sees at a time on a CPU: the activations of more leave its cache.
CPU_PIXELS = 1 << 15
_HOW = "give one for all images, or one for each"


class RSFP:
    """RSFP, the purifier of a bundle: rewrites the high part of an image with the atoms of its nearest cluster.

    For an image x (Silva et al., section III-E):

    1. x_low = argmin_l ½‖l − x‖² + (λ_T/2) Σⱼ‖Gⱼ l‖², x_high = x − x_low (the Tikhonov split);
    2. the cluster (c, j) whose clean distribution is nearest to R_rob(x) by Mahalanobis distance;
    3. r = argmin_r ½‖Σ_m d_m ∗ r_m − x_high‖² + λ Σ_m‖r_m‖₁ with that cluster's dictionary (eq. 6);
    4. purified = clip(x_low + Σ_m d_m ∗ r_m, 0, 1) (eq. 8); how the settings ``csc.noise_factor`` and ``csc.refit``
       change 3 and 4 says ``purifiers.rewriting.rewrite``.

    The network sees the image resized to its own input size; everything else works at the image's size. The
    dictionaries were learned on images of the setting ``dictionaries.image_size``, by default the network's size, also
    where larger ones are purified.

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

    def to(self, device: str | torch.device) -> "RSFP":
        """The purifier on a device: itself where it is there already, else a copy, so that this one stays.

        >>> import raypurify
        >>> purifier = raypurify.load("cifar10")
        >>> purifier.to("cpu") is purifier
        True
        """
        # As tensors name it, with its number.
        device = torch.empty(0, device=device).device
        if device == self.dictionaries.device:
            return self
        moved = RSFP(replace(self.bundle, network=deepcopy(self.network)), device)
        moved.settings = self.settings
        return moved

    def latents(self, images: Tensor) -> Tensor:
        """Robust latents R_rob (N, d) of images (N, 3, H, W) of any size, resized to the network's."""
        side = self.settings.data.image_size
        if images.shape[-2:] != (side, side):
            images = F.interpolate(images, (side, side), mode="bilinear", antialias=True).clamp(0, 1)
        if images.is_cuda:
            return self.network.latents(images)
        return torch.cat([self.network.latents(part) for part in images.split(max(1, CPU_PIXELS // side**2))])

    @torch.no_grad()
    def purify(self, images: Tensor, *, cluster: int | Sequence[int] | Tensor | None = None) -> Purified:
        """Purify images (N, 3, H, W), floating point in [0, 1], H and W no smaller than an atom.

        With ``cluster``, one index for all images or one for each, step 2 is left out: the dictionary is that
        cluster's, distance and flag are of that cluster, and the result says ``cluster_given``.

        Deterministic; an image's result does not depend on the rest of its batch beyond rounding. Raises DataError for
        anything else than such images, and for a cluster that the bundle does not have.

        >>> import raypurify, torch
        >>> raypurify.load("cifar10").purify(torch.rand(2, 3, 32, 32), cluster=[3, 8]).cluster
        tensor([3, 8])
        """
        images = checked(images, self.min_size, "an atom").to(self.device)
        given = None if cluster is None else self._indices(cluster, len(images))
        purified, code, used, distance = self._rewritten(images, self.settings.csc.rel_tol, given, sparse=True)
        flagged = distance > self.bundle.manifest.calibration.distance_threshold
        change = relative_change(purified, images)
        return Purified(purified, used, distance, flagged, change, code.iterations, cluster_given=given is not None)

    def purify_differentiably(
        self, images: Tensor, rel_tol: float = 1e-3, differentiable: str = "implicit", hold_lmbda: bool = False
    ) -> Tensor:
        """Purified images (N, 3, H, W), differentiable in ``images``: for attackers who know the purifier.

        The gradient is that of low-pass, sparse coding, refit and, unless ``hold_lmbda``, of λ from the noise, by a
        smooth stand-in (``rewriting.scale_of_lmbda`` says why); the choice of the cluster is piecewise constant. Codes
        are solved to ``rel_tol``: above 1e-3 their gradient is poor (``csc.solve_cbpdn``, which ``differentiable`` is
        for).
        """
        images = checked(images, self.min_size, "an atom").to(self.device)
        return self._rewritten(images, rel_tol, differentiable=differentiable, hold_lmbda=hold_lmbda)[0]

    def _indices(self, cluster: int | Sequence[int] | Tensor, count: int) -> Tensor:
        """The given clusters as (count,) int64. Raises DataError."""
        try:
            index = torch.as_tensor(cluster)
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"cluster={cluster!r} is no index of a cluster: {_HOW}") from error
        if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
            raise DataError(f"cluster is of type {index.dtype}, indices are whole numbers: {_HOW}")
        if index.ndim > 1 or (index.ndim == 1 and len(index) != count):
            raise DataError(f"cluster has shape {tuple(index.shape)} for {count} images: {_HOW}")
        index = index.to(self.device, torch.int64).expand(count)
        last = self.distributions.clusters - 1
        missing = index[(index < 0) | (index > last)]
        if len(missing):
            raise DataError(f"there is no cluster {int(missing[0])} in this bundle: give an index from 0 to {last}")
        return index

    def _rewritten(
        self, images: Tensor, rel_tol: float, given: Tensor | None = None, **options: Any
    ) -> tuple[Tensor, SparseCode, Tensor, Tensor]:
        """Purified images, code of the high part, the cluster, given or nearest, and the distance to it."""
        with torch.no_grad():
            latents = self.latents(images)
            if given is None:
                cluster, distance = self.distributions.nearest(latents)
            else:
                cluster, distance = given, self.distributions.own_distance(latents, given)
        purified, code = rewrite(
            images, self.dictionaries, self.settings.csc, index=cluster, rel_tol=rel_tol, **options
        )
        return purified, code, cluster, distance
