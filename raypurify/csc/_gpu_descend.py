"""Kernels of descent on a GPU that work on cells: the residual anew, what coefficients ask for, and the descent itself.

A coefficient is a key, ``(m · H + y) · W + x`` of its atom and pixel, and a value; each cell has room for so many of
them, one after the other, and a count. A program holds a part of the image in registers, pixel by pixel and channel by
channel in one row of numbers, and goes through the coefficients that reach into it in their order: nothing depends on
the order of programs, nor on how many there are. With TRITON_INTERPRET=1 the kernels run on CPU tensors.
"""

import torch
import triton
import triton.language as tl

from raypurify.csc._descent_cells import Grid

# Of the bound: a step below this share of it is not worth taking.
_IDLE = 0.1
# Sweeps of a program over its cell at most, before others have their turn.
_SWEEPS = 16
# Numbers of a window for each warp.
_NUMBERS = 1024


def renew_residual(
    residual: torch.Tensor,
    signal: torch.Tensor,
    rows: torch.Tensor,
    atoms: torch.Tensor,
    which: torch.Tensor,
    squares: torch.Tensor | None,
    codes: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    grid: Grid,
) -> None:
    """``W²(s − Dx)`` of n images, on the torus and one atom less a pixel further, into ``residual``.

    Args:
        residual: (n, C, H + h − 1, W + w − 1) float32, overwritten.
        signal: (N, C, H, W).
        rows: (n,) int64, which of the N images each is.
        atoms: (K, M, C, h, w).
        which: (n,) int64, the dictionary of each.
        squares: W² (N, C, H, W); None: ones.
        codes: keys (n, cells, room) int32, their values in float32, and counts (n, cells) int32.
        grid: the cells.
    """
    channels, height, width = signal.shape[1:]
    own, spread = grid.down.cell * grid.across.cell, triton.next_power_of_2(channels)
    _renew[(len(rows) * grid.cells,)](
        residual,
        signal,
        rows,
        atoms,
        which,
        signal if squares is None else squares,
        *codes,
        codes[0].shape[2],
        height,
        width,
        grid.down.parts,
        grid.across.parts,
        atoms.shape[1],
        CHANNELS=channels,
        TALL=atoms.shape[3],
        WIDE=atoms.shape[4],
        ROWS=grid.down.cell,
        COLUMNS=grid.across.cell,
        NUMBERS=own * spread,
        MASKED=squares is not None,
        num_warps=_warps(own * spread),
    )


def inspect(
    residual: torch.Tensor,
    rows: torch.Tensor,
    atoms: torch.Tensor,
    energies: torch.Tensor,
    which: torch.Tensor,
    squares: torch.Tensor | None,
    codes: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    grid: Grid,
    level: torch.Tensor,
    nonneg: bool,
) -> torch.Tensor:
    """The largest change that a coefficient of each cell asks for, in units of the correlation: (n, cells) float32.

    Nothing is changed. ``energies`` are ``‖d‖²`` (K, M), ``level`` λ (n,), the rest as in :func:`renew_residual`.
    """
    worst = residual.new_empty(len(rows), grid.cells)
    cells = torch.arange(grid.cells, dtype=torch.int32, device=residual.device)
    _launch(residual, rows, atoms, energies, which, squares, codes, grid, level, level, worst, cells, nonneg, False)
    return worst


def descend(
    residual: torch.Tensor,
    rows: torch.Tensor,
    atoms: torch.Tensor,
    energies: torch.Tensor,
    which: torch.Tensor,
    squares: torch.Tensor | None,
    codes: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    grid: Grid,
    level: torch.Tensor,
    nonneg: bool,
    bound: torch.Tensor,
    dirty: torch.Tensor,
    cells: torch.Tensor,
) -> None:
    """Cyclic coordinate descent on each of the ``cells`` (c,) int32, of one colour, that is dirty.

    A cell is swept until no coefficient of it is more than ``bound`` (n,) from optimal, or for ``_SWEEPS`` sweeps.
    Values and residual change in place; margins of the residual do not. ``dirty`` (n, cells) int32 is 0 afterwards
    where the bound is reached, and 1 where it is not and in what lies around a cell that moved by more.
    """
    _launch(residual, rows, atoms, energies, which, squares, codes, grid, level, bound, dirty, cells, nonneg, True)


