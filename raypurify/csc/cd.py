"""Coordinate descent with a working set for convolutional basis pursuit denoising, on CPUs."""

from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch

# The residual of optimality that is asked for, in units of λ, per unit of ADMM's rel_tol. Measured on CIFAR-10 and
# Imagenette (λ from 0.05 to 0.5): the objective is then at or below that of sporco with AutoRho at the same rel_tol.
_TOL_PER_REL_TOL = 10.0
# Where "until solved" gives up; images need 3 to 30 rounds.
_CEILING = 10_000
# Per round a coefficient joins if its excess over λ is at least this share of the largest excess, and the sweeps stop
# at that share of it. Measured: see docs/decisions.md.
_SHARE, _SLACK = 0.1, 0.2
# The same two near the end, in units of the tolerance. Both are well below 1, or every round would push a few
# coefficients elsewhere over the tolerance.
_NEAR, _TIGHT = 0.3, 0.3
# Images from this many pixels on share the threads among their blocks, smaller ones go to one thread each.
_LARGE = 1 << 19


class Found(NamedTuple):
    """The code of one image as lists, and how good it is.

    Attributes:
        place: (3, n) int64, atom, row and column of the n coefficients that are not zero.
        value: (n,).
        residual: (3, H, W), ``s − Dx``.
        rounds: of the working set.
        violation: the largest change that a coefficient still asks for, in units of the correlation.
        top: ``max Dᴴr``, in magnitude unless codes are non-negative.
    """

    place: np.ndarray
    value: np.ndarray
    residual: np.ndarray
    rounds: int
    violation: float
    top: float


def available() -> bool:
    """Whether Numba is installed."""
    return find_spec("numba") is not None


def tolerance(rel_tol: float) -> float:
    """Violation of optimality, in units of λ, at which coordinate descent stops."""
    return min(_TOL_PER_REL_TOL * rel_tol, 0.5)


def solve_cd(
    bank: torch.Tensor,
    index: torch.Tensor,
    signal: torch.Tensor,
    lmbda: float,
    tol: float,
    max_iter: int | None = None,
    nonneg: bool = False,
    initial: torch.Tensor | None = None,
) -> list[Found]:
    """Codes of a batch, each image on its own.

    Rounds of: correlate the residual with every atom (``β = Dᴴr``); in each patch of pixels let the coefficient with
    the largest ``|β| − λ`` join the working set; coordinate descent on that set, directly on the residual: a step
    reads and writes one window of it. This is the locally greedy choice of Moreau et al. (DICOD, 2018) in the
    working-set frame of Massias et al. (celer, 2018). An image is finished when ``max |β| ≤ λ(1 + tol)`` and every
    member of the set is optimal to ``tol λ``: no coefficient anywhere violates the optimality conditions by more.

    Results do not depend on the batch, on the number of threads or on their timing. Threads: ``torch.get_num_threads``.

    Args:
        bank: (K, M, 3, h, w) on the CPU, ``index`` (N,) into it, ``signal`` (N, 3, H, W), ``lmbda`` > 0.
        initial: codes (N, M, H, W) to start from, dense or sparse.
    """
    images = signal.detach().contiguous().numpy()
    which = index.tolist()
    filters = {k: _filters(bank[k].contiguous().numpy()) for k in sorted(set(which))}
    rounds = _CEILING if max_iter is None else max_iter
    starts = [None if initial is None else initial[n] for n in range(len(images))]

    def solve(n: int, pool: ThreadPoolExecutor | None = None) -> Found:
        return _solve_image(images[n], filters[which[n]], lmbda, tol, nonneg, rounds, starts[n], pool)

    threads, large = torch.get_num_threads(), images[0][0].size >= _LARGE
    if threads == 1 or (len(images) == 1 and not large):
        return [solve(n) for n in range(len(images))]
    with ThreadPoolExecutor(threads) as pool:
        if large:
            return [solve(n, pool) for n in range(len(images))]
        return list(pool.map(solve, range(len(images))))


