"""Blocks of latents in coordinates in which sums are exact, and so do not depend on order, blocks or workers.

A floating-point sum changes with the order of its terms. Here every feature, less the mean of its column, is rounded
to a multiple of one step, a power of two: about 2⁻³³ of the largest feature. Sums of such numbers are sums of integers,
below 2⁵³ in a chunk (where float64 is exact) and below 2⁶³ over all rows (int64).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np

from raypurify.errors import DataError

T = TypeVar("T")
Of = TypeVar("Of", covariant=True)

# A pass works on so many numbers at a time, but not on fewer rows: a sum over a chunk is as long as all centroids.
_CHUNK = 1 << 18
_ROWS = 1 << 10
# Bits of the largest feature: 2¹⁸ rows of a chunk add up below 2⁵³.
_BITS = 34


class Frame(NamedTuple):
    """The coordinates of all passes over ``count`` latents: z = (x − origin) / step, rounded, in float64.

    ``variance`` is the mean variance of the features of z.
    """

    origin: np.ndarray
    step: float
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs
    variance: float = 0.0

    def latents(self, points: np.ndarray) -> np.ndarray:
        """Points (…, d) of the frame back in the features' own units."""
        return points * self.step + self.origin


class Chunk(NamedTuple):
    """Some rows of a block: their place in it, z (n, d) float64, the same in the latents' dtype, and ‖z‖ (n,)."""

    of_block: slice
    points: np.ndarray
    rounded: np.ndarray
    norms: np.ndarray


@dataclass
class Block:
    """Latents (n, d), each with a number of its own (n,), which a pass looks at.

    With ``keep`` the coordinates are computed once and stay in ``memo``, as do the labels of the last pass; without, a
    pass needs memory for one chunk only.
    """

    latents: np.ndarray
    numbers: np.ndarray
    keep: bool = False
    memo: dict = field(default_factory=dict)

    def parts(self) -> Iterator[slice]:
        """The places of some rows after the others, so many as a pass works on at a time."""
        rows = max(_ROWS, _CHUNK // self.latents.shape[1])
        for start in range(0, len(self.latents), rows):
            yield slice(start, min(start + rows, len(self.latents)))

    def chunks(self, frame: Frame) -> Iterator[Chunk]:
        if not self.keep:
            return self._placed(frame)
        kept = self.memo.get("chunks")
        if kept is None or kept[0] is not frame.origin:
            kept = self.memo["chunks"] = frame.origin, list(self._placed(frame))
        return iter(kept[1])

    def _placed(self, frame: Frame) -> Iterator[Chunk]:
        for part in self.parts():
            points = self.latents[part].astype(np.float64)
            points -= frame.origin
            points /= frame.step
            np.rint(points, out=points)
            rounded = points.astype(self.latents.dtype, copy=False)
            yield Chunk(part, points, rounded, np.sqrt(np.einsum("nd,nd->n", rounded, rounded)))


class Pass(Protocol[Of]):
    """A function of one block."""

    def __call__(self, block: Block, /) -> Of: ...


EachBlock: TypeAlias = Callable[[Pass[T]], Iterable[T]]
"""Runs a function on every block and gives the results, in any order: a loop here, tasks on a cluster there."""


class Extent(NamedTuple):
    """The ``count`` of latents x (count, ``width``), and the ``largest`` |x|."""

    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs
    width: int
    largest: float


def extent_of(each_block: EachBlock) -> Extent:
    """The extent of a set of latents, by one pass. Raises DataError for a row that is not finite, by its number."""
    extents, bad = zip(*each_block(_extent))
    worst = [number for number in bad if number is not None]
    if worst:
        raise DataError(f"the latent of row {min(worst)} is not finite: the network diverged, or drop that image")
    counts, widths, sizes = zip(*extents)
    return Extent(sum(counts), widths[0], max(sizes))


def survey(each_block: EachBlock) -> Frame:
    """The frame of a set of latents, by three passes: extent, mean, variance.

    Raises DataError for a row that is not finite, by its number.
    """
    count, width, largest = extent_of(each_block)
    coarse = _frame(np.zeros(width), largest, count)
    total = sum(each_block(_Total(coarse)))
    frame = _frame(coarse.latents(total / count), 2 * largest, count)
    return frame._replace(variance=rounded_sum(sum(each_block(_Squares(frame)))) / width / count)


def _frame(origin: np.ndarray, largest: float, count: int) -> Frame:
    bits = min(_BITS, 62 - count.bit_length())
    step = float(2.0 ** (np.frexp(largest)[1] - bits)) if largest else 1.0
    # An origin on the grid leaves latents on it where they are.
    return Frame(np.rint(origin / step) * step, step, count)


def _extent(block: Block) -> tuple[Extent, int | None]:
    finite = np.isfinite(block.latents).all(1)
    bad = None if finite.all() else int(block.numbers[~finite].min())
    count, width = block.latents.shape
    return Extent(count, width, float(np.abs(block.latents).max())), bad


class _Total(NamedTuple):
    frame: Frame

    def __call__(self, block: Block) -> np.ndarray:
        return sum(chunk.points.sum(0).astype(np.int64) for chunk in block.chunks(self.frame))


class _Squares(NamedTuple):
    frame: Frame

    def __call__(self, block: Block) -> int:
        return sum(exact_sum(np.square(chunk.points).sum(1)) for chunk in block.chunks(self.frame))


def exact_sum(values: np.ndarray) -> int:
    """Σ of finite values ≥ 0 in units of 2⁻¹⁰⁷⁴, without rounding: the same for any order and any parts.

    >>> exact_sum(np.array([0.1, 0.2])) + exact_sum(np.array([0.3])) == exact_sum(np.array([0.3, 0.2, 0.1]))
    True
    """
    mantissas, exponents = np.frexp(np.asarray(values, np.float64))
    whole = np.ldexp(mantissas, 53).astype(np.int64)
    total = 0
    for exponent in np.unique(exponents):
        these = whole[exponents == exponent]
        part = (int((these >> 26).sum()) << 26) + int((these & (1 << 26) - 1).sum())
        shift = int(exponent) - 53 + 1074
        total += part << shift if shift >= 0 else part >> -shift
    return total


def rounded_sum(total: int) -> float:
    """The float64 nearest to a sum of ``exact_sum``."""
    return total / (1 << 1074)
