"""Strata of STL: k-means over the latents of all classes together, and the vote that gives an image its stratum.

B. Sun, N. Tsai, F. Liu, R. Yu, H. Su, "Adversarial Defense by Stratified Convolutional Sparse Coding", CVPR 2019,
section 3.4. Latents are projected to their leading principal components, as the authors' code does, and k-means
divides them; an image belongs to the stratum of most of its k nearest training latents.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from raypurify.clusters.arrays import Array, finite_rows
from raypurify.clusters.blocks import Block, EachBlock, Pass, T, extent_of
from raypurify.clusters.covariance import moments_of
from raypurify.clusters.kmeans import fit_kmeans
from raypurify.clusters.neighbours import majority, nearest_rows
from raypurify.clusters.scatter import merge_scatters, scatter_block
from raypurify.config import StrataSettings
from raypurify.errors import BundleError, DataError

# Training features that measure how often the kept ones vote as all do.
_MEASURED = 2048
# What float16 may take from a feature, of the largest one.
_LOSS = 2.0**-10
_FIT = "fit the bundle again"


@dataclass(frozen=True, eq=False)
class Strata:
    """K strata of latents of d numbers, in p principal components.

    Attributes: ``mean`` (d,) and ``components`` (p, d), orthonormal rows, leading ones first, of the PCA; ``centroids``
    (K, p) of the strata; ``features`` (n, p) of some training images, and their strata ``labels`` (n,) int64, of which
    the nearest ``neighbours`` vote. Floats are float32. Make it with :func:`fit_strata`, store it with ``state``.

    >>> rows = torch.tensor([[0.0, 0], [0, 1], [1, 0], [9, 9], [9, 8], [8, 9]])
    >>> strata = fit_strata(rows, StrataSettings(count=2, neighbours=3, keep=6)).strata
    >>> strata.vote(torch.tensor([[7.0, 7.0]]))[0].item() == strata.vote(rows)[0][3].item()
    True
    """

    mean: Tensor
    components: Tensor
    centroids: Tensor
    features: Tensor
    labels: Tensor
    neighbours: int

    @property
    def count(self) -> int:
        """The number K of strata."""
        return len(self.centroids)

    @property
    def dim(self) -> int:
        """The number d of features of a latent."""
        return len(self.mean)

    def project(self, latents: Tensor) -> Tensor:
        """Principal components (N, p) of latents (N, d), float32; differentiable. Raises DataError for other shapes."""
        if latents.ndim != 2 or latents.shape[1] != self.dim:
            raise DataError(f"latents have shape {tuple(latents.shape)}: expected (N, {self.dim})")
        with torch.autocast(latents.device.type, enabled=False):
            return (latents.float() - self.mean) @ self.components.T

    @torch.no_grad()
    def vote(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """The stratum (N,) int64 of latents (N, d), and their distance (N,) as ``distance`` has it.

        The stratum of most of the ``neighbours`` nearest features; between equally many, that of the nearest one. Not
        differentiable (see ``distances``). Raises DataError for other shapes.
        """
        points = self.project(latents)
        near = nearest_rows(points, self.features, self.neighbours)
        return majority(self.labels[near], self.count), self._mean_distance(points, near)

    def distance(self, latents: Tensor) -> Tensor:
        """Mean Euclidean distance (N,) to the ``neighbours`` nearest features, of whichever stratum; differentiable.

        Says how far a latent is from those of training images. A stratum by itself has no distance: it is a share of
        all images, cut off where the next begins.
        """
        points = self.project(latents)
        return self._mean_distance(points, nearest_rows(points, self.features, self.neighbours))

    def distances(self, latents: Tensor) -> Tensor:
        """Euclidean distances (N, K) to the centroids; differentiable, with gradient 0 at a centroid.

        The vote has no gradient. Strata are the cells of their centroids, so whoever moves an image's vote moves these.
        """
        return torch.linalg.vector_norm(self.project(latents)[:, None] - self.centroids, dim=2)

    def _mean_distance(self, points: Tensor, near: Tensor) -> Tensor:
        return torch.linalg.vector_norm(points[:, None] - self.features[near], dim=2).mean(1)

    def to(self, device: torch.device | str) -> "Strata":
        """A copy on another device."""
        moved: dict[str, Any] = {name: part.to(device) for name, part in self.state().items()}
        return replace(self, **moved)

    def state(self) -> dict[str, Tensor]:
        """The tensors to store: mean, components, centroids, features, labels."""
        return {field.name: getattr(self, field.name) for field in fields(self)[:-1]}

    @classmethod
    def from_state(cls, state: dict[str, Tensor], neighbours: int) -> "Strata":
        """The inverse of ``state``.

        Raises BundleError for tensors that are missing, misshapen or not finite, for labels of no stratum, and for more
        ``neighbours`` than there are features.
        """
        names = [field.name for field in fields(cls)][:-1]
        missing = [name for name in names if name not in state]
        if missing:
            raise BundleError(f"strata lack the tensor {missing[0]!r}: {_FIT}")
        mean, components, centroids, features, labels = (state[name].contiguous() for name in names)
        dims = [part.ndim for part in (mean, components, centroids, features, labels)]
        if (
            dims != [1, 2, 2, 2, 1]
            or 0 in (*components.shape, *centroids.shape, *features.shape)
            or components.shape[1] != len(mean)
            or {centroids.shape[1], features.shape[1]} != {len(components)}
            or len(labels) != len(features)
        ):
            shapes = ", ".join(f"{name} {tuple(state[name].shape)}" for name in names)
            raise BundleError(
                f"strata do not fit together: {shapes}; expected (d,), (p, d), (K, p), (n, p), (n,); {_FIT}"
            )
        for name in names[:-1]:
            # As float32, which has no room for all that float64 has.
            if not state[name].is_floating_point() or not state[name].float().isfinite().all():
                raise BundleError(f"strata: tensor {name!r} holds values that are not finite numbers; {_FIT}")
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise BundleError(f"strata: labels are of type {labels.dtype}, not whole numbers; {_FIT}")
        if labels.amin() < 0 or labels.amax() >= len(centroids):
            raise BundleError(
                f"strata: labels reach from {labels.amin()} to {labels.amax()}, but there are "
                f"{len(centroids)} strata; {_FIT}"
            )
        if not 1 <= neighbours <= len(features):
            raise BundleError(f"strata: {neighbours} neighbours of {len(features)} features cannot vote; {_FIT}")
        return cls(mean.float(), components.float(), centroids.float(), features.float(), labels.long(), neighbours)


class FittedStrata(NamedTuple):
    """Strata of n training latents, their ``rows`` (n,), numbers ascending, the ``labels`` (n,) of these, both int64,
    and the ``agreement``: the share of training latents for which the kept features vote as all of them would."""

    strata: Strata
    rows: np.ndarray
    labels: np.ndarray
    agreement: float


def fit_strata(latents: Array | EachBlock, settings: StrataSettings, seed: int = 0) -> FittedStrata:
    """Find the strata of latents: a whole array (n, d), or what runs passes over blocks of them (``blocks.EachBlock``).

    PCA by the exact covariance, k-means with ``n_init`` greedy k-means++ starts over the components of all rows, and
    a seeded choice of ``keep`` rows whose features are kept, in the precision in which a bundle stores them. Agreement
    is measured on 2,048 rows that are not kept, chosen by the seed too; it is 1 where all rows are kept.

    Latents stay in their blocks; components of all, (n, p) float32, come together here, and k-means needs three times
    as much; measured, 3.6 GB for a million images at 128 components. Fewer strata than ``count`` where latents have
    fewer different values.

    Raises DataError for latents that are not finite, by number of the row, that are all equal, or fewer than ``count``
    or ``neighbours``.
    """
    each_block = latents if callable(latents) else _whole(latents)
    rows, mean, components, features = _components(each_block, settings.components)
    if len(rows) < settings.neighbours:
        raise DataError(f"{settings.neighbours} neighbours of {len(rows)} latents cannot vote: lower strata.neighbours")
    if len(rows) < settings.count:
        raise DataError(f"{settings.count} strata of {len(rows)} latents cannot be: lower strata.count")
    found = fit_kmeans(features, settings.count, n_init=settings.n_init, seed=seed)
    order = np.random.default_rng((seed, 1)).permutation(len(rows))
    kept, others = np.sort(order[: settings.keep]), order[settings.keep :][:_MEASURED]
    centroids, labels, every = (torch.from_numpy(part) for part in (found.centroids, found.labels, features))
    basis = torch.from_numpy(mean), torch.from_numpy(components)
    strata = Strata(*basis, centroids, halved(every[kept]).float(), labels[kept], settings.neighbours)
    agreement = 1.0
    if len(others):
        among_kept, among_all = (
            majority(whose[nearest_rows(every[others], of, settings.neighbours)], strata.count)
            for of, whose in ((strata.features, strata.labels), (every, labels))
        )
        agreement = float((among_kept == among_all).double().mean())
    return FittedStrata(strata, rows, labels.numpy(), agreement)


def _whole(latents: Array) -> EachBlock:
    rows = finite_rows(latents)
    block = Block(rows, np.arange(len(rows)))

    def each_block(look: Pass[T]) -> Iterable[T]:
        return [look(block)]

    return each_block


def _components(each_block: EachBlock, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Numbers (n,) of the rows ascending, mean (d,), ``count`` principal axes (p, d), components of the rows (n, p)."""
    extent_of(each_block)
    sums = merge_scatters(each_block(scatter_block))
    axes = moments_of(sums).spectrum.axes[:count]
    if not len(axes):
        raise DataError(f"all {sums.count} latents are equal: the auto-encoder learned nothing, train it again")
    # An axis may point either way.
    peaks = np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], 1)
    mean, components = sums.mean.astype(np.float32), (axes * np.sign(peaks)).astype(np.float32)
    numbers, parts = zip(*each_block(Project(mean, components)))
    order = np.argsort(np.concatenate(numbers), kind="stable")
    return np.concatenate(numbers)[order], mean, components, np.concatenate(parts)[order]


class Project(NamedTuple):
    """The pass that projects rows, block → (their numbers (n,), components (n, p) float32)."""

    mean: np.ndarray
    components: np.ndarray

    def __call__(self, block: Block) -> tuple[np.ndarray, np.ndarray]:
        found = np.empty((len(block.latents), len(self.components)), np.float32)
        for start in range(0, len(found), _MEASURED):
            part = slice(start, start + _MEASURED)
            found[part] = (block.latents[part].astype(np.float32) - self.mean) @ self.components.T
        return block.numbers, found


def halved(features: Tensor) -> Tensor:
    """``features`` as float16 where that takes no more than 2⁻¹⁰ of the largest from any, which it does not unless they
    are huge or tiny; else as they are. Those of :func:`fit_strata` lose nothing.

    >>> halved(torch.tensor([0.5])).dtype, halved(torch.tensor([1e6])).dtype
    (torch.float16, torch.float32)
    """
    half = features.half()
    return half if (half.float() - features).abs().amax() <= _LOSS * features.abs().amax() else features
