"""Cells of pixels that coefficients are sorted into for descent on a GPU, and colours of cells that may move at once.

A cell is a rectangle of pixels; its *window* is every pixel that an atom reaches from one in the cell, on the torus.
All sides but that of a cell as long as the image are at least an atom's less one, so only windows of neighbours
overlap, and the windows of a colour are disjoint: programs that work on them at once never meet.
"""

from functools import cache
from typing import NamedTuple

import torch

# Least side of what a program holds of the image, a power of two.
_LEAST = 8


class Side(NamedTuple):
    """How a side of the image is divided.

    Attributes:
        parts: number of cells; cell i begins at ``⌈i · length / parts⌉``.
        window: side of what a program holds, a power of two that no window is longer than.
        cell: a power of two that no cell is longer than.
    """

    parts: int
    window: int
    cell: int

    def colours(self) -> list[list[int]]:
        """Numbers of the cells of each colour: one cell alone, or every other; the last of an odd number by itself."""
        if self.parts == 1:
            return [[0]]
        even = self.parts - self.parts % 2
        rest = [[even]] if self.parts % 2 else []
        return [[*range(0, even, 2)], [*range(1, even, 2)], *rest]


class Grid(NamedTuple):
    """The cells of an image, numbered by rows.

    Attributes:
        down: how its height is divided.
        across: how its width is.
    """

    down: Side
    across: Side

    @property
    def cells(self) -> int:
        """Number of cells."""
        return self.down.parts * self.across.parts

    def colours(self, device: torch.device) -> list[torch.Tensor]:
        """Cells (n,) int32 of each colour, at most nine."""
        width = self.across.parts
        return [
            torch.tensor([i * width + j for i in rows for j in columns], dtype=torch.int32, device=device)
            for rows in self.down.colours()
            for columns in self.across.colours()
        ]


@cache
def divide(length: int, atom: int) -> Side:
    """A side of the image in cells, for atoms that are ``atom ≤ length`` long, with the least window.

    Among those, the division with the fewest colours is taken, then that whose cells fill powers of two best, and then
    the fewest cells.

    >>> divide(224, 8)
    Side(parts=28, window=16, cell=8)
    """
    window = _LEAST
    while True:
        fitting = [parts for parts in range(1, length + 1) if _fits(length, atom, parts, window)]
        if fitting:
            parts = min(fitting, key=lambda p: (min(p, 2 + p % 2), p * _power(-(-length // p)), p))
            return Side(parts, window, _power(-(-length // parts)))
        window *= 2


def _fits(length: int, atom: int, parts: int, window: int) -> bool:
    if parts == 1:
        return length <= window
    return length // parts >= max(1, atom - 1) and -(-length // parts) + atom - 1 <= window


def _power(number: int) -> int:
    return 1 << (number - 1).bit_length()


def lay_grid(height: int, width: int, h: int, w: int) -> Grid:
    """The cells of an H×W image for atoms of h×w."""
    return Grid(divide(height, h), divide(width, w))