def _launch(
    residual: torch.Tensor,
    rows: torch.Tensor,
    atoms: torch.Tensor,
    energies: torch.Tensor,
    which: torch.Tensor,
    squares: torch.Tensor | None,
    codes: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    grid: Grid,
    level: torch.Tensor,
    bound: torch.Tensor,
    out: torch.Tensor,
    cells: torch.Tensor,
    nonneg: bool,
    moves: bool,
) -> None:
    channels, tall, wide = atoms.shape[2:]
    numbers = grid.down.window * grid.across.window * triton.next_power_of_2(channels)
    _visit[(len(rows) * len(cells),)](
        residual,
        rows,
        atoms,
        energies,
        which,
        residual if squares is None else squares,
        *codes,
        level,
        bound,
        out,
        cells,
        len(cells),
        codes[0].shape[2],
        residual.shape[2] - tall + 1,
        residual.shape[3] - wide + 1,
        grid.down.parts,
        grid.across.parts,
        atoms.shape[1],
        CHANNELS=channels,
        TALL=tall,
        WIDE=wide,
        ROWS=grid.down.window,
        COLUMNS=grid.across.window,
        NUMBERS=numbers,
        NONNEG=nonneg,
        MASKED=squares is not None,
        MOVES=moves,
        IDLE=_IDLE,
        SWEEPS=_SWEEPS if moves else 1,
        num_warps=_warps(numbers),
    )


