"""How sure a figure is: intervals of one accuracy, and of the difference of two on the same images."""

import math
from dataclasses import dataclass

import numpy as np

Z = 1.959964


@dataclass(frozen=True)
class Difference:
    """One accuracy minus another on the same images, with its 95 % interval, and ``p``, the probability of a difference
    this large were there none."""

    value: float
    low: float
    high: float
    p: float


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson 1927). Raises ValueError for counts that cannot be.

    >>> [round(bound, 3) for bound in wilson(8, 10)]
    [0.49, 0.943]
    """
    if not 0 <= hits <= count or count < 1:
        raise ValueError(f"{hits} hits of {count}")
    p, width = hits / count, Z * math.sqrt(hits * (count - hits) / count**3 + Z * Z / (4 * count * count))
    middle, scale = p + Z * Z / (2 * count), 1 + Z * Z / count
    return max(0.0, (middle - width) / scale), min(1.0, (middle + width) / scale)


def paired(first: np.ndarray, second: np.ndarray) -> Difference:
    """Accuracy of ``first`` minus that of ``second``, (n,) bool each, image by image the same.

    Interval: Wald's with half an image added to each of the four cells (Agresti and Min, Statistics in Medicine 2005);
    p: McNemar's test, exact.

    >>> paired(np.array([True] * 30 + [False] * 10), np.array([True] * 20 + [False] * 20)).value
    0.25
    """
    count = len(first)
    won, lost = int((first & ~second).sum()), int((~first & second).sum())
    size, b, c = count + 2, won + 0.5, lost + 0.5
    middle = (b - c) / size
    half = Z * math.sqrt(b + c - (b - c) ** 2 / size) / size
    return Difference((won - lost) / count, middle - half, middle + half, _binomial(min(won, lost), won + lost))


def paired_mean(first: np.ndarray, second: np.ndarray) -> Difference:
    """Mean accuracy over several attacks of ``first`` minus that of ``second``, (attacks, n) bool each.

    An image is drawn with all its attacks, so interval and p are those of the mean of n differences (normal; n of a
    hundred and more).
    """
    value, error = _mean(first.mean(0) - second.mean(0))
    p = math.erfc(abs(value) / error / math.sqrt(2)) if error else 1.0
    return Difference(value, value - Z * error, value + Z * error, p)


def mean_interval(correct: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of a mean accuracy over several attacks on the same images, (attacks, n) bool; normal.

    >>> [round(bound, 2) for bound in mean_interval(np.array([[True, True] * 50, [True, False] * 50]))]
    [0.7, 0.8]
    """
    value, error = _mean(correct.mean(0))
    return max(0.0, value - Z * error), min(1.0, value + Z * error)


def _mean(each: np.ndarray) -> tuple[float, float]:
    """A mean and its standard error."""
    return float(each.mean()), float(each.std(ddof=1)) / math.sqrt(len(each)) if len(each) > 1 else 0.0


def _binomial(fewer: int, count: int) -> float:
    """Twice the probability of at most ``fewer`` heads in ``count`` throws."""
    tail = sum(math.comb(count, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**count)
