"""The known image of a replica: solved when it starts, and again and again, so that a wrong purifier is found out."""

import math
import zlib
from typing import Any

import numpy as np

from raypurify.errors import BundleError
from raypurify.purifiers import Bundled
from raypurify.purifiers.batch import purify_pixels

SIDE = 64
# A solution may round differently on another day, e.g. where a GPU adds in another order.
LEVELS = 2


class Known:
    """A seeded image, what a purifier made of it at first, and a checksum of the numbers that it was loaded with.

    The image alone would be too little: it is purified by the dictionary of one cluster. Raises BundleError where the
    purifier answers with what cannot be, and what it raises itself.
    """

    def __init__(self, purifier: Bundled) -> None:
        self.purifier = purifier
        side = max(SIDE, purifier.min_size)
        self.image = np.random.default_rng(0).integers(96, 160, (side, side, 3), np.uint8)
        self.pixels, self.facts = self._solve()
        self.checksum = self._checksum()
        numbers = [self.facts["distance"], self.facts["relative_change"]]
        if not all(map(math.isfinite, numbers)) or not 0 < self.facts["relative_change"] < 1:
            raise BundleError(
                f"the bundle {purifier.digest[:16]}… does not purify: of an image that every bundle can purify it says "
                f"distance {numbers[0]:g} and relative change {numbers[1]:g}; fit it again, or give another"
            )
        if problem := self.problem():
            raise BundleError(f"the bundle {purifier.digest[:16]}… does not purify: {problem}; give another")

    def problem(self) -> str | None:
        """What is wrong with the purifier, None where it is as it was. Raises what the purifier raises."""
        if self._checksum() != self.checksum:
            return "its numbers in memory are not the ones that were loaded"
        pixels, facts = self._solve()
        away = int(np.abs(pixels.astype(int) - self.pixels).max())
        if away > LEVELS or facts["cluster"] != self.facts["cluster"]:
            return f"a known image came out differently than before, by {away} levels, cluster {facts['cluster']}"
        return None

    def _solve(self) -> tuple[np.ndarray, dict[str, Any]]:
        (result,) = purify_pixels(self.purifier, [self.image])
        if isinstance(result, Exception):
            raise result
        return result

    def _checksum(self) -> int:
        checksum = 0
        for tensor in self.purifier.numbers():
            checksum = zlib.crc32(tensor.detach().cpu().contiguous().numpy().data, checksum)
        return checksum
