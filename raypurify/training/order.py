"""In which order an epoch visits the images, and which of the held-out ones are looked at."""

import numpy as np

# Of the held-out images, as many as every epoch looks at.
CHECKED_IMAGES = 1024


def epoch_order(rows: int, epoch: int, seed: int = 0, rank: int = 0, world: int = 1) -> np.ndarray:
    """Positions (rows // world,) of the images that worker ``rank`` of ``world`` visits in ``epoch``.

    A permutation of 0..rows−1 that (seed, epoch) alone decide, dealt out in turn. So a step of a given batch size over
    all workers sees the same images whatever their number. What does not go round is left out.

    >>> epoch_order(7, epoch=0).tolist(), epoch_order(7, epoch=0, rank=1, world=2).tolist()
    ([2, 4, 3, 6, 5, 0, 1], [4, 6, 0])
    """
    order = np.random.default_rng((seed % 2**32, epoch)).permutation(rows)
    return order[: rows // world * world][rank::world]


def some_of(rows: int, count: int, seed: int = 0) -> np.ndarray:
    """At most ``count`` positions out of 0..rows−1, ascending: a seeded choice, because rows may be sorted by class.

    >>> some_of(2, 5).tolist(), len(some_of(5, 2))
    ([0, 1], 2)
    """
    return np.sort(np.random.default_rng(seed % 2**32).permutation(rows)[:count])
