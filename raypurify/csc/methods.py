"""The registry of solvers: each takes a batch with everything settled and gives a :class:`Solution`."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from raypurify.csc import _admm_gpu, _descent_gpu, cd
from raypurify.csc.admm import AdmmSettings, solve_admm
from raypurify.csc.admm_masked import solve_masked
from raypurify.csc.convolution import reconstruct
from raypurify.csc.implicit import differentiate_implicitly
from raypurify.csc.levels import levels, penalties
from raypurify.csc.optimality import Solution, extremes
from raypurify.csc.tiles import largest_side, solve_tiled
from raypurify.errors import DataError

# Bytes of the codes of one group of images on a CPU: the iteration reads them about ten times, so they stay in cache.
_GROUP_BYTES = 2 << 20
# Working memory per pixel, measured and rounded up: arrays of codes of ADMM (spectra, copies of them and five states),
# numbers of descent (the residual twice, what screening finds, the working set). Both for three channels; what more of
# them need: matrices of C×C, arrays like the signal.
_ADMM_ARRAYS, _DESCENT_NUMBERS = 20, 20
_PER_PAIR, _PER_CHANNEL = 8, 4


class Problem(NamedTuple):
    """A batch to be coded, with everything settled.

    Attributes:
        bank: (K, M, C, h, w), in the dtype and on the device of ``signal``.
        index: (N,) int64, the dictionary of each image.
        signal: (N, C, H, W).
        mask: W (N, C, H, W) in [0, 1]; None: ones.
        lmbda: λ (N, 1) or (N, M), in float64.
        settings: of the iteration; descent takes ``rel_tol``, ``max_iter`` and ``nonneg`` from them.
        initial: codes (N, M, H, W) to start from, dense or sparse; None: zeros.
        sparse: whether the codes of the solution are a sparse tensor.
        differentiable: None, ``"unrolled"`` or ``"implicit"``, as :func:`raypurify.csc.solve_cbpdn` has it.
        max_bytes: working memory of the batch.
    """

    bank: torch.Tensor
    index: torch.Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    signal: torch.Tensor
    mask: torch.Tensor | None
    lmbda: torch.Tensor
    settings: AdmmSettings
    initial: torch.Tensor | None
    sparse: bool
    differentiable: str | None
    max_bytes: int

    def part(self, some: torch.Tensor) -> "Problem":
        """The problem of the images that ``some`` (n,) counts, ascending."""
        if len(some) == len(self.signal):
            return self
        initial = None if self.initial is None else self.initial.index_select(0, some)
        mask = None if self.mask is None else self.mask[some]
        lmbda, settings = self.lmbda[some], self.settings.part(some)
        index, signal = self.index[some], self.signal[some]
        return self._replace(index=index, signal=signal, mask=mask, lmbda=lmbda, settings=settings, initial=initial)


def by_descent(problem: Problem) -> Solution:
    """Solve by coordinate descent: on a CPU an image at a time (:mod:`raypurify.csc.cd`), on a GPU by its kernels.

    Raises DataError where the method cannot: λ = 0, unrolled gradients, a CPU without Numba, or a GPU on which the
    kernels do not run or cannot take such a problem.
    """
    bank, index, signal, mask, lmbda, settings, initial, _, differentiable, _ = problem
    if not (lmbda > 0).all() or differentiable == "unrolled":
        raise DataError('method="cd" needs lmbda > 0 and no unrolling; use method="admm"')
    tol = cd.tolerance(settings.rel_tol)
    if _descent_gpu.applies(bank, signal):
        parts = [_on_gpu(part, tol) for part in _descent_groups(problem)]
        solution = Solution(*(torch.cat(field) for field in zip(*parts))) if len(parts) > 1 else parts[0]
        return _differentiable(problem, solution) if differentiable else solution
    if signal.device.type != "cpu":
        raise DataError(
            'method="cd" needs float32, atoms of at most 16×16 in up to 8 channels, and the package triton on a GPU; '
            'use method="admm"'
        )
    if not cd.available():
        raise DataError('method="cd" needs the package numba; install it or use method="admm"')
    found = cd.solve_cd(bank, index, signal, lmbda, tol, settings.max_iter, settings.nonneg, initial, mask)
    places = [np.concatenate([np.full((1, len(one.value)), n), one.place]) for n, one in enumerate(found)]
    place = torch.from_numpy(np.concatenate(places, axis=1))
    value = torch.from_numpy(np.concatenate([one.value for one in found]))
    rests = [one.rest for one in found]
    rest = torch.from_numpy(np.stack(rests) if len(rests) > 1 else rests[0][None])
    rounds = torch.tensor([one.rounds for one in found])
    violation = torch.tensor([one.violation for one in found], dtype=signal.dtype)
    top = torch.tensor([one.top for one in found], dtype=signal.dtype)
    penalty = torch.tensor([_penalty(one, weights) for one, weights in zip(found, lmbda.numpy())])
    converged = violation <= (tol * levels(lmbda)).to(signal)
    solution = Solution(_codes(problem, place, value), rest, rounds, converged, penalty, violation, top)
    return _differentiable(problem, solution) if differentiable else solution


def _on_gpu(problem: Problem, tol: float) -> Solution:
    bank, index, signal, mask, lmbda, settings, initial, _, _, _ = problem
    found = _descent_gpu.solve(bank, index, signal, lmbda, tol, settings.max_iter, settings.nonneg, initial, mask)
    weights = lmbda[found.place[0], found.place[1] if lmbda.shape[1] > 1 else 0]
    # Coefficients lie image by image, and their sums are taken so: atomic additions would round differently each time.
    lengths = torch.bincount(found.place[0], minlength=len(signal))
    penalty = torch.segment_reduce(weights * found.value.abs(), "sum", lengths=lengths)
    converged = found.violation <= (tol * levels(lmbda)).to(signal)
    codes = _codes(problem, found.place, found.value)
    return Solution(codes, found.rest, found.rounds, converged, penalty, found.violation, found.top)


def _descent_groups(problem: Problem) -> list[Problem]:
    """The problem in parts that ``max_bytes`` allows; what an image is coded as does not depend on them."""
    own_weights, masked = problem.lmbda.shape[1] > 1, problem.mask is not None
    each = _descent_gpu.bytes_per_image(problem.bank, problem.signal, own_weights, masked)
    size = max(1, problem.max_bytes // each)
    images = torch.arange(len(problem.signal), device=problem.signal.device)
    return [problem.part(some) for some in images.split(size)]


def _codes(problem: Problem, place: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Codes, sparse or dense as asked, of the coefficients at ``place`` (4, k)."""
    shape = (len(problem.signal), problem.bank.shape[1], *problem.signal.shape[2:])
    if problem.sparse:
        return torch.sparse_coo_tensor(place, value, shape, check_invariants=False)
    codes = value.new_zeros(shape)
    codes[tuple(place)] = value
    return codes


