"""Kernel of descent on a GPU that correlates the residual with every atom and keeps the best of each patch of pixels.

A program correlates a tile of pixels as a product of matrices, taps of the pixels times taps of the atoms. Reduced
precision serves to choose alone: the correlation of what was chosen is computed anew in float32, and that is what is
written. Neither correlations nor codes are ever written densely. With TRITON_INTERPRET=1 it runs on CPU tensors.
"""

import os
from typing import NamedTuple

import torch
import triton
import triton.language as tl

# Sides of the patches of which the best coefficient is kept.
PATCH = 2
# Pixels and atoms of a program, and taps that it multiplies at once: to choose, and in float32. So with their warps no
# register is spilled, as the compiler says for sm_80 and sm_90.
_TALL, _WIDE, _ATOMS = 8, 16, 64
_TAPS, _EXACT_TAPS = 32, 16
# What a matrix unit takes at least.
_LEAST = 16
# The interpreter has no product of bfloat16: there the rounded numbers are multiplied in float32, to the same sums.
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


class Taps(NamedTuple):
    """Dictionaries as factors of a product of matrices.

    Attributes:
        chooser: (K, T, M') bfloat16, a tap a row; T and M' are C·h·w and M, filled up with zeros.
        exact: the same in float32.
        offsets: (T,) int32, how far from its pixel each tap lies in the residual.
    """

    chooser: torch.Tensor
    exact: torch.Tensor
    offsets: torch.Tensor


def lay_taps(atoms: torch.Tensor, height: int, width: int) -> Taps:
    """The dictionaries (K, M, C, h, w) for images of H×W."""
    count, channels, h, w = atoms.shape[1:]
    taps = channels * h * w
    together = _together(count)
    exact = torch.nn.functional.pad(atoms.flatten(2).transpose(1, 2), (0, -count % together, 0, -taps % _TAPS))
    tall, wide = height + h - 1, width + w - 1
    plane, row, column = (torch.arange(side, dtype=torch.int32) for side in (channels, h, w))
    offsets = ((plane[:, None, None] * tall + row[:, None]) * wide + column).flatten()
    offsets = torch.nn.functional.pad(offsets, (0, -taps % _TAPS)).to(atoms.device)
    exact = exact.contiguous()
    return Taps(exact.to(torch.bfloat16), exact, offsets)


def _together(atoms: int) -> int:
    return max(_LEAST, min(_ATOMS, triton.next_power_of_2(atoms)))


def screen(
    residual: torch.Tensor,
    atoms: torch.Tensor,
    taps: Taps,
    which: torch.Tensor,
    best: torch.Tensor,
    keys: torch.Tensor,
    nonneg: bool,
    wanted: torch.Tensor | None = None,
) -> None:
    """The largest correlation in every patch of n images, and where it is.

    Args:
        residual: (n, C, H + h − 1, W + w − 1) float32, margins as on the torus.
        atoms: (K, M, C, h, w).
        taps: those of the atoms.
        which: (n,) int64, the dictionary of each.
        best: (n, patches) float32, overwritten: its correlation, in magnitude unless ``nonneg``, in float32.
        keys: (n, patches) int32, overwritten: its atom m and pixel, ``(m · H + y) · W + x``.
        nonneg: whether negative correlations do not count.
        wanted: (n,) bool: choose in float32 too, for these images alone, and leave the others as they are. None: choose
            in bfloat16, for all.
    """
    channels, h, w = atoms.shape[2:]
    height, width = residual.shape[2] - h + 1, residual.shape[3] - w + 1
    factors = taps.chooser if wanted is None else taps.exact
    down, across = triton.cdiv(height, _TALL), triton.cdiv(width, _WIDE)
    _screen[(len(residual) * down * across,)](
        residual,
        atoms,
        factors,
        taps.offsets,
        which,
        which if wanted is None else wanted.to(torch.int32),
        best,
        keys,
        height,
        width,
        down,
        across,
        atoms.shape[1],
        factors.shape[2],
        CHANNELS=channels,
        HIGH=h,
        BROAD=w,
        TAPS=factors.shape[1],
        TALL=_TALL,
        WIDE=_WIDE,
        BLOCK=_TAPS if wanted is None else _EXACT_TAPS,
        TOGETHER=_together(atoms.shape[1]),
        PATCH=PATCH,
        NONNEG=nonneg,
        EXACT=wanted is not None,
        INTERPRETED=_INTERPRETED,
        num_warps=4 if wanted is None else 8,
        num_stages=3 if wanted is None else 1,
    )


