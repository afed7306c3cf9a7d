"""Where an input is cut into shards: at so many rows, and where they are heavy, at so many bytes."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

# An actor holds a shard, what becomes of it, and the file that is made of that. 256 images as those of ImageNet are
# less.
SHARD_BYTES = 32 << 20


def cut_rows(groups: Sequence[int], shard_rows: int) -> Iterator[tuple[int, int]]:
    """Where each shard starts, and its rows: small row groups are merged, one of two shards or more is cut evenly.

    >>> [*cut_rows([2, 9, 2], 4)]
    [(0, 2), (2, 3), (5, 3), (8, 3), (11, 2)]
    """
    start = held = 0
    for count in groups:
        if held and held + count > shard_rows:
            yield start, held
            start, held = start + held, 0
        held += count
        if held >= 2 * shard_rows:
            parts = -(-held // shard_rows)
            for part in range(parts):
                low, high = held * part // parts, held * (part + 1) // parts
                yield start + low, high - low
            start, held = start + held, 0
    if held:
        yield start, held


def cut_bytes(
    cuts: Iterator[tuple[int, int]], before: Callable[[int], float], most: float | None = None
) -> Iterator[tuple[int, int]]:
    """Each of the cuts as it is where it holds no more than ``most`` bytes (``SHARD_BYTES``), else in parts that do, or
    are one row. ``before`` says how many bytes lie before a row, of all rows and what belongs to them.

    >>> [*cut_bytes(iter([(0, 3), (3, 4)]), [0, 1, 2, 3, 6, 9, 21, 22].__getitem__, most=8)]
    [(0, 3), (3, 2), (5, 1), (6, 1)]
    """
    most = SHARD_BYTES if most is None else most
    for start, rows in cuts:
        stop = start + rows
        while start < stop:
            fitting = bisect_right(range(start + 1, stop + 1), before(start) + most, key=before)
            yield start, max(1, fitting)
            start += max(1, fitting)


def bytes_before(sizes: Sequence[int]) -> Callable[[int], int]:
    """What ``cut_bytes`` asks for, of rows of these sizes.

    >>> [*map(bytes_before([5, 7]), range(3))]
    [0, 5, 12]
    """
    return [0, *accumulate(sizes)].__getitem__


def bytes_before_in_groups(groups: Sequence[int], sizes: Sequence[int]) -> Callable[[int], float]:
    """What ``cut_bytes`` asks for, of groups of so many rows and bytes, whose rows count as equally large.

    >>> [*map(bytes_before_in_groups([2, 0, 1], [10, 0, 3]), range(4))]
    [0.0, 5.0, 10.0, 13.0]
    """
    rows, held = [0, *accumulate(groups)], [0, *accumulate(sizes)]

    def before(row: int) -> float:
        group = bisect_right(rows, row) - 1
        if group == len(groups):
            return float(held[-1])
        return held[group] + (row - rows[group]) * sizes[group] / groups[group]

    return before
