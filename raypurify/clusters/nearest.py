"""Exact search for the nearest of many low-rank clusters, which rules most of them out by lower bounds.

Let Σ be a cluster's covariance, v = R − μ and MD² = vᵀΣ⁻¹v. For every Q (q, d) with orthonormal rows

    MD² ≥ (Qv)ᵀ(QΣQᵀ)⁻¹(Qv):

no latent is further from a cluster in a subspace than in the whole space. Proof: with w = Σ^(−½)v and M = QΣ^½ the
right side is wᵀMᵀ(MMᵀ)⁻¹Mw, the squared length of w's projection onto the rows of M, and MD² = ‖w‖².

In the form of ``ClusterDistributions`` Σ = (I + HᵀH)/ρ², where H has a row √(ρ²σ² − 1)·u for every axis u of standard
deviation σ > 1/ρ. (Axes of less variance are taken as part of the rest: that makes Σ larger and MD smaller.) With
G = HQᵀ and LLᵀ = I + GGᵀ, Woodbury's identity turns the right side into

    ρ²(‖Qv‖² − ‖BQv‖²), B = L⁻¹G (r, q),

which is MD² itself for Q = I, where B has the rows √(1 − 1/(ρσ)²)·u. One Q serves all clusters: the leading principal
axes of all latents, as the clusters tell them (mean covariance plus scatter of the means).

A search takes (1) the bound in the subspace for all clusters; (2) the distance to the cluster where it is least; (3)
for clusters that this does not rule out, the bound with Q = I, half the cost of a distance; (4) the distance to the
cluster where this is least, then to all that are left.

Every bound is lowered by what rounding may have added, after |fl⟨x, y⟩ − ⟨x, y⟩| ≤ nε/2·‖x‖‖y‖ (Higham, Accuracy and
Stability of Numerical Algorithms, 2002, section 3.1). B is kept and multiplied in bfloat16: half the memory and, where
the processor has it, a quarter of the time of float32. |fl(x) − x| ≤ |x|/256 bounds the rounding of products; that of
B and of the offsets is measured.
"""

import timeit
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# From how many clusters, and numbers in their factors, a search repays its preparation.
_CLUSTERS, _NUMBERS = 512, 1 << 24
# (latent, cluster) pairs at a time: 16 MiB for each float32 array of them.
_PAIRS = 1 << 22
# Clusters taken together in step 1, about the mean of their means: offsets from a near point round less.
_GROUP = 16
# Numbers of the factors looked at together in the preparation, and axes that choose the subspace.
_BLOCK, _SAMPLE = 1 << 20, 8192


class NearestClusters(NamedTuple):
    """The nearest cluster (n,), its distance (n,), and how many pairs came to step 3 and to a distance."""

    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    distance: Tensor
    refined: int
    evaluated: int


def worthwhile(means: Tensor, variances: Tensor, factors: Tensor, rest: Tensor) -> bool:
    """Whether a search applies, and is likely faster than all distances.

    It is for many clusters on a CPU, with a rest each, and of scales whose squares and ratios its numbers hold.
    """
    many = len(means) >= _CLUSTERS and factors.numel() >= _NUMBERS
    if not many or means.device.type != "cpu" or means.dtype not in (torch.float32, torch.float64):
        return False
    held = (rest > 1e-12).all() & (rest < 1e12).all() & (means.abs() < 1e15).all()
    return bool(held & (variances * rest[:, None].square() < 1e7).all())