def _differentiable(problem: Problem, solution: Solution) -> Solution:
    """The solution of descent with an implicit gradient."""
    bank, index, signal, mask = problem.bank, problem.index, problem.signal, problem.mask
    solved = []
    for some in _groups(problem):
        atoms = _atoms(bank, index[some])
        maps = differentiate_implicitly(solution.codes[some], atoms, signal[some], _some(mask, some))
        solved.append((atoms, maps))
    codes = torch.cat([maps for _, maps in solved])
    rest = signal - torch.cat([reconstruct(atoms, maps) for atoms, maps in solved])
    return solution._replace(codes=codes, rest=rest, penalty=penalties(codes, problem.lmbda))


def _penalty(code: cd.ImageCode, lmbda: np.ndarray) -> float:
    if len(lmbda) == 1:
        return lmbda[0] * np.abs(code.value).sum(dtype=np.float64)
    return np.sum(lmbda[code.place[0]] * np.abs(code.value))


def by_admm(problem: Problem) -> Solution:
    """Solve by ADMM (:mod:`raypurify.csc.admm`), as many images at once as ``max_bytes`` and the cache allow."""
    bank, index, signal, mask, lmbda, settings, initial, sparse, differentiable, _ = problem
    parts = []
    for some in _groups(problem):
        atoms, part, weights, chosen = _atoms(bank, index[some]), signal[some], _some(mask, some), settings.part(some)
        begun = None if initial is None else initial.index_select(0, torch.arange(some.start, some.stop).to(index))
        with torch.set_grad_enabled(torch.is_grad_enabled() and differentiable == "unrolled"):
            if weights is not None:
                codes, iterations, converged = solve_masked(atoms, part, weights, chosen, begun)
            else:
                solve = _admm_gpu.solve_fused if _admm_gpu.applies(chosen, part, atoms, begun) else solve_admm
                codes, iterations, converged = solve(atoms, part, chosen, begun)
        if differentiable == "implicit":
            codes = differentiate_implicitly(codes, atoms, part, weights)
        rest = part - reconstruct(atoms, codes)
        violation, top = extremes(atoms, codes, rest, lmbda[some], settings.nonneg, weights)
        penalty = penalties(codes, lmbda[some])
        codes = codes.to_sparse() if sparse else codes
        parts.append(Solution(codes, rest, iterations, converged, penalty, violation, top))
    return Solution(*(torch.cat(field) for field in zip(*parts)))


