"""One step of Lloyd's iteration for many k-means at once: every row to its nearest centroid, then counts and sums.

Runs (numbers of clusters, restarts) share the pass: one matrix product gives the scores of a chunk's rows for the
centroids of all of them. Labels are exact: where the two best scores are closer than the product's rounding, squared
distances are computed in float64, row by row, so that a label does not depend on what else is in the chunk.
"""

from collections.abc import Iterable
from types import EllipsisType
from typing import Any, NamedTuple

import numpy as np

from raypurify.clusters.blocks import Block, Chunk, Frame

# Rounding errors of a product of d terms grow like √d·u (Higham & Mary 2019, SIAM J. Sci. Comput. 41); six times that.
_SAFETY = 6.0
# Numbers in the largest temporary array of an exact comparison.
_EXACT = 1 << 19


class Stack(NamedTuple):
    """The centroids of R runs: the first of every run, then the second of every run that has one, and so on.

    ``runs`` (R,) are the runs' own names, most clusters first; ``points`` (Σk, d) float64 in the frame; ``widths``: how
    many runs have a first, second, … centroid; ``starts``: where those begin in ``points``.
    """

    runs: tuple
    points: np.ndarray
    widths: tuple[int, ...]
    starts: tuple[int, ...]

    def places(self, position: int) -> np.ndarray:
        """Rows of ``points`` that are the centroids of the run at ``position``."""
        return np.array([start + position for start, width in zip(self.starts, self.widths) if width > position])


def stack(centroids: dict) -> Stack:
    """Put the centroids (k, d) of every run side by side."""
    runs = sorted(centroids, key=lambda run: -len(centroids[run]))
    rows, widths = [], []
    for j in range(len(centroids[runs[0]])):
        having = [centroids[run][j] for run in runs if len(centroids[run]) > j]
        rows += having
        widths.append(len(having))
    return Stack(tuple(runs), np.stack(rows), tuple(widths), tuple(np.cumsum([0, *widths[:-1]]).tolist()))


class Partial(NamedTuple):
    """Counts (Σk,) and sums (Σk, d), int64, of the rows nearest to each centroid of a stack."""

    counts: np.ndarray
    sums: np.ndarray

    def at(self, places: np.ndarray) -> "Partial":
        return Partial(self.counts[places], self.sums[places])

    def add(self, other: "Partial", places: np.ndarray | EllipsisType = ...) -> None:
        self.counts[places] += other.counts
        self.sums[places] += other.sums


def merge_partials(partials: Iterable[Partial]) -> Partial:
    """The counts and sums over all blocks."""
    total = None
    for partial in partials:
        # What comes from an object store cannot be written to.
        total = total or Partial(np.zeros_like(partial.counts), np.zeros_like(partial.sums))
        total.add(partial)
    assert total is not None  # there is a block at least
    return total


class Step(NamedTuple):
    """The pass of one iteration, block → Partial.

    A block that keeps its memory remembers the labels of each run, and counts only rows whose label has changed:
    integers have no rounding, so the result is the same.
    """

    frame: Frame
    stack: Stack
    remember: bool = True

    def __call__(self, block: Block) -> Partial:
        points, runs = self.stack.points, self.stack.runs
        remember = self.remember and block.keep
        known = block.memo.setdefault("labels", {}) if remember else {}
        before = np.stack(
            [known[run][0] if run in known else np.full(len(block.latents), -1, np.int32) for run in runs]
        )
        found = Partial(np.zeros(len(points), np.int64), np.zeros(points.shape, np.int64))
        labels = np.empty_like(before)
        scorer = Scorer(self.stack, block.latents.dtype)
        for chunk in block.chunks(self.frame):
            labels[:, chunk.of_block] = scorer.labels(chunk)
            _tally(chunk, labels[:, chunk.of_block], before[:, chunk.of_block], self.stack, found)
        for position, run in enumerate(runs if remember else ()):
            places = self.stack.places(position)
            if run in known:
                found.add(known[run][1], places)
            known[run] = labels[position], found.at(places)
        return found


