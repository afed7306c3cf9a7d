"""The registry of solvers: each takes a batch with everything settled and gives a :class:`Solution`."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from raypurify.csc import _admm_gpu, cd
from raypurify.csc.admm import AdmmSettings, solve_admm
from raypurify.csc.convolution import reconstruct
from raypurify.csc.implicit import differentiate_implicitly
from raypurify.csc.optimality import Solution, extremes
from raypurify.csc.tiles import largest_side, solve_tiled
from raypurify.errors import DataError

# Bytes of the codes of one group of images on a CPU: the iteration reads them about ten times, so they stay in cache.
_GROUP_BYTES = 2 << 20
# Working memory per pixel, measured and rounded up: arrays of codes of ADMM (spectra, copies of them and five states),
# numbers of descent (the residual twice, what screening finds, the working set).
_ADMM_ARRAYS, _DESCENT_NUMBERS = 20, 20


class Problem(NamedTuple):
    """A batch to be coded, with everything settled.

    Attributes:
        bank: (K, M, 3, h, w), in the dtype and on the device of ``signal``.
        index: (N,) int64, the dictionary of each image.
        signal: (N, 3, H, W).
        settings: of the iteration; descent takes ``lmbda``, ``rel_tol``, ``max_iter`` and ``nonneg`` from them.
        initial: codes (N, M, H, W) to start from, dense or sparse; None: zeros.
        sparse: whether the codes of the solution are a sparse tensor.
        differentiable: None, ``"unrolled"`` or ``"implicit"``, as :func:`raypurify.csc.solve_cbpdn` has it.
        max_bytes: working memory of the batch.
    """

    bank: torch.Tensor
    index: torch.Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    signal: torch.Tensor
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
        return self._replace(index=self.index[some], signal=self.signal[some], initial=initial)


def by_descent(problem: Problem) -> Solution:
    """Solve by coordinate descent, an image at a time (:mod:`raypurify.csc.cd`).

    Raises DataError where the method cannot: λ = 0, a GPU, unrolled gradients, or no Numba.
    """
    bank, index, signal, settings, initial, sparse, differentiable, max_bytes = problem
    lmbda = settings.lmbda
    if lmbda == 0 or signal.device.type != "cpu" or differentiable == "unrolled":
        raise DataError('method="cd" needs lmbda > 0, tensors on the CPU and no unrolling; use method="admm"')
    if not cd.available():
        raise DataError('method="cd" needs the package numba; install it or use method="admm"')
    tol = cd.tolerance(settings.rel_tol)
    found = cd.solve_cd(bank, index, signal, lmbda, tol, settings.max_iter, settings.nonneg, initial)
    shape = (len(signal), bank.shape[1], *signal.shape[2:])
    codes = _sparse_codes(found, shape) if sparse else _dense_codes(found, shape, signal.dtype)
    if differentiable:
        groups = _groups(bank, signal, max_bytes)
        parts = [(_atoms(bank, index[some]), codes[some], signal[some]) for some in groups]
        solved = [(atoms, differentiate_implicitly(maps, atoms, part)) for atoms, maps, part in parts]
        codes = torch.cat([maps for _, maps in solved])
        rest = signal - torch.cat([reconstruct(atoms, maps) for atoms, maps in solved])
        l1_norm = _l1_norms(codes)
    else:
        rests = [one.rest for one in found]
        rest = torch.from_numpy(np.stack(rests) if len(rests) > 1 else rests[0][None])
        l1_norm = torch.tensor([np.abs(one.value).sum(dtype=np.float64) for one in found])
    rounds = torch.tensor([one.rounds for one in found])
    violation = torch.tensor([one.violation for one in found], dtype=signal.dtype)
    top = torch.tensor([one.top for one in found], dtype=signal.dtype)
    return Solution(codes, rest, rounds, violation <= tol * lmbda, l1_norm, violation, top)


def by_admm(problem: Problem) -> Solution:
    """Solve by ADMM (:mod:`raypurify.csc.admm`), as many images at once as ``max_bytes`` and the cache allow."""
    bank, index, signal, settings, initial, sparse, differentiable, max_bytes = problem
    parts = []
    for some in _groups(bank, signal, max_bytes):
        atoms, part = _atoms(bank, index[some]), signal[some]
        begun = None if initial is None else initial.index_select(0, torch.arange(some.start, some.stop).to(index))
        with torch.set_grad_enabled(torch.is_grad_enabled() and differentiable == "unrolled"):
            solve = _admm_gpu.solve_fused if _admm_gpu.applies(settings, part, atoms, begun) else solve_admm
            codes, iterations, converged = solve(atoms, part, settings, begun)
        if differentiable == "implicit":
            codes = differentiate_implicitly(codes, atoms, part)
        rest = part - reconstruct(atoms, codes)
        violation, top = extremes(atoms, codes, rest, settings.lmbda, settings.nonneg)
        l1_norm = _l1_norms(codes)
        codes = codes.to_sparse() if sparse else codes
        parts.append(Solution(codes, rest, iterations, converged, l1_norm, violation, top))
    return Solution(*(torch.cat(field) for field in zip(*parts)))


class Method(NamedTuple):
    """A way to solve for sparse codes.

    Attributes:
        solve: a :class:`Problem` to its :class:`Solution`.
        bytes_per_pixel: working memory per pixel of one image, besides image and result, from the number of atoms M
            and the bytes of a number.
    """

    solve: Callable[[Problem], Solution]
    bytes_per_pixel: Callable[[int, int], int]


METHODS = {
    "admm": Method(by_admm, lambda atoms, element: _ADMM_ARRAYS * atoms * element),
    "cd": Method(by_descent, lambda atoms, element: _DESCENT_NUMBERS * element),
}
"""Every method by its name in ``solve_cbpdn``."""


def solve_by(method: Method, problem: Problem) -> Solution:
    """Solve by ``method``, in tiles where one image needs more than ``problem.max_bytes``.

    Raises DataError where that is too little for a tile, or for an image with initial codes or a gradient.
    """
    bank, signal, max_bytes, settings = problem.bank, problem.signal, problem.max_bytes, problem.settings
    needed = method.bytes_per_pixel(bank.shape[1], signal.element_size())
    if needed * signal.shape[2] * signal.shape[3] <= max_bytes:
        return method.solve(problem)
    if problem.initial is not None or problem.differentiable:
        raise DataError(f"max_bytes={max_bytes}: an image in tiles can have neither initial codes nor a gradient")
    side = largest_side(max_bytes, needed, max(bank.shape[3:]))
    parts = []
    for n in range(len(signal)):
        one = problem.part(torch.tensor([n], device=signal.device))

        def window(pixels: torch.Tensor, one: Problem = one) -> Solution:
            return method.solve(one._replace(signal=pixels, sparse=True))

        tiled = solve_tiled(window, bank[one.index], one.signal, side, settings.lmbda, settings.nonneg)
        parts.append(tiled if problem.sparse else tiled._replace(codes=tiled.codes.to_dense()))
    return Solution(*(torch.cat(field) for field in zip(*parts)))


def _l1_norms(codes: torch.Tensor) -> torch.Tensor:
    # One image at a time, or the sum would hold a copy of all codes in double precision.
    return torch.stack([torch.linalg.vector_norm(maps, 1, dtype=torch.float64) for maps in codes])


def _dense_codes(found: list[cd.ImageCode], shape: tuple, dtype: torch.dtype) -> torch.Tensor:
    codes = torch.zeros(shape, dtype=dtype)
    for maps, one in zip(codes.numpy(), found):
        maps[tuple(one.place)] = one.value
    return codes


def _sparse_codes(found: list[cd.ImageCode], shape: tuple) -> torch.Tensor:
    places = [np.concatenate([np.full((1, len(one.value)), n), one.place]) for n, one in enumerate(found)]
    values = torch.from_numpy(np.concatenate([one.value for one in found]))
    indices = torch.from_numpy(np.concatenate(places, axis=1))
    return torch.sparse_coo_tensor(indices, values, shape, check_invariants=False)


def _atoms(bank: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    # One dictionary for a whole group needs one set of spectra, and no gather.
    return bank[which[:1]] if bool((which == which[0]).all()) else bank[which]


def _groups(bank: torch.Tensor, signal: torch.Tensor, max_bytes: int) -> list[slice]:
    atoms, pixels, element = bank.shape[1], signal.shape[2] * signal.shape[3], signal.element_size()
    size = max_bytes // (METHODS["admm"].bytes_per_pixel(atoms, element) * pixels)
    if signal.device.type == "cpu":
        size = min(size, _GROUP_BYTES // (atoms * pixels * element))
    size = max(1, size)
    return [slice(start, min(start + size, len(signal))) for start in range(0, len(signal), size)]
