"""Coordinate descent with a working set for convolutional basis pursuit denoising, on CPUs."""

from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from raypurify.csc.levels import levels, ratios

if TYPE_CHECKING:
    from raypurify.csc._cd_arrays import Atoms

# The residual of optimality that is asked for, in units of λ, per unit of ADMM's rel_tol. Measured on CIFAR-10 and
# Imagenette (λ from 0.05 to 0.5): the objective is then at or below that of sporco with AutoRho at the same rel_tol.
_TOL_PER_REL_TOL = 10.0
# Where "until solved" gives up; images need 3 to 30 rounds.
CEILING = 10_000
# Per round a coefficient joins if its excess over λ is at least this share of the largest excess, and the sweeps stop
# at that share of it. Measured: see docs/decisions.md.
SHARE, SLACK = 0.1, 0.2
# The same two near the end, in units of the tolerance. Both are well below 1, or every round would push a few
# coefficients elsewhere over the tolerance.
NEAR, TIGHT = 0.3, 0.3
# Images from this many pixels on share the threads among their blocks, smaller ones go to one thread each.
_LARGE = 1 << 19


class ImageCode(NamedTuple):
    """Sparse code of one image as a list of coefficients, and how good it is.

    Attributes:
        place: (3, n) int64, atom, row and column of the n coefficients that are not zero.
        value: (n,).
        rest: (C, H, W), ``s − Dx``.
        rounds: of the working set.
        violation: the largest change that a coefficient still asks for, in units of the correlation.
        top: ``max DᴴW²r``, in magnitude unless codes are non-negative. Both are those of the problem whose atoms all
            have the same λ (:mod:`raypurify.csc.levels`).
    """

    place: np.ndarray
    value: np.ndarray
    rest: np.ndarray
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
    lmbda: torch.Tensor,
    tol: float,
    max_iter: int | None = None,
    nonneg: bool = False,
    initial: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> list[ImageCode]:
    r"""Codes of a batch, ``argmin_x ½‖W(Σ_m d_m * x_m − s)‖² + Σ_m λ_m ‖x_m‖₁``, each image on its own.

    Rounds of: correlate the residual with every atom (``β = Dᴴr``); in each patch of pixels let the coefficient with
    the largest ``|β| − λ`` join the working set; coordinate descent on that set, directly on the residual: a step reads
    and writes one window of it and sets ``x ← shrink(β + ‖d‖²x, λ) / ‖d‖²``. This is the locally greedy choice of
    Moreau et al. (DICOD, 2018) in the working-set frame of Massias et al. (celer, 2018). With a mask W the residual is
    ``W²r``, a step adds ``W²d`` to it, and ``‖Wd‖²`` at the place of the coefficient takes the place of ``‖d‖²``: no
    Gram matrix is needed, which is why the shifts of an atom may differ. Atoms with a λ of their own are coded as
    :mod:`raypurify.csc.levels` says. An image is finished when
    ``max |β| ≤ λ(1 + tol)`` and every member of the set is optimal to ``tol λ``: no coefficient anywhere violates the
    optimality conditions by more.

    Results do not depend on the batch, on the number of threads or on their timing. Threads: ``torch.get_num_threads``.

    Args:
        bank: (K, M, C, h, w) on the CPU, in the dtype of ``signal``.
        index: (N,) int64, the dictionary of each image.
        signal: (N, C, H, W), float32 or float64.
        lmbda: λ > 0, (N, 1) or (N, M) in float64.
        tol: violation of optimality, in units of λ, to stop at (see :func:`tolerance`).
        max_iter: rounds at most; None: until solved (given up after 10,000).
        nonneg: allow codes ≥ 0 only.
        initial: codes (N, M, H, W) to start from, dense or sparse; None: zeros.
        mask: W (N, C, H, W) in the dtype of ``signal``; None: ones.
    """
    from raypurify.csc._cd_arrays import lay_out

    images = signal.detach().contiguous().numpy()
    which, level, ratio = index.tolist(), levels(lmbda).tolist(), ratios(lmbda)
    atoms = {k: lay_out(bank[k].contiguous().numpy()) for k in sorted(set(which))} if ratio is None else {}
    rounds = CEILING if max_iter is None else max_iter

    def solve(n: int, pool: ThreadPoolExecutor | None = None) -> ImageCode:
        start, weights = None if initial is None else initial[n], None if mask is None else mask[n].numpy()
        if ratio is None:
            return _solve_image(images[n], atoms[which[n]], level[n], tol, nonneg, rounds, start, weights, pool)
        factor = ratio[n].to(bank)
        scaled = lay_out((bank[which[n]] * factor[:, None, None, None]).numpy())
        start = None if start is None else _divided(start, factor)
        code = _solve_image(images[n], scaled, level[n], tol, nonneg, rounds, start, weights, pool)
        return code._replace(value=code.value * factor.numpy()[code.place[0]])

    threads, large = torch.get_num_threads(), images[0][0].size >= _LARGE
    if threads == 1 or (len(images) == 1 and not large):
        return [solve(n) for n in range(len(images))]
    with ThreadPoolExecutor(threads) as pool:
        if large:
            return [solve(n, pool) for n in range(len(images))]
        return list(pool.map(solve, range(len(images))))