def _tally(chunk: Chunk, labels: np.ndarray, before: np.ndarray, of: Stack, found: Partial) -> None:
    """Add the chunk's rows to the clusters they joined, and take them from those they left (−1: none)."""
    changed = (labels != before).T
    for sign, where, which in ((1, changed, labels), (-1, changed & (before >= 0).T, before)):
        row, position = np.nonzero(where)
        if not len(row):
            continue
        places = np.asarray(of.starts)[which.T[where]] + position
        sums = _one_hot(places, row, where.shape[0], len(of.points)) @ chunk.points
        found.sums[...] += sign * sums.astype(np.int64)
        found.counts[...] += sign * np.bincount(places, minlength=len(of.points))


def _one_hot(places: np.ndarray, rows: np.ndarray, count: int, height: int) -> Any:
    from scipy.sparse import csc_array

    ends = np.searchsorted(rows, np.arange(count + 1))
    return csc_array((np.ones(len(places)), places, ends), shape=(height, count))


class Scorer:
    """Finds the nearest centroid of every run for the rows of a chunk."""

    def __init__(self, of: Stack, dtype: np.dtype):
        self.stack = of
        self.points = of.points.astype(dtype)
        squares = np.einsum("kd,kd->k", of.points, of.points)
        self.half = (squares / 2).astype(dtype)[:, None]
        # Of a score x·c − ‖c‖²/2, relative to ‖x‖·max‖c‖ + max‖c‖²/2; the difference of two has twice that.
        self.reach = float(np.sqrt(squares.max()))
        self.relative = 2 * _SAFETY * (of.points.shape[1] ** 0.5 + 2) * float(np.finfo(dtype).eps) / 2

    def labels(self, chunk: Chunk) -> np.ndarray:
        """Nearest centroids (R, n) int32, the smallest index of equally near ones."""
        scores = self._scores(chunk)
        best = scores[: self.stack.widths[0]]
        second = np.full_like(best, -np.inf)
        labels = np.zeros(best.shape, np.int32)
        for j, (start, width) in enumerate(zip(self.stack.starts[1:], self.stack.widths[1:]), 1):
            score, top, next_best = scores[start : start + width], best[:width], second[:width]
            np.copyto(labels[:width], j, where=score > top)
            np.maximum(next_best, np.minimum(score, top), out=next_best)
            np.maximum(top, score, out=top)
        close = best - second <= self._margin(chunk)
        for position in np.flatnonzero(close.any(1)).tolist():
            rows = np.flatnonzero(close[position])
            labels[position, rows] = nearest(chunk.points[rows], self.stack.points[self.stack.places(position)])[0]
        return labels

    def squares(self, chunk: Chunk) -> tuple[np.ndarray, np.ndarray]:
        """Bounds from below and above (R, n) on the squared distance to the nearest centroid."""
        scores = self._scores(chunk)
        best = scores[: self.stack.widths[0]].astype(np.float64)
        for start, width in zip(self.stack.starts[1:], self.stack.widths[1:]):
            np.maximum(best[:width], scores[start : start + width], out=best[:width])
        length = np.square(chunk.norms, dtype=np.float64)
        about, error = length - 2 * best, self._margin(chunk) + self.relative * length
        return (about - error).clip(0), about + error

    def _scores(self, chunk: Chunk) -> np.ndarray:
        scores = self.points @ chunk.rounded.T
        scores -= self.half
        return scores

    def _margin(self, chunk: Chunk) -> np.ndarray:
        """What rounding may add to the difference of two scores of a row."""
        return self.relative * self.reach * (chunk.norms + self.reach)


def nearest(points: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest centroid (n,) int32 (the first of equals) and the squared distance (n,), row by row in float64."""
    label, square = np.empty(len(points), np.int32), np.empty(len(points))
    rows = max(1, _EXACT // centroids.size)
    for start in range(0, len(points), rows):
        part = slice(start, start + rows)
        offsets = points[part, None] - centroids
        # numpy adds a contiguous last axis in an order that depends on its length alone.
        squares = np.square(offsets, out=offsets).sum(2)
        label[part] = squares.argmin(1)
        square[part] = squares.min(1)
    return label, square