class NearestSearch:
    """The search among K clusters in the form of ``ClusterDistributions``.

    ``variances`` (K, r) are those along the axes, 0 for rows of zeros; ``squared`` gives the squared distances (1, n)
    of offsets (1, n, d) from the mean of the cluster that a slice names. Preparation takes O(K·r·d·q) once; what it
    keeps, with q = d/6, is a twelfth of the factors.
    """

    def __init__(self, means: Tensor, variances: Tensor, factors: Tensor, rest: Tensor, squared: Callable):
        clusters, rank, dim = factors.shape
        self.means, self.factors, self.rest, self.squared = means, factors, rest, squared
        beyond = (variances * rest[:, None].square() - 1).clamp(min=0)
        # Row scales that turn factors into H/ρ, and into B for Q = I.
        self.centre, self.basis = _subspace(means, factors, (variances * beyond).sqrt() / rest[:, None])
        self.scale = (variances * beyond / (1 + beyond)).sqrt()
        projected = (means.double() - self.centre) @ self.basis.T
        self.far = float(projected.norm(dim=1).max())
        centres = torch.stack([part.mean(0) for part in projected.split(_GROUP)])
        local = projected - centres.repeat_interleave(_GROUP, 0)[:clusters]
        # Two more columns, which meet ones, hold −Bμ in two pieces.
        self.centres, self.local = (torch.nn.functional.pad(part, (0, 2)).float() for part in (centres, local))
        self.inside = means.new_empty(clusters, rank, self.centres.shape[1], dtype=torch.bfloat16)
        self.loss = means.new_empty(clusters, dtype=torch.float32)
        identity = torch.eye(rank, dtype=torch.float64, device=means.device)
        for k in _slices(clusters, _BLOCK // (rank * dim)):
            g = factors[k].double() @ self.basis.T * (variances[k] * beyond[k]).double().sqrt()[..., None]
            lower = torch.linalg.cholesky(identity + g @ g.mT)
            b = torch.linalg.solve_triangular(lower, g, upper=False)
            kept = b.bfloat16().double()
            shift = -(kept @ local[k, :, None])
            self.inside[k] = torch.cat([kept, shift, shift - shift.bfloat16()], 2)
            # ‖E‖² is at most the largest row sum of |EEᵀ|.
            self.loss[k] = ((b - kept) @ (b - kept).mT).abs().sum(2).amax(1).sqrt()
        self.dtype = _fastest(self.centres.shape[1])

    def __call__(self, rows: Tensor) -> NearestClusters:
        """The nearest cluster of rows (n, d); of those that only rounding tells apart, the one of smallest index."""
        parts = rows.split(max(1, _PAIRS // len(self.means)))
        index, distance, refined, evaluated = zip(*map(self._search, parts))
        return NearestClusters(torch.cat(index), torch.cat(distance), sum(refined), sum(evaluated))

    def _search(self, rows: Tensor) -> NearestClusters:
        bound = self._in_subspace(rows)
        distance = torch.full_like(bound, torch.inf)
        evaluated = self._evaluate(rows, distance, _least(bound))
        left = self._left(bound, distance)
        for k, of in _by_cluster(left):
            bound[k, of] = self._in_whole(rows[of] - self.means[k], k)
        bound.masked_fill_(~left, torch.inf)
        evaluated += self._evaluate(rows, distance, _least(bound) & self._left(bound, distance))
        evaluated += self._evaluate(rows, distance, self._left(bound, distance))
        # For a row that is not finite the least distance is NaN, which none is at most: index 0.
        near = distance <= distance.amin(0) * (1 + 16 * torch.finfo(rows.dtype).eps)
        index = near.byte().argmax(0)
        return NearestClusters(index, distance.gather(0, index[None])[0], int(left.sum()), evaluated)

    def _left(self, bound: Tensor, distance: Tensor) -> Tensor:
        """The pairs (K, n) without a distance that the bound does not rule out; nor does a bound that is NaN."""
        limit = distance.amin(0).square() * (1 + 32 * torch.finfo(bound.dtype).eps)
        return ~(bound > limit) & distance.isposinf()

    def _evaluate(self, rows: Tensor, distance: Tensor, chosen: Tensor) -> int:
        for k, of in _by_cluster(chosen):
            distance[k, of] = self.squared((rows[of] - self.means[k])[None], slice(k, k + 1))[0].sqrt()
        return int(chosen.sum())

    def _in_whole(self, offsets: Tensor, k: int) -> Tensor:
        """The bound (n,) with Q = I for offsets (n, d) from the mean of cluster k."""
        rank, dim = self.factors.shape[1:]
        epsilon = dim * torch.finfo(offsets.dtype).eps
        length = torch.linalg.vector_norm(offsets, dim=1)
        reach = torch.linalg.vector_norm(offsets @ self.factors[k].T * self.scale[k], dim=1)
        reach += length * (epsilon * rank**0.5)
        return (length.square() * (1 - epsilon) - reach.square()) * self.rest[k].square()

    def _in_subspace(self, rows: Tensor) -> Tensor:
        """The bound (K, n) in the subspace for rows (n, d)."""
        clusters, rank, size = self.inside.shape
        projected = ((rows.double() - self.centre) @ self.basis.T).float()
        epsilon = torch.finfo(torch.float32).eps
        # What rounding the projections to float32 may add to a length.
        far = (torch.linalg.vector_norm(projected, dim=1) + self.far)[:, None] * (4 * epsilon)
        projected = torch.nn.functional.pad(projected, (0, 2), value=1.0)
        bound = rows.new_empty(clusters, len(rows))
        for centre, k in zip(self.centres, _slices(clusters, _GROUP)):
            offsets = projected - centre
            coarse = offsets.to(self.dtype)
            product = coarse @ self.inside[k].flatten(0, 1).to(self.dtype).T
            length, lengths = torch.linalg.vector_norm(offsets[:, :-2], dim=1, keepdim=True), self.local[k].norm(dim=1)
            square = torch.addmm(length.square() + lengths.square(), offsets, self.local[k].T, alpha=-2)
            both = length + lengths
            error = both.square() * (epsilon * size)
            # 1.004 > 1/(1 − 1/256): the rounding of the product itself. 2⁻¹⁶: that of −Bμ in two pieces.
            reach = torch.linalg.vector_norm(product.unflatten(1, (-1, rank)), dim=2, dtype=torch.float32) * 1.004
            reach += torch.linalg.vector_norm(offsets - coarse, dim=1, keepdim=True)
            reach += both * (epsilon * size * rank**0.5 + 2.0**-16)
            reach += (square + error).clamp(min=0).sqrt() * self.loss[k]
            least = (square - error - reach.square()).clamp(min=0).sqrt() - far
            bound[k] = (least.clamp(min=0) * self.rest[k]).square().T
        return bound


def _subspace(means: Tensor, factors: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of the means (d,), and Q (q, d) in float64. ``scale`` (K, r) makes H/ρ of the factors."""
    clusters, rank, dim = factors.shape
    centre = means.mean(0)
    some = slice(None, None, -(-clusters * rank // _SAMPLE))
    axes = (factors[some] * scale[some, :, None]).flatten(0, 1)
    scatter = axes.T @ axes * (rank / len(axes)) + (means - centre).T @ (means - centre) / clusters
    leading = torch.linalg.eigh(scatter)[1][:, -max(1, dim // 6) :]
    return centre, torch.linalg.qr(leading.double())[0].T


def _slices(clusters: int, step: int) -> list[slice]:
    return [slice(start, start + max(1, step)) for start in range(0, clusters, max(1, step))]


def _least(bound: Tensor) -> Tensor:
    return torch.zeros_like(bound, dtype=torch.bool).scatter_(0, bound.argmin(0, keepdim=True), True)


def _by_cluster(chosen: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Each cluster that a pair of ``chosen`` (K, n) names, with the rows it is paired with."""
    for k in chosen.any(1).nonzero()[:, 0].tolist():
        yield k, chosen[k].nonzero()[:, 0]


def _fastest(size: int) -> torch.dtype:
    """bfloat16 where it multiplies faster than float32: a processor without instructions for it is slow."""
    arrays = [torch.ones(512, size, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    return min(arrays, key=lambda array: min(timeit.repeat(lambda: array @ array.T, number=1, repeat=3))).dtype
