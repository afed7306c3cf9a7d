"""Whom to blame when processes die over a shard: an image that kills whoever works on it, or something else.

A death in the ordinary run of a shard says little: machines are taken away. So the next run *probes*: each image goes
alone through decoder, purifier and encoder, and the driver is told of it beforehand. An image in whose probe two actors
died is poison and left out; the shard is then what it would be if that image could not be decoded.
"""

from collections import Counter
from typing import NamedTuple

from raypurify.errors import ImageError

BLAMED, LIVES = 2, 4
REASON = "kills"


class Care(NamedTuple):
    """How a shard is done: whether its images are probed first, and which of its rows are left out as poison."""

    probe: bool = False
    poison: frozenset[int] = frozenset()


class Losses:
    """The deaths of one job, by shard and row."""

    def __init__(self) -> None:
        self._unexplained: Counter[str] = Counter()
        self._probed: dict[str, Counter[int]] = {}

    def care(self, shard: str) -> Care:
        """How to do a shard after what has happened over it.

        >>> losses = Losses()
        >>> losses.care("a")
        Care(probe=False, poison=frozenset())
        >>> [losses.hopeless("a", row) for row in (None, 7, 7)], losses.care("a")
        ([False, False, False], Care(probe=True, poison=frozenset({7})))
        """
        probed = self._probed.get(shard)
        if probed is None:
            return Care()
        return Care(True, frozenset(row for row, deaths in probed.items() if deaths >= BLAMED))

    def hopeless(self, shard: str, row: int | None) -> bool:
        """Note that an actor died over a shard, in the probe of ``row`` where that is one; whether the shard has cost
        ``LIVES`` actors of which no image is to blame."""
        rows = self._probed.setdefault(shard, Counter())
        if row is None:
            self._unexplained[shard] += 1
        else:
            rows[row] += 1
        return self._unexplained[shard] >= LIVES


def poisonous() -> ImageError:
    """Why a row that is poison was left out; the words depend on nothing but that."""
    return ImageError(
        REASON,
        f"the process that worked on it died, {BLAMED} times: it ran out of memory or time, or the decoder has a "
        "fault; try it in another program, and write it anew",
    )
