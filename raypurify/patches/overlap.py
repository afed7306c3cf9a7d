"""Overlapping patches of one image, a band of rows at a time, and their average where they overlap."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

# Patches of a band: of 3 × 8 × 8 numbers in float64 they take 12 MiB.
BAND = 1 << 13


def positions(length: int, size: int, stride: int) -> Tensor:
    """Where patches of ``size`` begin along an axis of ``length``: every ``stride``, and at its end, so that every
    pixel is in one.

    >>> positions(10, 4, 4).tolist()
    [0, 4, 6]
    """
    last = length - size
    return torch.cat([torch.arange(0, last, stride), torch.tensor([last])])


@dataclass(frozen=True)
class Overlap:
    """The overlapping patches of images of ``height`` × ``width``, of side ``size``, beginning every ``stride`` pixels.

    No side may be below ``size``. ``stride`` is 1 to ``size``, so that none is left out.

    >>> patches = Overlap(5, 6, size=3, stride=2)
    >>> image = torch.rand(3, 5, 6).double()
    >>> total = torch.zeros_like(image)
    >>> for rows in patches.bands():
    ...     patches.add(total, patches.band(image, rows), rows)
    >>> torch.allclose(total / patches.times, image)
    True
    """

    height: int
    width: int
    size: int
    stride: int = 1

    @property
    def count(self) -> int:
        """The number of patches."""
        return len(self._tops) * len(self._lefts)

    def bands(self) -> Iterator[Tensor]:
        """The rows (n,) at which patches begin, in bands of not many more than ``BAND`` patches, where one began at
        every pixel: what a band takes at a time. Of an image that is so wide that a row of them is more, they are
        columns, from left to right."""
        if self._turned:
            yield from self._turned.bands()
            return
        dense = self.stride * (self.width - self.size + 1)
        yield from self._tops.split(max(1, BAND // dense))

    def band(self, image: Tensor, rows: Tensor) -> Tensor:
        """The patches (n, C·size²) of an image (C, height, width) that begin at a band's ``rows``, row by row."""
        if self._turned:
            return self._mirrored(self._turned.band(image.mT, rows))
        first, last = int(rows[0]), int(rows[-1])
        strip = image[None, :, first : last + self.size]
        unfolded = F.unfold(strip, self.size)[0].T.reshape(last - first + 1, self.width - self.size + 1, -1)
        kept = unfolded[(rows - first).to(image.device)][:, self._lefts.to(image.device)]
        return kept.reshape(len(rows) * len(self._lefts), -1)

    def add(self, total: Tensor, patches: Tensor, rows: Tensor) -> None:
        """Add the patches (n, C·size²) of a band to ``total`` (C, height, width), each at its place."""
        if self._turned:
            self._turned.add(total.mT, self._mirrored(patches), rows)
            return
        first, last = int(rows[0]), int(rows[-1])
        places = patches.new_zeros((last - first + 1, self.width - self.size + 1, patches.shape[1]))
        spread = places.index_put(
            ((rows - first).to(patches.device)[:, None], self._lefts.to(patches.device)),
            patches.reshape(len(rows), len(self._lefts), -1),
        )
        tall = last - first + self.size
        strip = F.fold(spread.reshape(-1, patches.shape[1]).T[None], (tall, self.width), self.size)[0]
        total[:, first : first + tall] += strip

    @cached_property
    def times(self) -> Tensor:
        """In how many patches each pixel is, (height, width) float64."""
        counts = []
        for length, begins in ((self.height, self._tops), (self.width, self._lefts)):
            inside = torch.zeros(length, dtype=torch.float64)
            for offset in range(self.size):
                inside[begins + offset] += 1
            counts.append(inside)
        return counts[0][:, None] * counts[1]

    @cached_property
    def _turned(self) -> "Overlap | None":
        """The same of the mirrored image, whose rows are the short ones; None where its own rows are short enough."""
        if self.width <= max(self.height, BAND):
            return None
        return Overlap(self.width, self.height, self.size, self.stride)

    def _mirrored(self, patches: Tensor) -> Tensor:
        """Patches (n, C·size²) with rows and columns exchanged."""
        return patches.unflatten(1, (-1, self.size, self.size)).mT.flatten(1)

    @cached_property
    def _tops(self) -> Tensor:
        return positions(self.height, self.size, self.stride)

    @cached_property
    def _lefts(self) -> Tensor:
        return positions(self.width, self.size, self.stride)
