"""The two solvers under one signature: a batch in, a :class:`Solution` out."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from raypurify.csc import cd
from raypurify.csc.admm import AdmmSettings, solve_admm
from raypurify.csc.convolution import reconstruct
from raypurify.csc.implicit import differentiate_implicitly
from raypurify.csc.optimality import Solution, extremes
from raypurify.csc.tiles import largest_side, solve_tiled
from raypurify.errors import DataError

# Bytes of the codes of one group of images on a CPU: the iteration reads them about ten times, so they stay in cache.
_GROUP_BYTES = 2 << 20
# Working memory per pixel: arrays of codes of ADMM (spectra, copies of them and five states), numbers of descent (the
# residual twice, what screening finds, the working set).
_ADMM_ARRAYS, _DESCENT_NUMBERS = 20, 20


class Problem(NamedTuple):
    """A batch with everything settled; the fields are those of :func:`raypurify.csc.solve_cbpdn`."""

    bank: torch.Tensor
    index: torch.Tensor
    signal: torch.Tensor
    settings: AdmmSettings
    initial: torch.Tensor | None
    sparse: bool
    differentiable: str | None
    max_bytes: int

    def part(self, some: torch.Tensor) -> "Problem":
        """The images that ``some`` (n,) counts."""
        initial = None if self.initial is None else self.initial.index_select(0, some)
        return self._replace(index=self.index[some], signal=self.signal[some], initial=initial)


def by_descent(problem: Problem) -> Solution:
    """Coordinate descent, an image at a time."""
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
        parts = [(atoms, differentiate_implicitly(maps, atoms, part)) for atoms, maps, part in parts]
        codes = torch.cat([maps for _, maps in parts])
        rest = signal - torch.cat([reconstruct(atoms, maps) for atoms, maps in parts])
        size = _size(codes)
    else:
        rest = torch.from_numpy(np.stack([one.residual for one in found]))
        size = torch.tensor([np.abs(one.value).sum(dtype=np.float64) for one in found])
    rounds = torch.tensor([one.rounds for one in found])
    violation, top = (torch.tensor([one[k] for one in found], dtype=signal.dtype) for k in (4, 5))
    return Solution(codes, rest, rounds, violation <= tol * lmbda, size, violation, top)


def by_admm(problem: Problem) -> Solution:
    """ADMM, group by group."""
    bank, index, signal, settings, initial, sparse, differentiable, max_bytes = problem
    parts = []
    for some in _groups(bank, signal, max_bytes):
        atoms, part = _atoms(bank, index[some]), signal[some]
        begun = None if initial is None else initial.index_select(0, torch.arange(some.start, some.stop).to(index))
        with torch.set_grad_enabled(torch.is_grad_enabled() and differentiable == "unrolled"):
            codes, iterations, converged = solve_admm(atoms, part, settings, begun)
        if differentiable == "implicit":
            codes = differentiate_implicitly(codes, atoms, part)
        rest = part - reconstruct(atoms, codes)
        violation, top = extremes(atoms, codes, rest, settings.lmbda, settings.nonneg)
        size = _size(codes)
        codes = codes.to_sparse() if sparse else codes
        parts.append(Solution(codes, rest, iterations, converged, size, violation, top))
    return Solution(*(torch.cat(field) for field in zip(*parts)))


def by_tiles(solve: Callable[[Problem], Solution], problem: Problem) -> Solution:
    """:func:`by_descent` or :func:`by_admm`, in tiles where an image needs more than ``max_bytes``."""
    bank, signal, max_bytes, settings = problem.bank, problem.signal, problem.max_bytes, problem.settings
    needed = bytes_per_pixel("cd" if solve is by_descent else "admm", bank.shape[1], signal.element_size())
    if needed * signal.shape[2] * signal.shape[3] <= max_bytes:
        return solve(problem)
    if problem.initial is not None or problem.differentiable:
        raise DataError(f"max_bytes={max_bytes}: an image in tiles can have neither initial codes nor a gradient")
    side = largest_side(max_bytes, needed, max(bank.shape[3:]))
    parts = []
    for n in range(len(signal)):
        one = problem.part(torch.tensor([n], device=signal.device))

        def window(pixels: torch.Tensor, one=one) -> Solution:
            return solve(one._replace(signal=pixels, sparse=True))

        tiled = solve_tiled(window, bank[one.index], one.signal, side, settings.lmbda, settings.nonneg)
        parts.append(tiled if problem.sparse else tiled._replace(codes=tiled.codes.to_dense()))
    return Solution(*(torch.cat(field) for field in zip(*parts)))


def bytes_per_pixel(method: str, atoms: int, element: int) -> int:
    """Working memory of a method per pixel of one image, besides image and result: measured, rounded up."""
    return (_ADMM_ARRAYS * atoms if method == "admm" else _DESCENT_NUMBERS) * element


def _size(codes: torch.Tensor) -> torch.Tensor:
    # One image at a time, or the sum would hold a copy of all codes in double precision.
    return torch.stack([torch.linalg.vector_norm(maps, 1, dtype=torch.float64) for maps in codes])


def _dense_codes(found: list[cd.Found], shape: tuple, dtype: torch.dtype) -> torch.Tensor:
    codes = torch.zeros(shape, dtype=dtype)
    for maps, one in zip(codes.numpy(), found):
        maps[tuple(one.place)] = one.value
    return codes


def _sparse_codes(found: list[cd.Found], shape: tuple) -> torch.Tensor:
    places = [np.concatenate([np.full((1, len(one.value)), n), one.place]) for n, one in enumerate(found)]
    values = torch.from_numpy(np.concatenate([one.value for one in found]))
    indices = torch.from_numpy(np.concatenate(places, axis=1))
    return torch.sparse_coo_tensor(indices, values, shape, check_invariants=False)


def _atoms(bank: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    # One dictionary for a whole group needs one set of spectra, and no gather.
    return bank[which[:1]] if bool((which == which[0]).all()) else bank[which]


def _groups(bank: torch.Tensor, signal: torch.Tensor, max_bytes: int) -> list[slice]:
    atoms, pixels, element = bank.shape[1], signal.shape[2] * signal.shape[3], signal.element_size()
    size = max_bytes // (bytes_per_pixel("admm", atoms, element) * pixels)
    if signal.device.type == "cpu":
        size = min(size, _GROUP_BYTES // (atoms * pixels * element))
    size = max(1, size)
    return [slice(start, min(start + size, len(signal))) for start in range(0, len(signal), size)]
