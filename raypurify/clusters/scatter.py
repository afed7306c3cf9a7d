"""Moments of rows that come in parts: count, mean, and sums of products about the mean, merged without cancellation."""

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np

from raypurify.clusters.blocks import Block, EachBlock
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
    """The pass that gathers the sums of some ``clusters``, block → one Scatter each, or None where it has no row.

    ``labels`` (n,) are those of the latents with the numbers ``rows`` (n,), ascending. A pass returns d² numbers for
    each of ``clusters``, and needs memory for one chunk beside them. Raises DataError for latents of other numbers.
    """

    rows: np.ndarray
    labels: np.ndarray
    clusters: Sequence[int]

    def __call__(self, block: Block) -> list[Scatter | None]:
        found: list[Scatter | None] = [None] * len(self.clusters)
        labels = labels_of(block.numbers, self.rows, self.labels)
        for part in block.parts():
            for i, cluster in enumerate(self.clusters):
                if (of_cluster := labels[part] == cluster).any():
                    some = scatter(block.latents[part][of_cluster])
                    found[i] = merge_scatters([before, some]) if (before := found[i]) else some
        return found


def labels_of(numbers: np.ndarray, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The labels (n,) of latents with these numbers (n,), where those with the numbers ``rows``, ascending, have
    ``labels``. Raises DataError for a number that is none of them.

    >>> labels_of(np.array([7, 2]), rows=np.array([2, 5, 7]), labels=np.array([0, 1, 1]))
    array([1, 0])
    """
    places = np.searchsorted(rows, numbers).clip(max=len(rows) - 1)
    if len(other := numbers[rows[places] != numbers]):
        raise other_images(f"row {other.min()} has latents but no cluster")
    return labels[places]


def other_images(problem: str) -> DataError:
    """The error of clusters that are of other images than latents: fitting again alone keeps stages that are complete.

    >>> other_images("row 3 has latents but no cluster").args[0].partition(":")[0]
    'row 3 has latents but no cluster'
    """
    return DataError(
        f"{problem}: latents and clusters are of different images; "
        "remove the run's folders of both and fit again, or choose another run directory"
    )


def gather_scatters(each_block: EachBlock, rows: np.ndarray, labels: np.ndarray, width: int) -> list[Scatter]:
    """The sums of the latents (n, ``width``) of each cluster, in as few passes as memory allows; ``rows`` (n,) and
    ``labels`` (n,) as of ``Scatters``."""
    count, at_once, found = int(labels.max()) + 1, max(1, _MATRICES // (8 * width**2)), []
    for start in range(0, count, at_once):
        parts = zip(*each_block(Scatters(rows, labels, range(start, min(start + at_once, count)))))
        found += [merge_scatters(part for part in of_cluster if part) for of_cluster in parts]
    return found


def scatter_block(block: Block) -> Scatter:
    """The pass that gathers the sums of all rows, with memory for one chunk beside them."""
    return merge_scatters(scatter(block.latents[part]) for part in block.parts())
