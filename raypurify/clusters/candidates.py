"""k-means for several numbers of clusters at once, over blocks of latents that may be anywhere."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from raypurify.clusters.blocks import Block, EachBlock, Frame, exact_sum, rounded_sum, survey
from raypurify.clusters.lloyd import Partial, Scorer, Stack, Step, merge_partials, nearest, stack
from raypurify.clusters.seeding import draw_starts

# A run: the number of clusters asked for, which restart, and how many clusters it has left.
_Run = tuple[int, int, int]


class Candidate(NamedTuple):
    """The best k-means found for one number of clusters: centroids (≤ k, d) in the frame, WCSS in the latents' unit."""

    centroids: np.ndarray
    inertia: float


def fit_candidates(
    each_block: EachBlock,
    ks: Sequence[int],
    init: str | np.ndarray = "k-means++",
    n_init: int = 4,
    tol: float = 1e-4,
    max_iter: int = 300,
    seed: int = 0,
) -> tuple[Frame, list[Candidate]]:
    """Lloyd's iteration for every k of ``ks`` and every restart, all of them in the same passes over the blocks.

    A restart draws max(ks) starting rows (see ``seeding``); its k-means with k clusters starts from the first k. A run
    ends when its centroids stay where they are or move, squared and summed, by no more than ``tol`` of the mean
    variance of the features (scikit-learn's criterion), or after ``max_iter`` steps. A cluster that loses all its rows
    starts again from the row that is farthest from its centroid, as in scikit-learn.

    The result depends on the rows and their numbers alone, bit for bit, not on blocks or the order of rows.
    """
    frame = survey(each_block)
    if isinstance(init, str):
        drawn = draw_starts(each_block, frame, max(ks), n_init, init == "k-means++", seed)
    else:
        drawn = [(np.asarray(init, np.float64) - frame.origin) / frame.step]
    active: dict[_Run, np.ndarray] = {}
    for restart, points in enumerate(drawn):
        for k in ks:
            start = points[:k]
            active[len(start), restart, len(start)] = start
    ended: dict[_Run, np.ndarray] = {}
    gain: dict[_Run, float] = {}
    for _ in range(max_iter):
        of = stack(active)
        total = merge_partials(each_block(Step(frame, of)))
        for position, run in enumerate(of.runs):
            part, before = total.at(of.places(position)), active.pop(run)
            if not part.counts.all():
                part = _refill(each_block, frame, before, part)
            centroids = part.sums / part.counts[:, None]
            now = (*run[:2], len(centroids))
            gain[now] = float((np.square(centroids).sum(1) * part.counts).sum())
            still = len(centroids) == len(before) and np.square(centroids - before).sum() <= tol * frame.variance
            (ended if still else active)[now] = centroids
        if not active:
            break
    ended |= active
    best = {}
    for k in ks:
        reach = min(k, max(run[0] for run in ended))
        best[k] = max((run for run in ended if run[0] == reach), key=lambda run: (gain[run], -run[1]))
    of = stack({run: ended[run] for run in set(best.values())})
    squares = [sum(parts) for parts in zip(*each_block(Inertia(frame, of)))]
    wcss = {run: rounded_sum(square) * frame.step**2 for run, square in zip(of.runs, squares)}
    return frame, [Candidate(ended[best[k]], wcss[best[k]]) for k in ks]


def assign(each_block: EachBlock, frame: Frame, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows' numbers (N,) ascending, their labels (N,) int32, and the centroids (≤ k, d) that have rows."""
    numbers, labels = (np.concatenate(part) for part in zip(*each_block(Labels(frame, stack({0: centroids})))))
    order = np.argsort(numbers, kind="stable")
    used, labels = np.unique(labels[order], return_inverse=True)
    return numbers[order], labels.reshape(-1).astype(np.int32), centroids[used]


class Labels(NamedTuple):
    """The pass that labels rows, block → (their numbers (n,), labels (n,)), for a stack of one run."""

    frame: Frame
    stack: Stack

    def __call__(self, block: Block) -> tuple[np.ndarray, np.ndarray]:
        scorer = Scorer(self.stack, block.latents.dtype)
        labels = [scorer.labels(chunk)[0] for chunk in block.chunks(self.frame)]
        return block.numbers, np.concatenate(labels)


class Inertia(NamedTuple):
    """The pass that measures WCSS, block → its ``exact_sum`` for each run of a stack."""

    frame: Frame
    stack: Stack

    def __call__(self, block: Block) -> list[int]:
        scorer, totals = Scorer(self.stack, block.latents.dtype), [0] * len(self.stack.runs)
        for chunk in block.chunks(self.frame):
            for position, labels in enumerate(scorer.labels(chunk)):
                own = self.stack.points[self.stack.places(position)[labels]]
                totals[position] += exact_sum(np.square(chunk.points - own).sum(1))
        return totals


class Farthest(NamedTuple):
    """The pass that finds the ``count`` rows farthest from their centroids: block → (−D², number, label, row) each."""

    frame: Frame
    centroids: np.ndarray
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs

    def __call__(self, block: Block) -> list[tuple[float, int, int, np.ndarray]]:
        found: list = []
        for chunk in block.chunks(self.frame):
            labels, squares = nearest(chunk.points, self.centroids)
            numbers = block.numbers[chunk.of_block]
            some = np.lexsort((numbers, -squares))[: self.count]
            found += [(-float(squares[i]), int(numbers[i]), int(labels[i]), chunk.points[i]) for i in some]
        return sorted(found, key=lambda row: row[:2])[: self.count]


def _refill(each_block: EachBlock, frame: Frame, centroids: np.ndarray, part: Partial) -> Partial:
    """Give empty clusters one row each, the farthest first; drop those for which no row at a distance is left."""
    counts, sums = part.counts.copy(), part.sums.copy()
    rows = [row for some in each_block(Farthest(frame, centroids, len(counts))) for row in some]
    empty = np.flatnonzero(counts == 0).tolist()
    for square, _, label, point in sorted(rows, key=lambda row: row[:2]):
        if empty and square < 0 and counts[label] > 1:
            k = empty.pop(0)
            row = point.astype(np.int64)
            counts[label], sums[label] = counts[label] - 1, sums[label] - row
            counts[k], sums[k] = 1, row
    return Partial(counts[counts > 0], sums[counts > 0])
