"""Starting centroids by greedy k-means++, the same however the rows are divided or ordered.

D. Arthur, S. Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007, section 2.2 and, for the greedy
choice among several draws, section 7. A row is drawn with probability proportional to its squared distance D² to the
nearest centroid so far: every row draws an exponential number E of its own, from a hash of its number; the least E/D²
wins. That is the wanted distribution, needs no running total, and the winner of all rows is the winner of the winners.
"""

import math
from typing import NamedTuple

import numpy as np

from raypurify.clusters.blocks import Block, EachBlock, Frame
from raypurify.clusters.lloyd import Scorer, Step, merge_partials, nearest, stack


class Winner(NamedTuple):
    """A row that was drawn: its key E/D², its number, its coordinates."""

    key: float
    number: int
    point: np.ndarray


def draw_starts(
    each_block: EachBlock, frame: Frame, k: int, restarts: int, spread: bool, seed: int
) -> list[np.ndarray]:
    """For every restart up to k starting centroids (≤ k, d) in the frame; the first j of them start j clusters.

    With ``spread`` by greedy k-means++: of 2 + ⌊ln k⌋ rows drawn (as in scikit-learn), the one that lowers WCSS most.
    Without, any row that is not equal to one already chosen. Fewer than k where the rows have fewer different values.
    Two passes for each centroid, all restarts together.
    """
    trials = 2 + int(math.log(k)) if spread else 1
    chosen: list[list[np.ndarray]] = [[] for _ in range(restarts)]
    for turn in range(k):
        starts = {r: np.stack(points) if turn else None for r, points in enumerate(chosen) if len(points) == turn}
        if not starts:
            break
        salts = {r: int(np.random.SeedSequence((seed, r, turn)).generate_state(1, np.uint64)[0]) for r in starts}
        drawn: dict[int, list[Winner]] = {r: [] for r in starts}
        for winners in each_block(Race(frame, starts, salts, spread, trials if turn else 1)):
            for r, some in winners.items():
                drawn[r] += some
        options = {
            (r, i): np.stack([*chosen[r], winner.point])
            for r, winners in drawn.items()
            for i, winner in enumerate(sorted(winners, key=_rank)[: trials if turn else 1])
        }
        for r, points in _best(each_block, frame, options).items():
            chosen[r].append(points[-1])
    return [np.stack(points) for points in chosen]


def _best(each_block: EachBlock, frame: Frame, options: dict[tuple[int, int], np.ndarray]) -> dict[int, np.ndarray]:
    """For each restart the centroids (turn + 1, d) of least WCSS among its options."""
    if all(i == 0 for _, i in options):
        return {r: points for (r, _), points in options.items()}
    of = stack(options)
    counts, sums = merge_partials(each_block(Step(frame, of, remember=False)))
    # Σ‖z − c‖² less Σ‖z‖², which all share.
    squares = counts * np.square(of.points).sum(1) - 2 * (sums * of.points).sum(1)
    wcss = {run: squares[of.places(position)].sum() for position, run in enumerate(of.runs)}
    best = {r: min((run for run in options if run[0] == r), key=lambda run: (wcss[run], run)) for r, _ in options}
    return {r: options[run] for r, run in best.items()}


class Race(NamedTuple):
    """The pass that draws the next centroid of every restart, block → {restart: the first of ``places`` winners}.

    Rows at D² = 0 take no part.
    """

    frame: Frame
    starts: dict[int, np.ndarray | None]
    salts: dict[int, int]
    spread: bool
    places: int

    def __call__(self, block: Block) -> dict[int, list[Winner]]:
        best: dict[int, list[Winner]] = {r: [] for r in self.starts}
        first = next(iter(self.starts.values())) is None
        scorer = None if first else Scorer(stack(self.starts), block.latents.dtype)
        for chunk in block.chunks(self.frame):
            numbers = block.numbers[chunk.of_block]
            low, high = scorer.squares(chunk) if scorer else (np.ones((len(self.starts), len(numbers))),) * 2
            if not self.spread:
                low, high = (low > 0).astype(float), np.ones_like(high)
            for position, (r, points) in enumerate(self.starts.items()):
                found = self._winners(chunk.points, numbers, low[position], high[position], points, self.salts[r])
                best[r] = sorted(best[r] + found, key=_rank)[: self.places]
        return best

    def _winners(
        self,
        rows: np.ndarray,
        numbers: np.ndarray,
        low: np.ndarray,
        high: np.ndarray,
        points: np.ndarray | None,
        salt: int,
    ) -> list[Winner]:
        uniform = _uniform(numbers, salt)
        exponential = -np.log(uniform)
        with np.errstate(divide="ignore", invalid="ignore"):
            least, most = exponential / high, exponential / low
        last = np.partition(most, min(self.places, len(most)) - 1)[min(self.places, len(most)) - 1]
        # NumPy's logarithm may differ in its last digit from one place of an array to another; math.log decides.
        possible = np.flatnonzero(~(least > last * (1 + 1e-9)))
        squares = np.ones(len(possible)) if points is None else nearest(rows[possible], points)[1]
        keys = [
            (-math.log(uniform[i]) / (square if self.spread else 1.0), int(numbers[i]), i)
            for i, square in zip(possible, squares)
            if square > 0
        ]
        return [Winner(key, number, rows[i].copy()) for key, number, i in sorted(keys)[: self.places]]


def _rank(winner: Winner) -> tuple[float, int]:
    return winner.key, winner.number


def _uniform(numbers: np.ndarray, salt: int) -> np.ndarray:
    """A number in (0, 1) for every row number (Steele, Lea & Flood 2014, SplitMix64)."""
    z = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(salt)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return ((z >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
