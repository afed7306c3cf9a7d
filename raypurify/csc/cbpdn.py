"""Convolutional basis pursuit denoising: the sparse code of an image under a dictionary of colour atoms."""

from typing import NamedTuple

import torch

from raypurify.csc import cd
from raypurify.csc._checks import check_dictionary, check_settings, check_signal
from raypurify.csc.admm import AdmmSettings, solve_admm
from raypurify.csc.convolution import reconstruct
from raypurify.errors import DataError

# Bytes of the codes of one group of images on a CPU: the iteration reads them about ten times, so they stay in cache.
_GROUP_BYTES = 2 << 20
# Coordinate descent beats ADMM while few coefficients are active. On CIFAR-10 and Imagenette the two meet at about this
# λ in units of the root mean square of an image's high part (0.06 to 0.13 there).
_DESCENT_FROM = 0.4


class SparseCode(NamedTuple):
    """What :func:`solve_cbpdn` found, per image.

    Attributes:
        codes: (N, M, H, W) coefficient maps.
        reconstruction: (N, 3, H, W), ``Σ_m d_m * x_m``.
        iterations: (N,) int64; of ADMM, or rounds of coordinate descent.
        objective: (N,) ``½‖reconstruction − signal‖² + λ‖codes‖₁``.
        converged: (N,) bool; False where ``max_iter`` came first.
    """

    codes: torch.Tensor
    reconstruction: torch.Tensor
    iterations: torch.Tensor
    objective: torch.Tensor
    converged: torch.Tensor


def solve_cbpdn(
    dictionary: torch.Tensor,
    signal: torch.Tensor,
    lmbda: float = 0.2,
    rel_tol: float = 5e-3,
    method: str = "auto",
    index: torch.Tensor | None = None,
    max_iter: int | None = None,
    rho: float | None = None,
    relax: float = 1.8,
    auto_rho: bool = False,
    nonneg: bool = False,
) -> SparseCode:
    r"""Solve ``argmin_x ½‖Σ_m d_m * x_m − s‖² + λ Σ_m ‖x_m‖₁`` for every image (RSFP, equation 6).

    Convolution is circular, atoms have their origin in the top-left corner and the coefficient maps are shared by the
    three colour channels: the problem of ``sporco.admm.cbpdn.ConvBPDN`` with a colour dictionary, and with ``method=
    "admm"`` and sporco's AutoRho off, its iterates.

    Args:
        dictionary: atoms (M, 3, h, w), or a bank (K, M, 3, h, w) together with ``index``.
        signal: images (N, 3, H, W), normally their high part; float32 or float64, H ≥ h, W ≥ w.
        lmbda: weight λ ≥ 0 of the L1 norm.
        rel_tol: an image is finished when its relative primal and dual residuals are below this (ADMM), or when no
            coefficient violates optimality by more than ``10 rel_tol λ`` (coordinate descent). With the
            default ρ the latter ends at the lower objective.
        method: ``"admm"`` (any device), ``"cd"`` (coordinate descent: CPU, Numba, λ > 0) or ``"auto"``: per image
            the quicker of the two, and ADMM wherever one of its settings below is given or a gradient is needed.
        index: (N,) integers, the dictionary of the bank that each image uses.
        max_iter: stop there even if unfinished; None: until solved (given up after 10,000, see ``converged``).
        rho: ADMM's penalty; None: ``50 λ + 1``, sporco's default.
        relax: ADMM's over-relaxation in [1, 2).
        auto_rho: ADMM adapts the penalty to the residuals (sporco's AutoRho) in the first 200 iterations.
        nonneg: allow codes ≥ 0 only (ADMM).

    Returns:
        :class:`SparseCode`, in the dtype and on the device of ``signal``. With ``method="admm"`` it is differentiable
        with respect to ``signal`` (through the unrolled iterations; give ``max_iter``).

    Raises:
        DataError: shapes that do not fit, values that are not finite, or a setting out of range.

    >>> atom = torch.full((1, 3, 2, 2), 12**-0.5)
    >>> res = solve_cbpdn(atom, torch.ones(1, 3, 4, 4), lmbda=0.1, rel_tol=1e-4, method="admm")
    >>> bool(res.converged.all()), res.reconstruction.shape
    (True, torch.Size([1, 3, 4, 4]))
    """
    check_signal(signal)
    bank, index = check_dictionary(dictionary, signal, index)
    check_settings(lmbda, rel_tol, max_iter, rho, relax, signal.dtype)
    if method not in ("auto", "admm", "cd"):
        raise DataError(f'method={method!r}: choose "auto", "admm" or "cd"')
    if not len(signal):
        return _empty(bank, signal)
    settings = AdmmSettings(lmbda, rel_tol, max_iter, 50 * lmbda + 1 if rho is None else rho, relax, auto_rho, nonneg)
    if method == "auto":
        by_descent = _prefers_descent(signal, settings, tuned=rho is not None)
    else:
        by_descent = torch.full((len(signal),), method == "cd")
    if by_descent.all():
        return _by_descent(bank, index, signal, settings)
    if not by_descent.any():
        return _by_admm(bank, index, signal, settings)
    # Each image by its own measure, or its code would depend on the company it came in.
    some, rest = by_descent.nonzero().flatten(), (~by_descent).nonzero().flatten()
    parts = (
        _by_descent(bank, index[some], signal[some], settings),
        _by_admm(bank, index[rest], signal[rest], settings),
    )
    back = torch.argsort(torch.cat([some, rest]))
    return SparseCode(*(torch.cat(field)[back] for field in zip(*parts)))


