"""The clusters of one class: k-means for every candidate k, the elbow, the distribution of each cluster."""

from typing import NamedTuple

import numpy as np

from raypurify.clusters.blocks import Block, EachBlock, extent_of
from raypurify.clusters.candidates import assign, fit_candidates
from raypurify.clusters.elbow import choose_k
from raypurify.clusters.estimates import Estimates, estimate_rows, estimate_scatters
from raypurify.clusters.scatter import (
    Scatter,
    gather_scatters,
    labels_of,
    merge_scatters,
    other_images,
    pooled_within,
    scatter,
)
from raypurify.config import ClusterSettings


class ClassSums(NamedTuple):
    """Sums of a class's latents about the means of their clusters, and about the mean of the class."""

    within: Scatter
    total: Scatter


class ClassClusters(NamedTuple):
    """The k clusters of a class of n images: ``rows`` (n,), the images' numbers, ascending, their ``labels`` (n,), the
    ``curve`` of WCSS at the numbers of clusters ``ks``, the distributions, and ``sums`` where the class was in blocks:
    of one in memory they are quickly had again."""

    rows: np.ndarray
    labels: np.ndarray
    ks: range
    curve: list[float]
    estimates: Estimates
    sums: ClassSums | None


def cluster_class(
    each_block: EachBlock, whole: Block | None, count: int, settings: ClusterSettings, seed: int
) -> ClassClusters:
    """Cluster the ``count`` latents of a class, which ``each_block`` looks at.

    ``whole`` is the block with all of them, in ascending order of their numbers, where there is such a one: covariances
    of small clusters then need no d × d matrix. Raises DataError for a latent that is not finite, by its number.
    """
    # Never more clusters than images.
    least, most = (min(k, count) for k in (settings.k or settings.k_min, settings.k or settings.k_max))
    ks = range(least, most + 1)
    frame, candidates = fit_candidates(each_block, ks, n_init=settings.n_init, seed=seed)
    curve = [candidate.inertia for candidate in candidates]
    rows, labels, _ = assign(each_block, frame, candidates[choose_k(curve, first_k=0)].centroids)
    estimates = _estimate(each_block, whole, len(frame.origin), rows, labels, settings)
    return ClassClusters(rows, labels, ks, curve, *estimates)


def estimate_class(
    each_block: EachBlock, whole: Block | None, rows: np.ndarray, labels: np.ndarray, settings: ClusterSettings
) -> tuple[Estimates, ClassSums | None]:
    """The distributions of clusters that are known, in other latents of the same images than they were found in; and
    the class's sums, as in ``ClassClusters``.

    ``rows`` (n,), ascending, are the numbers of the images, ``labels`` (n,) their clusters; ``each_block`` and
    ``whole`` as for ``cluster_class``. Raises DataError for a latent that is not finite, by its number, and for latents
    of other images.
    """
    extent = extent_of(each_block)
    if extent.count < len(rows):
        raise other_images(f"of {len(rows)} rows with a cluster only {extent.count} have latents")
    return _estimate(each_block, whole, extent.width, rows, labels, settings)


def _estimate(
    each_block: EachBlock,
    whole: Block | None,
    width: int,
    rows: np.ndarray,
    labels: np.ndarray,
    settings: ClusterSettings,
) -> tuple[Estimates, ClassSums | None]:
    if whole:
        found = labels_of(whole.numbers, rows, labels)
        parts = (whole.latents[found == k] for k in range(labels.max() + 1))
        return estimate_rows(parts, settings.form, settings.rank), None
    scatters = gather_scatters(each_block, rows, labels, width)
    return estimate_scatters(scatters, settings.form, settings.rank), _sums(scatters)


def sum_class(latents: np.ndarray, labels: np.ndarray) -> ClassSums:
    """The sums of a class whose latents (n, d) are in memory, with labels (n,) in 0..k−1."""
    return _sums([scatter(latents[labels == k]) for k in range(labels.max() + 1)])


def _sums(scatters: list[Scatter]) -> ClassSums:
    return ClassSums(pooled_within(scatters), merge_scatters(scatters))
