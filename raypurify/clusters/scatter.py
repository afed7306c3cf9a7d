"""Moments of rows that come in parts: count, mean, and sums of products about the mean, merged without cancellation."""

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np

from raypurify.clusters.blocks import Block, EachBlock, Frame, Pass
from raypurify.clusters.lloyd import Scorer, Stack, stack
from raypurify.errors import DataError

# Bytes of d × d matrices that one pass over blocks may return.
_MATRICES = 1 << 27


class Scatter(NamedTuple):
    """Sums over ``count`` rows x (n, d) with mean μ and y = x − μ, in float64: ``second`` Σyyᵀ (d, d), ``third`` Σ‖y‖²y
    (d,), ``fourth`` Σ‖y‖⁴, ``largest`` max |x|.

    Ledoit–Wolf needs no more, and two of them can be merged: T. F. Chan, G. H. Golub, R. J. LeVeque, "Algorithms for
    computing the sample variance", The American Statistician 37 (1983), carried on to fourth order.
    """

    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs
    mean: np.ndarray
    second: np.ndarray
    third: np.ndarray
    fourth: float
    largest: float

    def about(self, point: np.ndarray) -> "Scatter":
        """The sums about ``point`` (d,) instead of the mean: with s = μ − point, y becomes y + s."""
        s = self.mean - point
        square, total, turned = float(s @ s), float(np.trace(self.second)), self.second @ s
        return self._replace(
            mean=point,
            second=self.second + self.count * np.outer(s, s),
            third=self.third + 2 * turned + (total + self.count * square) * s,
            fourth=self.fourth
            + 4 * float(s @ turned)
            + self.count * square**2
            + 4 * float(self.third @ s)
            + 2 * square * total,
        )


def scatter(rows: np.ndarray) -> Scatter:
    """The sums of rows (n ≥ 1, d).

    >>> scatter(np.array([[0.0], [2.0]])).second
    array([[2.]])
    """
    mean = rows.mean(0, dtype=np.float64)
    centred = rows - mean
    squares = np.square(centred).sum(1)
    largest = float(np.abs(rows).max())
    return Scatter(len(rows), mean, centred.T @ centred, squares @ centred, float(squares @ squares), largest)


def merge_scatters(parts: Iterable[Scatter]) -> Scatter:
    """The sums of all rows of some parts, one at least. The order of parts matters to the last digits only.

    >>> rows = np.arange(6.0)[:, None]
    >>> merge_scatters([scatter(rows[:2]), scatter(rows[2:])]).second == scatter(rows).second
    array([[ True]])
    """
    return reduce(_merge_two, parts)


def _merge_two(a: Scatter, b: Scatter) -> Scatter:
    count = a.count + b.count
    mean = a.mean + (b.mean - a.mean) * (b.count / count)
    a, b = a.about(mean), b.about(mean)
    return Scatter(count, mean, a.second + b.second, a.third + b.third, a.fourth + b.fourth, max(a.largest, b.largest))


def pooled_within(scatters: Iterable[Scatter]) -> Scatter:
    """The sums of all clusters' rows, each about its own cluster's mean.

    >>> pooled_within([scatter(np.array([[0.0], [2.0]])), scatter(np.array([[9.0]]))]).second
    array([[2.]])
    """
    return merge_scatters(part._replace(mean=np.zeros_like(part.mean)) for part in scatters)


class Scatters(NamedTuple):
    """The pass that gathers the sums of some clusters, block → one Scatter each, or None where it has no row.

    ``stack`` holds one run. A pass returns d² numbers for each of ``clusters``.
    """

    frame: Frame
    stack: Stack
    clusters: Sequence[int]

    def __call__(self, block: Block) -> list[Scatter | None]:
        found: list[Scatter | None] = [None] * len(self.clusters)
        scorer = Scorer(self.stack, block.latents.dtype)
        for chunk in block.chunks(self.frame):
            labels, rows = scorer.labels(chunk)[0], block.latents[chunk.of_block]
            for i, cluster in enumerate(self.clusters):
                if (of_cluster := labels == cluster).any():
                    part = scatter(rows[of_cluster])
                    found[i] = merge_scatters([before, part]) if (before := found[i]) else part
        return found


class KnownScatters(NamedTuple):
    """The pass that gathers the sums of some clusters whose images are known, as ``Scatters``.

    ``labels`` (n,) are those of the latents with the numbers ``rows`` (n,), ascending. Raises DataError for others.
    """

    rows: np.ndarray
    labels: np.ndarray
    clusters: Sequence[int]

    def __call__(self, block: Block) -> list[Scatter | None]:
        found = labels_of(block.numbers, self.rows, self.labels)
        members = (block.latents[found == cluster] for cluster in self.clusters)
        return [scatter(of_cluster) if len(of_cluster) else None for of_cluster in members]


def labels_of(numbers: np.ndarray, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The labels (n,) of latents with these numbers (n,), where those with the numbers ``rows``, ascending, have
    ``labels``. Raises DataError for a number that is none of them.

    >>> labels_of(np.array([7, 2]), rows=np.array([2, 5, 7]), labels=np.array([0, 1, 1]))
    array([1, 0])
    """
    places = np.searchsorted(rows, numbers).clip(max=len(rows) - 1)
    if len(other := numbers[rows[places] != numbers]):
        raise DataError(
            f"row {other.min()} has latents but no cluster: they are of other images than the clusters, fit again"
        )
    return labels[places]


def gather_scatters(each_block: EachBlock, frame: Frame, centroids: np.ndarray) -> list[Scatter]:
    """The sums of the rows nearest to each of centroids (k, d) in the frame, in as few passes as memory allows."""
    of, (count, width) = stack({0: centroids}), centroids.shape
    return _gathered(each_block, count, width, lambda some: Scatters(frame, of, some))


def gather_known(each_block: EachBlock, rows: np.ndarray, labels: np.ndarray, width: int) -> list[Scatter]:
    """The sums of the latents (…, ``width``) of each cluster, by the ``labels`` of their ``rows``, as few passes as
    memory allows."""
    return _gathered(each_block, labels.max() + 1, width, lambda some: KnownScatters(rows, labels, some))


def _gathered(
    each_block: EachBlock, count: int, width: int, look: Callable[[range], Pass[list[Scatter | None]]]
) -> list[Scatter]:
    at_once, found = max(1, _MATRICES // (8 * width**2)), []
    for start in range(0, count, at_once):
        parts = zip(*each_block(look(range(start, min(start + at_once, count)))))
        found += [merge_scatters(part for part in of_cluster if part) for of_cluster in parts]
    return found
