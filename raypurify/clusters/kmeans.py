"""k-means: the within-cluster sum of squares of RSFP equation 4, by Lloyd's iteration."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from raypurify.clusters.arrays import Array, finite_rows, like, to_numpy
from raypurify.clusters.blocks import Block, Pass, T
from raypurify.clusters.candidates import assign, fit_candidates
from raypurify.errors import ConfigError, DataError

_INITS = ("k-means++", "random")


@dataclass(frozen=True)
class KMeans:
    """Centroids (k, d) in the dtype of the latents, labels (N,) int64, and the WCSS Σ‖R(x) − μ‖² they reach."""

    centroids: Array
    labels: Array
    inertia: float


def fit_kmeans(
    latents: Array,
    k: int,
    init: str | Array = "k-means++",
    n_init: int = 4,
    tol: float = 1e-4,
    max_iter: int = 300,
    seed: int = 0,
) -> KMeans:
    """Partition latents (N, d) into k clusters of least WCSS; the best of ``n_init`` starts.

    RSFP equation 4 prints the norm without its square; the text's WCSS, and k-means, are the sum of squares. ``init``
    is "k-means++" (Arthur & Vassilvitskii, 2007, the paper's [43]), "random" (k rows), or k starting centroids (k, d),
    which make ``n_init`` 1. ``tol`` is relative to the mean variance of the features, as in scikit-learn; with the same
    start the result is that of scikit-learn's ``KMeans(algorithm="lloyd")``. Sums are exact (see ``blocks``): the same
    latents in another order, from the same start, give the same clusters bit for bit.

    Every cluster of the result has at least one row. Fewer than k distinct rows give one cluster per distinct row,
    hence fewer than k centroids, and inertia 0 up to rounding.

    Raises DataError for latents that are empty, not (N, d) or not finite, for k > N, and for ``init`` of another shape.

    >>> km = fit_kmeans(np.array([[0.0], [0.1], [5.0]]), 2)
    >>> sorted(km.centroids[:, 0].round(2).tolist()), round(km.inertia, 3)
    ([0.05, 5.0], 0.005)
    """
    rows = finite_rows(latents)
    if k < 1:
        raise ConfigError(f"k={k}: at least one cluster is needed")
    if k > len(rows):
        raise DataError(f"k={k} clusters asked of {len(rows)} latents: ask for at most one cluster per image")
    block = Block(rows, np.arange(len(rows)), keep=True)

    def each_block(look: Pass[T]) -> Iterable[T]:
        return [look(block)]

    frame, [best] = fit_candidates(each_block, [k], _start(init, k, rows), n_init, tol, max_iter, seed)
    _, labels, centroids = assign(each_block, frame, best.centroids)
    centroids = frame.latents(centroids).astype(rows.dtype)
    return KMeans(like(centroids, latents), like(labels.astype(np.int64), latents), best.inertia)


def _start(init: str | Array, k: int, rows: np.ndarray) -> str | np.ndarray:
    if isinstance(init, str):
        if init not in _INITS:
            raise ConfigError(f"init={init!r}: use {' or '.join(map(repr, _INITS))}, or an array of starting centroids")
        return init
    start = to_numpy(init).astype(rows.dtype)
    if start.shape != (k, rows.shape[1]):
        raise DataError(
            f"init has shape {start.shape}: expected {(k, rows.shape[1])}, one starting centroid per cluster"
        )
    if not np.isfinite(start).all():
        raise DataError("init holds starting centroids that are not finite")
    return start
