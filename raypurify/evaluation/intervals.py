"""How sure a figure is: intervals of one accuracy, and of the difference of two on the same images."""

import math
from dataclasses import dataclass

import numpy as np

Z = 1.959964
EXACT = 1000
"""So many images that differ are tested by every exchange of the two; of more, the mean is normal."""
FEW = 10
"""Fewer images than this that are unlike the most common one are no spread to go by."""


@dataclass(frozen=True)
class Difference:
    """One accuracy minus another on the same images, with its 95 % interval, and ``p``, the probability of a difference
    this large were there none."""

    value: float
    low: float
    high: float
    p: float


def wilson(hits: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson 1927). Raises ValueError for counts that cannot be.

    >>> [round(bound, 3) for bound in wilson(8, 10)]
    [0.49, 0.943]
    """
    if not 0 <= hits <= count or count < 1:
        raise ValueError(f"{hits} hits of {count}")
    hits, count = float(hits), int(count)  # NumPy's integers overflow in the cube
    p, width = hits / count, Z * math.sqrt(hits * (count - hits) / count**3 + Z * Z / (4 * count * count))
    middle, scale = p + Z * Z / (2 * count), 1 + Z * Z / count
    return max(0.0, (middle - width) / scale), min(1.0, (middle + width) / scale)


def paired(first: np.ndarray, second: np.ndarray) -> Difference:
    """Accuracy of ``first`` minus that of ``second``, (n,) bool each, image by image the same.

    Interval: Wald's with half an image added to each of the four cells (Agresti and Min, Statistics in Medicine 2005);
    p: McNemar's test, exact. Raises ValueError where there is no image, or not the same number in both.

    >>> paired(np.array([True] * 30 + [False] * 10), np.array([True] * 20 + [False] * 20)).value
    0.25
    """
    first, second = _same_images(first, second, 1)
    won, lost = int((first & ~second).sum()), int((~first & second).sum())
    low, high = _with_half_an_image(won - lost, won + lost, len(first))
    return Difference((won - lost) / len(first), low, high, _binomial(min(won, lost), won + lost))


def paired_mean(first: np.ndarray, second: np.ndarray) -> Difference:
    """Mean accuracy over several attacks of ``first`` minus that of ``second``, (attacks, n) bool each.

    An image is drawn with all its attacks, so interval and p are those of the mean of n differences. The interval is
    that of :func:`paired`, so that it has a width where hardly any image differs. p is that of exchanging the two in
    each image by chance: exact where up to ``EXACT`` images differ, normal where more do. Raises ValueError where there
    is no image or attack, or not the same number in both.

    >>> one, none = np.ones((3, 20), bool), np.zeros((3, 20), bool)
    >>> paired_mean(one, none).p == 2 / 2**20
    True
    """
    first, second = _same_images(first, second, 2)
    attacks, count = first.shape
    # Whole numbers, so that equal sums are equal to the bit.
    each = first.sum(0, dtype=int) - second.sum(0, dtype=int)
    total, squares = int(each.sum()), int((each * each).sum())
    low, high = _with_half_an_image(total / attacks, squares / attacks**2, count)
    return Difference(total / attacks / count, low, high, _exchanged(each[each != 0]))


def mean_interval(correct: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of a mean accuracy over several attacks on the same images, (attacks, n) bool; normal.

    Where fewer than ``FEW`` images are unlike the most common one there is no spread to go by, and it is Wilson's,
    which is the widest. Raises ValueError where there is no image or attack.

    >>> [round(bound, 2) for bound in mean_interval(np.array([[True, True] * 50, [True, False] * 50]))]
    [0.7, 0.8]
    """
    correct, _ = _same_images(correct, correct, 2)
    attacks, count = correct.shape
    each = correct.sum(0, dtype=int)
    if count - np.bincount(each).max() < FEW:
        return wilson(each.sum() / attacks, count)
    value, error = _mean(each / attacks)
    return max(0.0, value - Z * error), min(1.0, value + Z * error)


def _same_images(first: np.ndarray, second: np.ndarray, axes: int) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    if first.shape != second.shape or first.ndim != axes or not first.size:
        raise ValueError(f"outcomes of shapes {first.shape} and {second.shape} are not of the same images")
    return first, second


def _with_half_an_image(total: float, squares: float, count: int) -> tuple[float, float]:
    """Wald's interval of a mean of ``count`` differences, by their sum and that of their squares, with half an image
    added to each of the four cells: among them one difference of 1 and one of −1, half each."""
    size = count + 2
    middle = total / size
    half = Z * math.sqrt(squares + 1 - total * total / size) / size
    return max(-1.0, middle - half), min(1.0, middle + half)


def _mean(each: np.ndarray) -> tuple[float, float]:
    """A mean and its standard error."""
    return float(each.mean()), float(each.std(ddof=1)) / math.sqrt(len(each))


def _exchanged(each: np.ndarray) -> float:
    """The probability that a sum of these whole numbers, each with its sign by chance, is as far from 0 as theirs."""
    total = abs(int(each.sum()))
    if not total:
        return 1.0
    if len(each) > EXACT:
        return math.erfc(total / math.sqrt(2 * float((each * each).sum())))
    reach = int(abs(each).sum())
    chance = np.zeros(2 * reach + 1)
    chance[reach] = 1
    for size in abs(each):
        # What is rolled over the end is 0.
        chance = (np.roll(chance, size) + np.roll(chance, -size)) / 2
    return min(1.0, 2 * float(chance[reach + total :].sum()))


def _binomial(fewer: int, count: int) -> float:
    """Twice the probability of at most ``fewer`` heads in ``count`` throws."""
    tail = term = 1
    for k in range(fewer):
        term = term * (count - k) // (k + 1)
        tail += term
    return min(1.0, 2 * tail / 2**count)
