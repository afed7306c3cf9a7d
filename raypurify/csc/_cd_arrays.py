"""The arrays that coordinate descent works on, under names. Import only where Numba is installed.

Numba compiles a function of named tuples to the code it makes for the bare arrays. An atom is h×w, the image H×W; T is
the precision of the image, float32 or float64.
"""

from typing import NamedTuple

import numpy as np
import torch
from numba.extending import register_jitable

from raypurify.csc._lanes import LANES, ROWS

# What is combined at once in a correlation: atoms, and taps of each.
TOGETHER = 4
# Correlations are taken by blocks of at most this many pixels squared, which stay in the second-level cache.
_BLOCK = 48
# Per round at most one coefficient joins in each patch of this many pixels squared.
PATCH = 2
# Least side of the cells that the working set is kept in.
CELL = 8


class Atoms(NamedTuple):
    """A dictionary of M atoms, laid out twice: as windows to add and to multiply with, and as taps of a correlation.

    Attributes:
        h: height of an atom.
        w: width of an atom.
        channels: C, the colours or bands of a pixel.
        taps: (M · rows · span,) T, each atom with the channels of a pixel side by side; ``rows`` is h, and ``span`` Cw,
            filled up with zeros to multiples of ``ROWS`` and ``LANES``.
        span: numbers in a row of ``taps``.
        energy: (M,) T, ``‖d_m‖²``.
        weights: (M', Chw') T, an atom a row and its channels one after the other, both axes filled up with zeros to
            multiples of ``TOGETHER``.
    """

    h: int
    w: int
    channels: int
    taps: np.ndarray
    span: int
    energy: np.ndarray
    weights: np.ndarray


class Residual(NamedTuple):
    """``s − Dx`` on the torus, with margins that hold every copy of an atom that reaches into what is read.

    With weights it is ``W²(s − Dx)``, whose correlation with an atom is what the coefficients are moved by.

    Attributes:
        pixels: (H + 3(h − 1) + ROWS, C(W + 3(w − 1))) T, the channels of a pixel side by side; the image's first pixel
            is at row h − 1 and column C(w − 1), and the rows and columns up to H + h − 1 and W + w − 1 are right. More
            rows where they are shorter than LANES.
        height: H.
        width: W.
    """

    pixels: np.ndarray
    height: int
    width: int


class WorkingSet(NamedTuple):
    """The n coefficients that may move, sorted by cell.

    Attributes:
        atom: (n,) int32.
        row: (n,) int32, of its pixel.
        col: (n,) int32, of its pixel.
        value: (n,) T.
    """

    atom: np.ndarray
    row: np.ndarray
    col: np.ndarray
    value: np.ndarray


class Cells(NamedTuple):
    """Rectangles of pixels, no smaller than an atom, that the working set is sorted into: C of them, by rows.

    Attributes:
        first: (C + 1,) int64, where the coefficients of each begin in the working set.
        dirty: (C,) bool, whether one in it may still want to move.
        across: number of cells in a row.
    """

    first: np.ndarray
    dirty: np.ndarray
    across: int


@register_jitable
def block_side(side: int) -> int:
    """Length of the blocks that a side of the image is divided into, a multiple of the patches."""
    parts = (side + _BLOCK - 1) // _BLOCK
    length = (side + parts - 1) // parts
    return length + -length % PATCH


def lay_out(atoms: np.ndarray) -> Atoms:
    """The dictionary (M, C, h, w) as the kernels want it."""
    count, channels, h, w = atoms.shape
    span = w * channels + -(w * channels) % LANES
    taps = np.zeros((count, h + -h % ROWS, span), atoms.dtype)
    taps[:, :h, : w * channels] = atoms.transpose(0, 2, 3, 1).reshape(count, h, w * channels)
    flat = atoms.reshape(count, -1)
    weights = np.pad(flat, ((0, -count % TOGETHER), (0, -flat.shape[1] % TOGETHER)))
    return Atoms(h, w, channels, taps.reshape(-1), span, np.square(flat).sum(1), weights)


def empty_residual(signal: np.ndarray, atoms: Atoms) -> Residual:
    """Room for the residual of ``signal`` (C, H, W)."""
    channels, height, width = signal.shape
    pitch = channels * (width + 3 * (atoms.w - 1))
    rows = height + 3 * (atoms.h - 1) + ROWS + LANES // pitch
    return Residual(np.zeros((rows, pitch), signal.dtype), height, width)


def lay_out_weights(mask: np.ndarray, residual: Residual, atoms: Atoms) -> np.ndarray:
    """``W²`` of the mask W (C, H, W) as the pixels of ``residual`` lie, margins too."""
    height, width = mask.shape[1:]
    down = np.arange(1 - atoms.h, height + 2 * (atoms.h - 1)) % height
    right = np.arange(1 - atoms.w, width + 2 * (atoms.w - 1)) % width
    weights = np.zeros_like(residual.pixels)
    weights[: len(down)] = np.square(mask)[:, down][:, :, right].transpose(1, 2, 0).reshape(len(down), -1)
    return weights


def empty_patches(signal: np.ndarray) -> np.ndarray:
    """Room for what screening finds in each patch of ``signal`` (C, H, W): (patches, 4) T."""
    _, height, width = signal.shape
    return np.zeros((-(-height // PATCH) * -(-width // PATCH), 4), signal.dtype)


def corners(height: int, width: int) -> list[tuple[int, int]]:
    """Rows and columns where the blocks of an H×W image begin."""
    rows, columns = (range(0, side, block_side(side)) for side in (height, width))
    return [(y, x) for y in rows for x in columns]


def empty_set(room: int, dtype: np.dtype) -> WorkingSet:
    """Room for so many coefficients."""
    return WorkingSet(*(np.empty(room, kind) for kind in (np.int32, np.int32, np.int32, dtype)))


def first_set(signal: np.ndarray, atoms: Atoms, initial: torch.Tensor | None) -> tuple[WorkingSet, Cells]:
    """The working set of the codes ``initial`` (M, H, W) of ``signal`` (C, H, W), dense or sparse; None: of zeros."""
    _, height, width = signal.shape
    down, across = max(1, height // max(CELL, atoms.h)), max(1, width // max(CELL, atoms.w))
    cells = Cells(np.zeros(down * across + 1, np.int64), np.ones(down * across, bool), across)
    if initial is None:
        return empty_set(0, signal.dtype), cells
    initial = (initial if initial.is_sparse else initial.to_sparse()).coalesce()
    place, given = initial.indices().numpy(), initial.values().numpy()
    cell = place[1] * down // height * across + place[2] * across // width
    order = np.argsort(cell, kind="stable")
    order = order[given[order] != 0]
    cells.first[:] = np.searchsorted(cell[order], np.arange(down * across + 1))
    active = empty_set(len(order), signal.dtype)
    for mine, theirs in zip(active, (*place[:, order], given[order])):
        mine[:] = theirs
    return active, cells