@triton.jit
def _screen(
    residual_start,
    atoms_start,
    factors_start,
    offsets_start,
    which_start,
    wanted_start,
    best_start,
    keys_start,
    height,
    width,
    down,
    across,
    atoms,
    columns,
    CHANNELS: tl.constexpr,
    HIGH: tl.constexpr,
    BROAD: tl.constexpr,
    TAPS: tl.constexpr,
    TALL: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
    TOGETHER: tl.constexpr,
    PATCH: tl.constexpr,
    NONNEG: tl.constexpr,
    EXACT: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    program = tl.program_id(0)
    n, tile = (program // (down * across)).to(tl.int64), program % (down * across)
    if EXACT:  # noqa: SIM102, the outer one is decided when the kernel is compiled
        if tl.load(wanted_start + n) == 0:
            return
    # Pixels patch by patch, so that those of a patch are neighbours.
    EACH: tl.constexpr = PATCH * PATCH
    PATCHES: tl.constexpr = TALL * WIDE // EACH
    lane = tl.arange(0, TALL * WIDE)
    patch, within = lane // EACH, lane % EACH
    row = tile // across * TALL + patch // (WIDE // PATCH) * PATCH + within // PATCH
    column = tile % across * WIDE + patch % (WIDE // PATCH) * PATCH + within % PATCH
    real = (row < height) & (column < width)
    tall, wide = height + HIGH - 1, width + BROAD - 1
    image = residual_start + n * CHANNELS * tall * wide
    pixel = tl.minimum(row, height - 1) * wide + tl.minimum(column, width - 1)
    dictionary = tl.load(which_start + n)
    factors = factors_start + dictionary * TAPS * columns
    tap, atom = tl.arange(0, BLOCK), tl.arange(0, TOGETHER)

    peak = tl.full((TALL * WIDE,), float("-inf"), tl.float32)
    chosen = tl.zeros((TALL * WIDE,), tl.int32)
    for first in range(0, columns, TOGETHER):
        beta = tl.zeros((TALL * WIDE, TOGETHER), tl.float32)
        for t in range(0, TAPS, BLOCK):
            offset = tl.load(offsets_start + t + tap)
            left = tl.load(image + (pixel[:, None] + offset[None, :]))
            right = tl.load(factors + ((t + tap)[:, None] * columns + (first + atom)[None, :]))
            if EXACT:
                beta = tl.dot(left, right, beta, input_precision="ieee")
            else:
                left = left.to(tl.bfloat16)
                if INTERPRETED:
                    beta = tl.dot(left.to(tl.float32), right.to(tl.float32), beta, input_precision="ieee")
                else:
                    beta = tl.dot(left, right, beta)
        if not NONNEG:
            beta = tl.abs(beta)
        highest = tl.max(beta, 1)
        better = highest > peak
        chosen = tl.where(better, first + tl.argmax(beta, 1), chosen)
        peak = tl.where(better, highest, peak)

    # Atoms that fill up have correlations of zero: they are the best only where no other is above that.
    key = (tl.minimum(chosen, atoms - 1) * height + row) * width + column
    peak = tl.reshape(tl.where(real, peak, float("-inf")), (PATCHES, EACH))
    key = tl.reshape(tl.where(real, key, 0), (PATCHES, EACH))
    mine = tl.argmax(peak, 1)[:, None] == tl.arange(0, EACH)[None, :]
    key = tl.sum(tl.where(mine, key, 0), 1)

    at = image + (key // width % height * wide + key % width)
    weights = atoms_start + (dictionary * atoms + key // (height * width)) * (CHANNELS * HIGH * BROAD)
    value = tl.zeros((PATCHES,), tl.float32)
    for t in range(0, TAPS, BLOCK):
        there = (t + tap < CHANNELS * HIGH * BROAD)[None, :]
        offset = tl.load(offsets_start + t + tap)
        left = tl.load(at[:, None] + offset[None, :])
        value += tl.sum(left * tl.load(weights[:, None] + (t + tap)[None, :], mask=there, other=0.0), 1)
    if not NONNEG:
        value = tl.abs(value)

    patch = tl.arange(0, PATCHES)
    row = tile // across * (TALL // PATCH) + patch // (WIDE // PATCH)
    column = tile % across * (WIDE // PATCH) + patch % (WIDE // PATCH)
    down, across = (height + PATCH - 1) // PATCH, (width + PATCH - 1) // PATCH
    inside = (row < down) & (column < across)
    out = n * down * across + row * across + column
    tl.store(best_start + out, value, mask=inside)
    tl.store(keys_start + out, key, mask=inside)
