"""Cluster distributions: the mean of every cluster, and the factor that gives its Mahalanobis distance."""

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from raypurify.clusters.arrays import Array, SameArray, like
from raypurify.clusters.covariance import FORMS
from raypurify.clusters.fit import fit_distributions
from raypurify.clusters.nearest import NearestSearch, worthwhile
from raypurify.errors import BundleError, DataError

# Numbers in the largest temporary array of a distance: 16 MiB of float32.
_BLOCK = 1 << 22
_ROWS = 1024
# Clusters whose numbers are checked at a time.
_CHECKED = 64


class ClusterDistributions:
    """K cluster distributions over latents of d features.

    The Mahalanobis distance of RSFP equation 7, MD = √((R − μ)ᵀ Σ⁻¹ (R − μ)), is kept as MD² = ‖F(R − μ)‖² +
    ρ²‖(I − P)(R − μ)‖², where the rows of F (r, d) are orthogonal axes divided by the standard deviation along them, P
    projects onto those axes, and 1/ρ is the standard deviation in every other direction (ρ = 0: such directions do not
    count). Rank-deficient covariances therefore need no inverse, and K·r·d numbers replace K·d·d.

    Fit with ``fit``; store with ``state`` and read back with ``from_state``. Distances are computed in the dtype of the
    state, float32 unless ``to`` changed it.

    Attributes: ``means`` (K, d), ``factors`` (K, r, d; zero rows pad clusters of lower rank), ``rest`` (K,), ``form``.

    >>> dist = ClusterDistributions.fit(np.array([[0.0, 0], [2, 0], [0, 2], [2, 2], [9, 9]]), np.array([0] * 4 + [1]))
    >>> dist.nearest(np.array([[1.5, 1.0], [9.0, 9.0]]))
    (array([0, 1]), array([0.559017, 0.      ], dtype=float32))
    """

    def __init__(self, means: Tensor, factors: Tensor, rest: Tensor, form: str):
        self.means, self.factors, self.rest, self.form = means, factors, rest, form
        # The rows of a factor are orthogonal, so F⁺F = Fᵀ diag(‖row‖⁻²) F is the projector onto its axes. The norm
        # makes no second array as large as the factors.
        squared = torch.linalg.vector_norm(factors, dim=2).square()
        self._inverse_squared = torch.where(squared > 0, 1 / squared, 0)
        self._has_rest = bool((rest > 0).any())

    @classmethod
    def fit(cls, latents: Array, labels: Array, form: str = "ridge", rank: int = 64) -> "ClusterDistributions":
        """Estimate the distribution of every cluster from latents (N, d) and labels (N,) in 0..K−1, in float64.

        ``form`` says what Σ⁻¹ is made of the sample covariance S (normalised by n):

        * ``"pinv"``: S⁺, the paper's Moore–Penrose inverse (section III-D). Directions in which a cluster shows no
          variance do not count at all. A cluster of one image is then at distance 0 from *everything*, as the formula
          says: it would win every nearest-cluster search. For fidelity to the paper, not for use on small clusters.
        * ``"shrinkage"``: Ledoit–Wolf, (1 − s)S + s·m·I. Where that estimate is singular (one image, two, or identical
          ones) the cluster takes the shrunk pooled within-cluster covariance of all clusters around its own mean; where
          even that is singular (every cluster so small), the covariance of all latents.
        * ``"low_rank"``: the ``rank`` leading axes of the shrinkage estimate, the mean of its other variances for the
          rest. For many clusters of long latents; equals "shrinkage" when ``rank`` ≥ d.
        * ``"ridge"`` (the default): low_rank, scaled to the size that all clusters have on average and mixed with three
          parts of identity (see ``covariance.flatten``). The form that found a cluster of the right class most often,
          by far on small clusters (docs/algorithm.md); a cluster without a covariance has the identity.

        Raises DataError for latents that are empty, not (N, d) or not finite, for labels that are not N integers
        from 0 with none left out, and, except for "pinv", when all latents are equal.
        """
        state = fit_distributions(latents, labels, form, rank)
        device = latents.device if isinstance(latents, Tensor) else "cpu"
        means, factors, rest = (torch.from_numpy(part.astype(np.float32)).to(device) for part in state.values())
        return cls(means, factors, rest, form)

    @property
    def clusters(self) -> int:
        """The number K of clusters."""
        return self.means.shape[0]

    @property
    def dim(self) -> int:
        """The number d of features of a latent."""
        return self.means.shape[1]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "ClusterDistributions":
        """A copy on another device, or that computes in another dtype."""
        means, factors, rest = (part.to(device=device, dtype=dtype) for part in self.state().values())
        return type(self)(means, factors, rest, self.form)

    def state(self) -> dict[str, Tensor]:
        """The tensors to store: means, factors, rest."""
        return {"means": self.means, "factors": self.factors, "rest": self.rest}

    @classmethod
    def from_state(cls, state: dict[str, Tensor], form: str) -> "ClusterDistributions":
        """The inverse of ``state``. Raises BundleError for tensors that are missing, misshapen or not finite."""
        if form not in FORMS:
            raise BundleError(f"cluster distributions of unknown form {form!r}: expected one of {', '.join(FORMS)}")
        missing = [name for name in ("means", "factors", "rest") if name not in state]
        if missing:
            raise BundleError(f"cluster distributions lack the tensor {missing[0]!r}: the bundle is incomplete")
        means, factors, rest = (state[name].contiguous() for name in ("means", "factors", "rest"))
        fits = means.ndim == 2 and factors.ndim == 3 and rest.shape == means.shape[:1]
        if not fits or (factors.shape[0], factors.shape[2]) != tuple(means.shape) or 0 in means.shape:
            shapes = ", ".join(f"{name} {tuple(state[name].shape)}" for name in ("means", "factors", "rest"))
            raise BundleError(f"cluster distributions do not fit together: {shapes}; expected (K, d), (K, r, d), (K,)")
        for name, part in zip(("means", "factors", "rest"), (means, factors, rest)):
            # A block at a time: isfinite takes twice the memory of what it looks at.
            if not part.is_floating_point() or not all(block.isfinite().all() for block in part.split(_CHECKED)):
                raise BundleError(f"cluster distributions: tensor {name!r} holds values that are not finite numbers")
        return cls(means, factors, rest, form)

    def distance(self, latents: SameArray) -> SameArray:
        """Mahalanobis distances (N, K). Not differentiable; memory beyond the result stays below 100 MB."""
        rows = self._rows(latents)
        with torch.no_grad(), _full_precision(rows):
            blocks = [
                torch.cat([distances for _, distances in self._blocks(part)], 1) for part in rows.split(_ROWS)
            ] or [rows.new_zeros(0, self.clusters)]
            return _like(torch.cat(blocks), latents)

    def nearest(self, latents: SameArray) -> tuple[SameArray, SameArray]:
        """The nearest cluster (N,) int64 and the distance to it (N,). A latent that is not finite has distance NaN.

        Of many clusters most are ruled out by lower bounds (see ``clusters.nearest``). What these need is prepared at
        the first call, once for all.
        """
        rows = self._rows(latents)
        with torch.no_grad(), _full_precision(rows):
            index, best = self._search(rows)[:2] if self._search else self._nearest_of_all(rows)
        return _like(index, latents), _like(best, latents)

    def own_distance(self, latents: Tensor, index: Tensor) -> Tensor:
        """Distance (N,) of each latent (N, d) to the cluster that ``index`` (N,) names; differentiable in the latents.

        The last term of RSFP equation 7. The gradient at distance 0 is 0, and bounded near it. Autocast does not reach
        inside: distances are float32.
        """
        if index.shape != latents.shape[:1]:
            raise DataError(f"index has shape {tuple(index.shape)}, latents {tuple(latents.shape)}: one cluster each")
        rows = self._rows(latents)
        if not len(rows):
            return rows.sum(1)
        used, slot = torch.unique(index.to(rows.device), return_inverse=True)
        if used[0] < 0 or used[-1] >= self.clusters:
            raise DataError(f"index spans [{int(used[0])}, {int(used[-1])}]: there are {self.clusters} clusters")
        with _full_precision(rows):
            # One batched product over the clusters in use: each gets as many places as the fullest of them needs.
            order = torch.argsort(slot, stable=True)
            counts = torch.bincount(slot, minlength=len(used))
            place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[slot[order]]
            offsets = rows.new_zeros(len(used), int(counts.max()), self.dim)
            offsets = offsets.index_put((slot[order], place), rows[order] - self.means[used[slot[order]]])
            clusters = slice(None) if len(used) == self.clusters else used
            squared = self._squared(offsets, clusters)[slot[order], place]
            squared = torch.empty_like(squared).index_put((order,), squared)
            # √ has an infinite slope at 0, which times the zero gradient of the square would be NaN.
            positive = squared > 0
            return torch.where(positive, torch.where(positive, squared, 1).sqrt(), 0)

    @cached_property
    def _search(self) -> NearestSearch | None:
        """The search that leaves most clusters out, where it pays. Prepared when it is first needed."""
        parts = self.means, self._inverse_squared, self.factors, self.rest
        return NearestSearch(*parts, self._squared) if worthwhile(*parts) else None

    def _nearest_of_all(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        index = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        best = torch.full((len(rows),), torch.inf, dtype=rows.dtype, device=rows.device)
        for start in range(0, len(rows), _ROWS):
            part = slice(start, start + _ROWS)
            for first, distances in self._blocks(rows[part]):
                value, position = distances.min(1)
                closer = (value < best[part]) | value.isnan()
                best[part] = torch.where(closer, value, best[part])
                index[part] = torch.where(closer, position + first, index[part])
        return index, best

    def _blocks(self, rows: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Distances of a few rows to a block of clusters at a time, as (first cluster, (n, k))."""
        step = max(1, _BLOCK // (max(1, len(rows)) * self.dim))
        for first in range(0, self.clusters, step):
            clusters = slice(first, first + step)
            offsets = rows[None] - self.means[clusters, None]
            yield first, self._squared(offsets, clusters).sqrt().T

    def _squared(self, offsets: Tensor, clusters: slice | Tensor) -> Tensor:
        """Squared distances (k, n) of offsets R − μ (k, n, d) from the means of k clusters."""
        factors = self.factors[clusters]
        whitened = torch.bmm(offsets, factors.mT)
        squared = whitened.square().sum(2)
        if not self._has_rest:
            return squared
        # Not as ‖v‖² − ‖Pv‖²: that difference of large numbers loses the digits of a small remainder.
        remainder = offsets - torch.bmm(whitened * self._inverse_squared[clusters, None], factors)
        return squared + self.rest[clusters, None].square() * remainder.square().sum(2)

    def _rows(self, latents: Array) -> Tensor:
        rows = torch.as_tensor(latents)
        if rows.ndim != 2 or rows.shape[1] != self.dim:
            raise DataError(f"latents have shape {tuple(rows.shape)}: expected (N, {self.dim})")
        return rows.to(device=self.means.device, dtype=self.means.dtype)


def _full_precision(rows: Tensor) -> torch.autocast:
    return torch.autocast(rows.device.type, enabled=False)


def _like(result: Tensor, latents: SameArray) -> SameArray:
    if isinstance(latents, Tensor):
        return result.to(latents.device)  # type: ignore[return-value]  # a tensor for a tensor
    return like(result.cpu().numpy(), latents)
