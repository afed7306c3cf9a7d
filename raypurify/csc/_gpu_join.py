"""Kernel of descent on a GPU that lets coefficients join their cells, and zeros leave them.

With TRITON_INTERPRET=1 in the environment it runs on CPU tensors.
"""

import torch
import triton
import triton.language as tl

from raypurify.csc._descent_cells import Grid
from raypurify.csc._gpu_screen import PATCH

# Coefficients of a cell that are looked at together.
_BLOCK = 32


def join(
    best: torch.Tensor,
    candidates: torch.Tensor,
    level: torch.Tensor,
    codes: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    room: int,
    size: tuple[int, int],
    grid: Grid,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The new working set: what is not zero of the old one in its order, then the best of each patch above the level.

    Args:
        best: (n, patches) float32, of :func:`raypurify.csc._gpu_screen.screen`.
        candidates: (n, patches) int32, their keys.
        level: (n,) float32, what the best must exceed; what is in the set and stays does not join again.
        codes: keys, values and counts of the old set, which stays as it is.
        room: coefficients that each cell of the new one has room for.
        size: H and W.
        grid: the cells.

    Returns:
        Keys, values and counts. A count above ``room`` says that the cell needs so much; what had no room is left out.
    """
    keys, values, counts = codes
    height, width = size
    new = keys.new_empty(*keys.shape[:2], room), values.new_empty(*keys.shape[:2], room), torch.empty_like(counts)
    # A cell begins anywhere in a patch.
    patches = [min(-(-side.cell // PATCH) + 1, -(-length // PATCH)) for side, length in zip(grid, size)]
    _join[(keys.shape[0] * grid.cells,)](
        best,
        candidates,
        level,
        *codes,
        *new,
        keys.shape[2],
        room,
        height,
        width,
        grid.down.parts,
        grid.across.parts,
        PATCH=PATCH,
        DOWN=triton.next_power_of_2(patches[0]),
        ACROSS=triton.next_power_of_2(patches[1]),
        BLOCK=_BLOCK,
        num_warps=2,
    )
    return new


# Unspecialised, or how much room others need might decide in which order numbers are added.
@triton.jit(do_not_specialize=["room", "new_room"])
def _join(
    best_start,
    candidates_start,
    level_start,
    keys_start,
    values_start,
    counts_start,
    new_keys_start,
    new_values_start,
    new_counts_start,
    room,
    new_room,
    height,
    width,
    down,
    across,
    PATCH: tl.constexpr,
    DOWN: tl.constexpr,
    ACROSS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    n, cell = (program // (down * across)).to(tl.int64), program % (down * across)
    here = n * down * across + cell
    up, left = cell // across, cell % across
    first_row, last_row = (up * height + down - 1) // down, ((up + 1) * height + down - 1) // down
    first_column, last_column = (left * width + across - 1) // across, ((left + 1) * width + across - 1) // across
    tall, wide = (height + PATCH - 1) // PATCH, (width + PATCH - 1) // PATCH

    lane = tl.arange(0, DOWN * ACROSS)
    row, column = first_row // PATCH + lane // ACROSS, first_column // PATCH + lane % ACROSS
    real = (row < tall) & (column < wide)
    patch = n * tall * wide + row * wide + column
    key = tl.load(candidates_start + patch, mask=real, other=0)
    joins = real & (tl.load(best_start + patch, mask=real, other=-1.0) > tl.load(level_start + n))
    row, column = key // width % height, key % width
    joins = joins & (row >= first_row) & (row < last_row) & (column >= first_column) & (column < last_column)

    total = 0
    count = tl.load(counts_start + here)
    slot = tl.arange(0, BLOCK)
    for k in range(0, count, BLOCK):
        there = k + slot < count
        old = tl.load(keys_start + here * room + k + slot, mask=there, other=-1)
        value = tl.load(values_start + here * room + k + slot, mask=there, other=0.0)
        stays = (value != 0.0).to(tl.int32)
        known = (old[:, None] == key[None, :]) & (value != 0.0)[:, None]
        joins = joins & (tl.sum(known.to(tl.int32), 0) == 0)
        to = total + tl.cumsum(stays, 0) - 1
        fits = (stays > 0) & (to < new_room)
        tl.store(new_keys_start + here * new_room + to, old, mask=fits)
        tl.store(new_values_start + here * new_room + to, value, mask=fits)
        total += tl.sum(stays)

    more = joins.to(tl.int32)
    to = total + tl.cumsum(more, 0) - 1
    fits = joins & (to < new_room)
    tl.store(new_keys_start + here * new_room + to, key, mask=fits)
    tl.store(new_values_start + here * new_room + to, tl.zeros((DOWN * ACROSS,), tl.float32), mask=fits)
    tl.store(new_counts_start + here, total + tl.sum(more))