def _filters(atoms: np.ndarray) -> tuple:
    """The atoms as the kernels want them: with colours side by side in padded rows, their energies, and as taps."""
    from raypurify.csc._cd_kernels import TOGETHER
    from raypurify.csc._lanes import LANES, ROWS

    count, channels, h, w = atoms.shape
    span = w * channels + -(w * channels) % LANES
    taps = np.zeros((count, h + -h % ROWS, span), atoms.dtype)
    taps[:, :h, : w * channels] = atoms.transpose(0, 2, 3, 1).reshape(count, h, w * channels)
    flat = atoms.reshape(count, -1)
    weights = np.pad(flat, ((0, -count % TOGETHER), (0, -flat.shape[1] % TOGETHER)))
    return h, w, taps.reshape(-1), span, np.square(flat).sum(1), weights


def _room(signal: np.ndarray, h: int, w: int, start: torch.Tensor | None) -> tuple:
    """Arrays to work in: the residual with its margins, what screening finds, the working set, its cells."""
    from raypurify.csc._cd_kernels import CELL, PATCH
    from raypurify.csc._lanes import ROWS

    _, height, width = signal.shape
    image = np.zeros((height + 3 * (h - 1) + ROWS, (width + 3 * (w - 1)) * 3), signal.dtype)
    found = np.zeros((-(-height // PATCH) * -(-width // PATCH), 4), signal.dtype)
    down, across = max(1, height // max(CELL, h)), max(1, width // max(CELL, w))
    first, dirty = np.zeros(down * across + 1, np.int64), np.ones(down * across, bool)
    if start is None:
        place, given = np.zeros((3, 0), np.int64), np.zeros(0)
    else:
        start = (start if start.is_sparse else start.to_sparse()).coalesce()
        place, given = start.indices().numpy(), start.values().numpy()
        cell = place[1] * down // height * across + place[2] * across // width
        order = np.argsort(cell, kind="stable")
        order = order[given[order] != 0]
        place, given = place[:, order], given[order]
        first[:] = np.searchsorted(cell[order], np.arange(down * across + 1))
    lists = _lists(len(given), signal.dtype)
    for mine, theirs in zip(lists, (*place, given)):
        mine[:] = theirs
    return image, found, lists, len(given), (first, across, dirty)


def _lists(room: int, dtype: np.dtype) -> list[np.ndarray]:
    """Atoms, rows, columns and values of a working set."""
    return [np.empty(room, kind) for kind in (np.int32, np.int32, np.int32, dtype)]


def _solve_image(signal, filters, lmbda, tol, nonneg, rounds, start, pool) -> Found:
    """One image; with a pool its blocks are screened on threads, to the same bits."""
    from raypurify.csc import _cd_kernels as kernels

    lmbda, tol = signal.dtype.type(lmbda), signal.dtype.type(tol)
    h, w, taps, span, energy, weights = filters
    _, height, width = signal.shape
    image, found, lists, count, (first, across, dirty) = _room(signal, h, w, start)
    sides = kernels.block(height), kernels.block(width)
    corners = [(y, x) for y in range(0, height, sides[0]) for x in range(0, width, sides[1])]

    def screen(corner: tuple[int, int]) -> float:
        return kernels.screen(found, image, height, width, *corner, h, w, weights, nonneg)

    done = 0
    while True:
        kernels.residual(image, signal, h, w, taps, span, energy, *lists, count)
        top = max((pool.map if pool else map)(screen, corners))
        worst = kernels.violation(image, h, w, taps, span, energy, lmbda, nonneg, *lists, count)
        worst = max(worst, top - lmbda)
        if worst <= tol * lmbda or done == rounds:
            break
        done += 1
        excess = top / lmbda - 1
        level = lmbda * (1 + max(_NEAR * tol, _SHARE * excess))
        old, lists = lists, _lists(count + np.count_nonzero(found[:, 0] > level), signal.dtype)
        count = kernels.join(found, level, height, width, *old, count, first, across, *lists)
        bound = lmbda * max(_TIGHT * tol, _SLACK * excess)
        kernels.descend(
            image, height, width, h, w, taps, span, energy, lmbda, bound, nonneg, *lists, first, across, dirty
        )
    atom, row, col, value = (part[:count] for part in lists)
    kept = value != 0
    place = np.stack([atom[kept], row[kept], col[kept]]).astype(np.int64)
    inside = image[h - 1 : h - 1 + height].reshape(height, -1, 3)[:, w - 1 : w - 1 + width]
    return Found(place, value[kept], np.ascontiguousarray(inside.transpose(2, 0, 1)), done, float(worst), float(top))
