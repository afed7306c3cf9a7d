"""Moments of rows that come in parts: count, mean, and sums of products about the mean, merged without cancellation."""

from collections.abc import Iterable
from functools import reduce
from typing import NamedTuple

import numpy as np


class Scatter(NamedTuple):
    """Of ``count`` rows x (n, d) with mean μ and y = x − μ, in float64: Σyyᵀ (d, d), Σ‖y‖²y (d,), Σ‖y‖⁴, max |x|.

    What Ledoit–Wolf needs, and enough to merge two of them: T. F. Chan, G. H. Golub, R. J. LeVeque,
    "Algorithms for computing the sample variance", The American Statistician 37 (1983), carried on to fourth order.
    """

    count: int
    mean: np.ndarray
    second: np.ndarray
    third: np.ndarray
    fourth: float
    largest: float

    def about(self, point: np.ndarray) -> "Scatter":
        """The same sums about ``point`` instead of the mean: with s = μ − point, y becomes y + s."""
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


def merge(parts: Iterable[Scatter]) -> Scatter:
    """The sums of all rows of some parts. The order of parts matters to the last digits only.

    >>> rows = np.arange(6.0)[:, None]
    >>> merge([scatter(rows[:2]), scatter(rows[2:])]).second == scatter(rows).second
    array([[ True]])
    """
    return reduce(_merge_two, parts)


def _merge_two(a: Scatter, b: Scatter) -> Scatter:
    count = a.count + b.count
    mean = a.mean + (b.mean - a.mean) * (b.count / count)
    a, b = a.about(mean), b.about(mean)
    return Scatter(count, mean, a.second + b.second, a.third + b.third, a.fourth + b.fourth, max(a.largest, b.largest))
