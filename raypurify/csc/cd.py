"""Coordinate descent with a working set for convolutional basis pursuit denoising, on CPUs."""

from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
import torch

# The residual of optimality that is asked for, in units of λ, per unit of ADMM's rel_tol. Measured on CIFAR-10 and
# Imagenette (λ from 0.05 to 0.5): the objective is then at or below that of sporco with AutoRho at the same rel_tol.
_TOL_PER_REL_TOL = 10.0
# Where "until solved" gives up; images need 5 to 60 rounds.
_CEILING = 10_000


def available() -> bool:
    """Whether Numba is installed."""
    return find_spec("numba") is not None


def solve_cd(
    bank: torch.Tensor, index: torch.Tensor, signal: torch.Tensor, lmbda: float, rel_tol: float, max_iter: int | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes of a batch, each image on its own and alone in its thread.

    Rounds of: correlate the residual with every atom (``β = Dᴴr``); in each cell of pixels let the coefficient with
    the largest ``|β| − λ`` join the working set; coordinate descent on that set, with β kept up to date through the
    Gram of its atoms. This is the locally greedy choice of Moreau et al. (DICOD, 2018) in the working-set frame of
    Massias et al. (celer, 2018). An image is finished when ``max |β| ≤ λ(1 + τ)`` and every member of the set is
    optimal to ``τλ``, τ = 10 ``rel_tol``: no coefficient anywhere violates the optimality conditions by more.

    Results do not depend on the batch, on the number of threads or on their timing. Threads: ``torch.get_num_threads``.

    Args:
        bank: (K, M, 3, h, w) on the CPU, ``index`` (N,) into it, ``signal`` (N, 3, H, W), ``lmbda`` > 0.

    Returns:
        ``(codes (N, M, H, W), rounds (N,), solved (N,))``.
    """
    from raypurify.csc._cd_kernels import solve_image

    tol = min(_TOL_PER_REL_TOL * rel_tol, 0.5)
    max_rounds = _CEILING if max_iter is None else max_iter
    codes = signal.new_zeros(len(signal), bank.shape[1], *signal.shape[2:])
    images, maps = signal.detach().contiguous().numpy(), codes.numpy()
    scalar = images.dtype.type
    which = index.tolist()
    prepared = {k: _layouts(bank[k].contiguous().numpy(), signal.shape[2], signal.shape[3]) for k in sorted(set(which))}

    def solve(n: int) -> tuple[int, bool]:
        return solve_image(images[n], *prepared[which[n]], scalar(lmbda), scalar(tol), max_rounds, maps[n])

    threads = min(torch.get_num_threads(), len(signal))
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            outcomes = list(pool.map(solve, range(len(signal))))
    else:
        outcomes = [solve(n) for n in range(len(signal))]
    rounds, solved = (list(column) for column in zip(*outcomes)) if outcomes else ([], [])
    return codes, torch.tensor(rounds, dtype=torch.int64), torch.tensor(solved, dtype=torch.bool)


def _layouts(atoms: np.ndarray, height: int, width: int) -> tuple[np.ndarray, ...]:
    """The atoms as the kernels want them: as they are, in rows between zeros, and as taps with their offsets."""
    from raypurify.csc._cd_kernels import TAPS

    count, channels, h, w = atoms.shape
    pitch = width + w - 1
    c, i, j = np.meshgrid(np.arange(channels), np.arange(h), np.arange(w), indexing="ij")
    offsets = (c * (height + h) * pitch + i * pitch + j).ravel().astype(np.uint64)
    spare = -len(offsets) % TAPS
    packed = np.zeros((count, 2 * h + 1, w * channels), atoms.dtype)
    packed[:, 1::2] = atoms.transpose(0, 2, 3, 1).reshape(count, h, w * channels)
    weights = np.pad(atoms.reshape(count, -1), ((0, 0), (0, spare)))
    return atoms, packed.reshape(count, -1), np.pad(offsets, (0, spare)), weights