def _prefers_descent(signal, settings, tuned):
    tuned = tuned or settings.max_iter is not None or settings.auto_rho or settings.nonneg or signal.requires_grad
    if tuned or settings.lmbda == 0 or signal.device.type != "cpu" or not cd.available():
        return torch.zeros(len(signal), dtype=torch.bool)
    return settings.lmbda >= _DESCENT_FROM * signal.square().mean((1, 2, 3)).sqrt()


def _by_descent(bank, index, signal, settings):
    lmbda = settings.lmbda
    if lmbda == 0 or settings.nonneg or signal.device.type != "cpu":
        raise DataError('method="cd" needs lmbda > 0, codes of either sign and tensors on the CPU; use method="admm"')
    if not cd.available():
        raise DataError('method="cd" needs the package numba; install it or use method="admm"')
    codes, rounds, solved = cd.solve_cd(bank, index, signal, lmbda, settings.rel_tol, settings.max_iter)
    parts = [
        _described(_atoms(bank, index[some]), signal[some], lmbda, codes[some], rounds[some], solved[some])
        for some in _groups(bank, signal)
    ]
    return SparseCode(codes, *(torch.cat(field) for field in list(zip(*parts))[1:]))


def _by_admm(bank, index, signal, settings):
    parts = []
    for some in _groups(bank, signal):
        atoms, part = _atoms(bank, index[some]), signal[some]
        parts.append(_described(atoms, part, settings.lmbda, *solve_admm(atoms, part, settings)))
    return SparseCode(*(torch.cat(field) for field in zip(*parts)))


def _described(atoms, signal, lmbda, codes, iterations, converged):
    reconstruction = reconstruct(atoms, codes)
    misfit = (reconstruction - signal).square().sum((1, 2, 3))
    objective = misfit / 2 + lmbda * codes.abs().sum((1, 2, 3))
    return SparseCode(codes, reconstruction, iterations, objective, converged)


def _atoms(bank, which):
    # One dictionary for a whole group needs one set of spectra, and no gather.
    return bank[which[:1]] if bool((which == which[0]).all()) else bank[which]


def _groups(bank, signal):
    size = len(signal)
    if signal.device.type == "cpu":
        codes_bytes = bank.shape[1] * signal.shape[2] * signal.shape[3] * signal.element_size()
        size = max(1, _GROUP_BYTES // codes_bytes)
    return [slice(start, start + size) for start in range(0, len(signal), size)]


def _empty(bank, signal):
    codes = signal.new_zeros(0, bank.shape[1], *signal.shape[2:])
    none = torch.zeros(0, dtype=torch.int64, device=signal.device)
    return SparseCode(codes, torch.zeros_like(signal), none, signal.new_zeros(0), none.bool())
