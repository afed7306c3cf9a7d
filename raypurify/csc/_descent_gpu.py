"""Coordinate descent with a working set on a GPU: the algorithm of :mod:`raypurify.csc.cd` for a batch at once."""

from collections.abc import Iterator
from typing import Any

import torch

from raypurify.csc._descent_cells import Grid, lay_grid
from raypurify.csc._descent_sets import Batch, Codes, Finished, Found, first_codes, gather
from raypurify.csc._gpu_use import fetch, launching, usable
from raypurify.csc.cd import CEILING, NEAR, SHARE, SLACK, TIGHT
from raypurify.csc.convolution import reconstruct
from raypurify.csc.levels import levels, ratios
from raypurify.csc.optimality import extremes

# Sides of atoms and channels beyond which a window does not fit into the registers of a program.
_LONGEST, _CHANNELS = 16, 8
# Keys of coefficients and offsets within an image have 31 bits, and so has a cell's number times a side.
_KEYS, _SIDE = 1 << 31, 1 << 16
# Times that every cell has its turn in a round. Cells at rest cost a glance, and none is waited for by the host.
_TURNS = 6
# Working memory of a pixel besides signal and result: the residual three times, while images leave, and with a mask W²;
# 2 of the patches; and the working set three times, while coefficients join and images leave, with room for this many
# in a cell of 64 pixels.
_USUAL_ROOM, _CELL = 128, 64
# Atoms (M, C, h, w) and sides of the images that the kernels are tried on.
_TRIED = (((3, 2, 4, 3), (9, 11)), ((65, 3, 8, 8), (17, 19)))


def applies(bank: torch.Tensor, signal: torch.Tensor) -> bool:
    """Whether the kernels can code ``signal`` (N, C, H, W) with the atoms of ``bank`` (K, M, C, h, w)."""
    if not signal.is_cuda or signal.dtype != torch.float32:
        return False
    count, channels, h, w = bank.shape[1:]
    height, width = signal.shape[2:]
    if max(h, w) > _LONGEST or channels > _CHANNELS or max(height, width) > _SIDE:
        return False
    if max(count, channels) * (height + h - 1) * (width + w - 1) >= _KEYS:
        return False
    return usable(signal.device, "Descent", agrees)