class Method(NamedTuple):
    """A way to solve for sparse codes.

    Attributes:
        solve: a :class:`Problem` to its :class:`Solution`.
        numbers_per_pixel: working memory per pixel of one image, besides image and result, in numbers, from those of
            atoms M and channels C.
    """

    solve: Callable[[Problem], Solution]
    numbers_per_pixel: Callable[[int, int], int]

    def bytes_per_pixel(self, problem: Problem) -> int:
        """Working memory per pixel of one image, besides image and result."""
        return self.numbers_per_pixel(*problem.bank.shape[1:3]) * problem.signal.element_size()


METHODS = {
    "admm": Method(by_admm, lambda atoms, channels: _ADMM_ARRAYS * atoms + _PER_PAIR * max(0, channels**2 - 9)),
    "cd": Method(by_descent, lambda _, channels: _DESCENT_NUMBERS + _PER_CHANNEL * max(0, channels - 3)),
}
"""Every method by its name in ``solve_cbpdn``."""


def solve_by(method: Method, problem: Problem) -> Solution:
    """Solve by ``method``, in tiles where one image needs more than ``problem.max_bytes``.

    Raises DataError where that is too little for a tile, or for an image with initial codes or a gradient.
    """
    bank, signal, max_bytes, settings = problem.bank, problem.signal, problem.max_bytes, problem.settings
    needed = method.bytes_per_pixel(problem)
    if needed * signal.shape[2] * signal.shape[3] <= max_bytes:
        return method.solve(problem)
    if problem.initial is not None or problem.differentiable:
        raise DataError(f"max_bytes={max_bytes}: an image in tiles can have neither initial codes nor a gradient")
    side = largest_side(max_bytes, needed, max(bank.shape[3:]))
    parts = []
    for n in range(len(signal)):
        one = problem.part(torch.tensor([n], device=signal.device))

        def window(pixels: torch.Tensor, weights: torch.Tensor | None, one: Problem = one) -> Solution:
            return method.solve(one._replace(signal=pixels, mask=weights, sparse=True))

        tiled = solve_tiled(window, bank[one.index], one.signal, side, one.lmbda, settings.nonneg, one.mask)
        parts.append(tiled if problem.sparse else tiled._replace(codes=tiled.codes.to_dense()))
    return Solution(*(torch.cat(field) for field in zip(*parts)))


def _atoms(bank: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    # One dictionary for a whole group needs one set of spectra, and no gather.
    return bank[which[:1]] if bool((which == which[0]).all()) else bank[which]


def _some(mask: torch.Tensor | None, some: slice) -> torch.Tensor | None:
    return None if mask is None else mask[some]


def _groups(problem: Problem) -> list[slice]:
    signal = problem.signal
    atoms, pixels, element = problem.bank.shape[1], signal.shape[2] * signal.shape[3], signal.element_size()
    size = problem.max_bytes // (METHODS["admm"].bytes_per_pixel(problem) * pixels)
    if signal.device.type == "cpu":
        size = min(size, _GROUP_BYTES // (atoms * pixels * element))
    size = max(1, size)
    return [slice(start, min(start + size, len(signal))) for start in range(0, len(signal), size)]