def _divided(codes: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    codes = (codes if codes.is_sparse else codes.to_sparse()).coalesce()
    place = codes.indices()
    return torch.sparse_coo_tensor(place, codes.values() / factor[place[0]], codes.shape, check_invariants=False)


def _solve_image(
    signal: np.ndarray,
    atoms: "Atoms",
    lmbda: float,
    tol: float,
    nonneg: bool,
    rounds: int,
    initial: torch.Tensor | None,
    mask: np.ndarray | None,
    pool: ThreadPoolExecutor | None,
) -> ImageCode:
    """The code of one image (C, H, W); with a pool its blocks are screened on threads, to the same bits."""
    from raypurify.csc import _cd_arrays as arrays
    from raypurify.csc import _cd_kernels as kernels

    lmbda, tol = signal.dtype.type(lmbda), signal.dtype.type(tol)
    channels, height, width = signal.shape
    residual, patches = arrays.empty_residual(signal, atoms), arrays.empty_patches(signal)
    squares = None if mask is None else arrays.lay_out_weights(mask, residual, atoms)
    active, cells = arrays.first_set(signal, atoms, initial)
    corners = arrays.corners(height, width)

    def screen(corner: tuple[int, int], patches: np.ndarray = patches) -> float:
        return kernels.screen(patches, residual, *corner, atoms, nonneg)

    done = 0
    while True:
        worst = kernels.compute_residual(residual, signal, atoms, active, squares, lmbda, nonneg)
        top = max((pool.map if pool else map)(screen, corners))
        worst = max(worst, top - lmbda)
        if worst <= tol * lmbda or done == rounds:
            break
        done += 1
        excess = top / lmbda - 1
        level = lmbda * (1 + max(NEAR * tol, SHARE * excess))
        active = arrays.WorkingSet(*kernels.join(patches, level, height, width, active, cells))
        bound = lmbda * max(TIGHT * tol, SLACK * excess)
        kernels.descend(residual, atoms, active, squares, cells, lmbda, bound, nonneg)
    # A large image leaves no room for what is not needed any more.
    del screen, patches
    if squares is not None:
        # What the codes leave where nothing is known, too: the reconstruction there is what a mask is for.
        kernels.compute_residual(residual, signal, atoms, active, None, lmbda, nonneg)
    kept = active.value != 0
    place = np.stack([active.atom[kept], active.row[kept], active.col[kept]]).astype(np.int64)
    h, w = atoms.h, atoms.w
    inside = residual.pixels[h - 1 : h - 1 + height].reshape(height, -1, channels)[:, w - 1 : w - 1 + width]
    rest = np.ascontiguousarray(inside.transpose(2, 0, 1))
    return ImageCode(place, active.value[kept], rest, done, float(worst), float(top))