def bytes_per_image(bank: torch.Tensor, signal: torch.Tensor, own_weights: bool, masked: bool) -> int:
    """Working memory of one image, besides signal and result, with room for 128 coefficients in a cell.

    Atoms with weights of their own make it a dictionary of its own, which is laid out three times.
    """
    (height, width), (h, w) = signal.shape[2:], bank.shape[3:]
    residuals = signal.shape[1] * (4 if masked else 3) * (height + h - 1) * (width + w - 1)
    others = (2 + 3 * 2 * _USUAL_ROOM // _CELL) * height * width
    return 4 * (residuals + others + (3 * bank[0].numel() if own_weights else 0))


@torch.no_grad()
def solve(
    bank: torch.Tensor,
    index: torch.Tensor,
    signal: torch.Tensor,
    lmbda: torch.Tensor,
    tol: float,
    max_iter: int | None = None,
    nonneg: bool = False,
    initial: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> Found:
    """Codes of a batch, where :func:`applies` says so, as :func:`raypurify.csc.cd.solve_cd` has them.

    Its arguments and its rounds, in other words than bits: a program descends on a cell of pixels that it holds in
    registers, cells whose windows are disjoint at once, a fixed number of turns a round. What depends on an image
    alone decides what happens to it, so codes do not depend on the batch. Correlations in bfloat16 choose what
    joins; all values, residuals and correlations of what is chosen are float32. An image that seems finished by the
    coefficients chosen so is screened once more in float32 alone, all atoms at all pixels: ``max |β| ≤ λ(1 + tol)`` is
    found as exactly as on a CPU. The host waits once a round, for which images are finished and how much room cells
    need.
    """
    index, ratio = index.to(signal.device), ratios(lmbda)
    # Of the bank as it is given: a sum over more or fewer dictionaries may be rounded otherwise.
    energies = bank.square().sum((2, 3, 4))
    if ratio is not None:
        ratio = ratio.to(signal)
        energies = energies[index] * ratio.square()
        bank, index = bank[index] * ratio[:, :, None, None, None], torch.arange(len(signal), device=signal.device)
    grid = lay_grid(*signal.shape[2:], *bank.shape[3:])
    codes = first_codes(signal, bank.shape[1], grid, initial, ratio)
    level = levels(lmbda).to(signal)
    squares = None if mask is None else mask.square().contiguous()
    limit = CEILING if max_iter is None else max_iter
    bank, signal = bank.contiguous(), signal.detach().contiguous()
    with launching(signal.device):
        done = [*_rounds(bank, energies, index, signal, level, tol, limit, nonneg, codes, squares, grid)]
    return gather(done, bank.shape[1], signal.shape[2:], ratio)


def _rounds(
    bank: torch.Tensor,
    energies: torch.Tensor,
    index: torch.Tensor,
    signal: torch.Tensor,
    level: torch.Tensor,
    tol: float,
    limit: int,
    nonneg: bool,
    codes: Codes,
    squares: torch.Tensor | None,
    grid: Grid,
) -> Iterator[Finished]:
    from raypurify.csc._gpu_descend import descend, inspect, renew_residual
    from raypurify.csc._gpu_join import join
    from raypurify.csc._gpu_screen import PATCH, lay_taps, screen

    count, channels, height, width = signal.shape
    h, w = bank.shape[3:]
    taps, colours = lay_taps(bank, height, width), grid.colours(signal.device)
    residual = signal.new_empty(count, channels, height + h - 1, width + w - 1)
    batch = Batch(torch.arange(count, device=signal.device), index, level, codes)
    best = signal.new_empty(count, -(-height // PATCH) * -(-width // PATCH))
    keys = torch.empty_like(best, dtype=torch.int32)
    done = 0
    while True:
        rows, which, level, codes = batch
        fixed = (bank, energies, which, squares, codes, grid, level, nonneg)
        renew_residual(residual, signal, rows, bank, which, squares, codes, grid)
        asked = inspect(residual, rows, *fixed).amax(1)
        some, places = best[: len(rows)], keys[: len(rows)]

        screen(residual, bank, taps, which, some, places, nonneg)
        seems = _judge(some, asked, level, tol)[2] | (done == limit)
        screen(residual, bank, taps, which, some, places, nonneg, seems)
        top, violation, solved = _judge(some, asked, level, tol)
        # What seemed unfinished is: its candidate violates optimality by as much, whatever others there are.
        finished = (seems & solved) | (done == limit)
        excess = top / level - 1
        above = level * (1 + (SHARE * excess).clamp(min=NEAR * tol))
        above = torch.where(finished, torch.inf, above)
        room = codes.keys.shape[2]
        joined = join(some, places, above, codes, room, (height, width), grid)
        read = fetch(torch.cat([finished.to(torch.int32), joined[2].amax()[None]]))()
        if int(read[-1]) > room:
            room = 1 << (int(read[-1]) - 1).bit_length()
            joined = join(some, places, above, codes, room, (height, width), grid)
        batch = batch._replace(codes=Codes(*joined))
        ended = read[:-1] > 0
        if ended.any():
            leaving, left = (torch.nonzero(each).flatten().to(signal.device) for each in (ended, ~ended))
            gone, rest = batch.part(leaving), residual[leaving]
            if squares is not None:
                # What the codes leave where nothing is known, too: the reconstruction there is what a mask is for.
                renew_residual(rest, signal, gone.rows, bank, gone.which, None, gone.codes, grid)
            rest = rest[:, :, :height, :width].contiguous()
            yield Finished(gone.rows, gone.codes, rest, done, violation[leaving], top[leaving])
            if not len(left):
                return
            batch, excess, residual = batch.part(left), excess[left], residual[left]
        done += 1
        bound = batch.level * (SLACK * excess).clamp(min=TIGHT * tol)
        dirty = torch.ones_like(batch.codes.counts)
        fixed = (bank, energies, batch.which, squares, batch.codes, grid, batch.level, nonneg)
        for _ in range(_TURNS):
            for cells in colours:
                descend(residual, batch.rows, *fixed, bound, dirty, cells)


def _judge(
    best: torch.Tensor, asked: torch.Tensor, level: torch.Tensor, tol: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    top = best.amax(1).clamp(min=0)
    violation = torch.maximum(asked, top - level)
    return top, violation, violation <= tol * level


def agrees(device: torch.device) -> bool:
    """Whether what the kernels find for small problems is optimal, by arithmetic in double precision on the CPU; on a
    GPU also for atoms as many and as large as those of shipped bundles, which are other code of a compiler's."""
    return all(_agrees(device, *sizes) for sizes in _TRIED[: 2 if device.type == "cuda" else 1])


def _agrees(device: torch.device, atoms: tuple[int, ...], sides: tuple[int, int]) -> bool:
    # Whatever dtype and device the process has for its own.
    draw, tol = torch.Generator("cpu").manual_seed(0), 0.01
    kind: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
    bank = torch.randn(2, *atoms, generator=draw, **kind)
    bank = bank / torch.linalg.vector_norm(bank, dim=(2, 3, 4), keepdim=True)
    signal = torch.randn(3, atoms[1], *sides, generator=draw, **kind) / 3
    index = torch.tensor([1, 0, 1], device="cpu")
    lmbda = torch.tensor([[0.6], [0.7], [0.8]], dtype=torch.float64, device="cpu")
    found = solve(bank.to(device), index.to(device), signal.to(device), lmbda.to(device), tol, 50)
    codes = torch.zeros(3, atoms[0], *sides, dtype=torch.float64, device="cpu")
    codes[tuple(found.place.cpu())] = found.value.cpu().double()
    return optimal(bank[index], codes, signal, found.rest.cpu(), lmbda, tol)


def optimal(
    atoms: torch.Tensor, codes: torch.Tensor, signal: torch.Tensor, rest: torch.Tensor, lmbda: torch.Tensor, tol: float
) -> bool:
    """Whether dense codes violate optimality by ``tol`` λ at most and leave ``rest`` of ``signal``, up to rounding."""
    left = signal.double() - reconstruct(atoms.double(), codes)
    violation, _ = extremes(atoms.double(), codes, left, lmbda, False)
    close = torch.allclose(left, rest.double(), atol=1e-5 * float(signal.abs().max()))
    return close and bool((violation <= (tol + 1e-4) * levels(lmbda)).all())