def _warps(numbers: int) -> int:
    return max(1, min(8, numbers // _NUMBERS))


@triton.jit
def _begin(cell, length, parts):
    """First row (or column) of a cell."""
    return (cell * length + parts - 1) // parts


@triton.jit
def _spread(atoms, key, channel, row, column, inside, height, width, CHANNELS, TALL, WIDE):
    """The atom of the coefficient ``key`` at pixels of the torus, and zeros where it does not reach."""
    i = row - key // width % height
    i = tl.where(i < 0, i + height, i)
    j = column - key % width
    j = tl.where(j < 0, j + width, j)
    at = ((key // (height * width) * CHANNELS + channel) * TALL + i) * WIDE + j
    return tl.load(atoms + at, mask=inside & (i < TALL) & (j < WIDE), other=0.0)


# Unspecialised, or how much room others need might decide in which order numbers are added.
@triton.jit(do_not_specialize=["room"])
def _renew(
    residual_start,
    signal_start,
    rows_start,
    atoms_start,
    which_start,
    squares_start,
    keys_start,
    values_start,
    counts_start,
    room,
    height,
    width,
    down,
    across,
    atoms,
    CHANNELS: tl.constexpr,
    TALL: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    NUMBERS: tl.constexpr,
    MASKED: tl.constexpr,
):
    program = tl.program_id(0)
    n, cell = (program // (down * across)).to(tl.int64), program % (down * across)
    up, left = cell // across, cell % across
    lane = tl.arange(0, NUMBERS)
    channel, row, column = lane // (ROWS * COLUMNS), lane // COLUMNS % ROWS, lane % COLUMNS
    row += _begin(up, height, down)
    column += _begin(left, width, across)
    inside = (channel < CHANNELS) & (row < _begin(up + 1, height, down)) & (column < _begin(left + 1, width, across))

    image = tl.load(rows_start + n) * CHANNELS * height * width + (channel * height + row) * width + column
    rest = tl.load(signal_start + image, mask=inside, other=0.0)
    dictionary = atoms_start + tl.load(which_start + n) * atoms * CHANNELS * TALL * WIDE
    # What reaches a pixel lies in its cell, or in the one before it, downwards, across or both.
    for a in range(0, tl.minimum(down, 2)):
        for b in range(0, tl.minimum(across, 2)):
            source = n * down * across + (up - a + down) % down * across + (left - b + across) % across
            for k in range(0, tl.load(counts_start + source)):
                key, value = tl.load(keys_start + source * room + k), tl.load(values_start + source * room + k)
                rest -= value * _spread(
                    dictionary, key, channel, row, column, inside, height, width, CHANNELS, TALL, WIDE
                )
    if MASKED:
        rest *= tl.load(squares_start + image, mask=inside, other=0.0)

    tall, wide = height + TALL - 1, width + WIDE - 1
    at = residual_start + n * CHANNELS * tall * wide + (channel * tall + row) * wide + column
    below, beside = inside & (row < TALL - 1), inside & (column < WIDE - 1)
    tl.store(at, rest, mask=inside)
    tl.store(at + height * wide, rest, mask=below)
    tl.store(at + width, rest, mask=beside)
    tl.store(at + height * wide + width, rest, mask=below & beside)


# Unspecialised, or how much room others need might decide in which order numbers are added.
@triton.jit(do_not_specialize=["room"])
def _visit(
    residual_start,
    rows_start,
    atoms_start,
    energies_start,
    which_start,
    squares_start,
    keys_start,
    values_start,
    counts_start,
    level_start,
    bound_start,
    out_start,
    cells_start,
    cells,
    room,
    height,
    width,
    down,
    across,
    atoms,
    CHANNELS: tl.constexpr,
    TALL: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    NUMBERS: tl.constexpr,
    NONNEG: tl.constexpr,
    MASKED: tl.constexpr,
    MOVES: tl.constexpr,
    IDLE: tl.constexpr,
    SWEEPS: tl.constexpr,
):
    program = tl.program_id(0)
    n, cell = (program // cells).to(tl.int64), tl.load(cells_start + program % cells)
    here = n * down * across + cell
    count = tl.load(counts_start + here)
    if MOVES:  # noqa: SIM102, the outer one is decided when the kernel is compiled
        if tl.load(out_start + here) == 0:
            return
    up, left = cell // across, cell % across
    lane = tl.arange(0, NUMBERS)
    channel, row, column = lane // (ROWS * COLUMNS), lane // COLUMNS % ROWS, lane % COLUMNS
    # A cell as long as the image has the image for its window.
    high = tl.minimum(height, _begin(up + 1, height, down) - _begin(up, height, down) + TALL - 1)
    broad = tl.minimum(width, _begin(left + 1, width, across) - _begin(left, width, across) + WIDE - 1)
    inside = (channel < CHANNELS) & (row < high) & (column < broad)
    row += _begin(up, height, down)
    row = tl.where(row < height, row, row - height)
    column += _begin(left, width, across)
    column = tl.where(column < width, column, column - width)

    tall, wide = height + TALL - 1, width + WIDE - 1
    at = residual_start + n * CHANNELS * tall * wide + (channel * tall + row) * wide + column
    tile = tl.load(at, mask=inside, other=0.0)
    if MASKED:
        image = tl.load(rows_start + n) * CHANNELS * height * width + (channel * height + row) * width + column
        square = tl.load(squares_start + image, mask=inside, other=0.0)
    dictionary = atoms_start + tl.load(which_start + n) * atoms * CHANNELS * TALL * WIDE
    energies = energies_start + tl.load(which_start + n) * atoms
    level, bound = tl.load(level_start + n), tl.load(bound_start + n)
    keys, values = keys_start + here * room, values_start + here * room

    sweep, moved, worst = 0, 0, 2 * bound
    while (sweep < SWEEPS) & (worst > bound):
        # What one thread stored in the last sweep is read by all of them in this one.
        tl.debug_barrier()
        worst = 0.0 * bound
        for k in range(0, count):
            key, old = tl.load(keys + k), tl.load(values + k)
            atom = _spread(dictionary, key, channel, row, column, inside, height, width, CHANNELS, TALL, WIDE)
            slope = tl.sum(tile * atom)
            if MASKED:
                atom_here = square * atom
                energy = tl.sum(atom_here * atom)
            else:
                atom_here = atom
                energy = tl.load(energies + key // (height * width))
            held = energy * old
            wish = slope + held
            goal = tl.maximum(wish - level, 0.0)
            if not NONNEG:
                goal -= tl.maximum(-wish - level, 0.0)
            change = tl.abs(goal - held)
            worst = tl.maximum(worst, change)
            if MOVES:
                # A coefficient that should vanish does so, however small it is.
                takes = (change > IDLE * bound) | ((goal == 0.0) & (old != 0.0))
                # An atom of zeros, which only a start can have put here, must not divide by its energy.
                new = tl.where(takes, goal / tl.where(goal == 0.0, 1.0, energy), old)
                tile += (old - new) * atom_here
                tl.store(values + k, new)
        sweep += 1
        moved += (worst > bound).to(tl.int32)

    if MOVES:
        tl.store(at, tile, mask=inside)
        if moved > 0:
            for a in range(-1, 2):
                for b in range(-1, 2):
                    around = (up + a + down) % down * across + (left + b + across) % across
                    tl.store(out_start + n * down * across + around, 1)
            tl.debug_barrier()
        tl.store(out_start + here, (worst > bound).to(tl.int32))
    else:
        tl.store(out_start + here, tl.where(count > 0, worst, 0.0))
