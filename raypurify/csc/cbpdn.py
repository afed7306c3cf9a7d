"""Convolutional basis pursuit denoising: the sparse code of an image under a dictionary of colour atoms."""

from typing import NamedTuple

import torch

from raypurify.csc.admm import AdmmSettings, solve_admm
from raypurify.csc.convolution import reconstruct
from raypurify.errors import DataError

# Codes of one group of images on a CPU, in bytes: the iteration reads them about ten times, so they should stay in cache.
_GROUP_BYTES = 2 << 20


class SparseCode(NamedTuple):
    """What :func:`solve_cbpdn` found, per image.

    Attributes:
        codes: (N, M, H, W) coefficient maps.
        reconstruction: (N, 3, H, W), ``Σ_m d_m * x_m``.
        iterations: (N,) int64; of ADMM, or passes of coordinate descent over the image.
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
        rel_tol: an image is finished when its relative primal and dual residuals are below this.
        method: ``"admm"``, ``"cd"`` (coordinate descent, CPU) or ``"auto"``.
        index: (N,) integers, the dictionary of the bank that each image uses.
        max_iter: stop there even if unfinished; None: until solved.
        rho: ADMM penalty; None: ``50 λ + 1``.
        relax: ADMM over-relaxation in [1, 2).
        auto_rho: adapt the penalty to the residuals (sporco's AutoRho); ADMM only.
        nonneg: allow non-negative codes only; ADMM only.

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
    _check_signal(signal)
    bank, index = _check_dictionary(dictionary, signal, index)
    _check_settings(lmbda, rel_tol, max_iter, rho, relax, signal.dtype)
    if method not in ("auto", "admm", "cd"):
        raise DataError(f'method={method!r}: choose "auto", "admm" or "cd"')
    settings = AdmmSettings(
        lmbda, rel_tol, max_iter, 50 * lmbda + 1 if rho is None else rho, relax, auto_rho, nonneg
    )
    group = _group_size(bank, signal)
    parts = []
    for start in range(0, len(signal), group):
        some, which = signal[start : start + group], index[start : start + group]
        # One dictionary for the whole group needs one set of spectra, and no gather.
        atoms = bank[which[:1]] if bool((which == which[0]).all()) else bank[which]
        codes, iterations, converged = solve_admm(atoms, some, settings)
        parts.append(_finish(atoms, some, lmbda, codes, iterations, converged))
    if not parts:
        return _empty(bank, signal)
    return SparseCode(*(torch.cat(field) for field in zip(*parts)))


def _finish(atoms, signal, lmbda, codes, iterations, converged):
    reconstruction = reconstruct(atoms, codes)
    misfit = (reconstruction - signal).square().sum((1, 2, 3))
    objective = misfit / 2 + lmbda * codes.abs().sum((1, 2, 3))
    return SparseCode(codes, reconstruction, iterations, objective, converged)


def _empty(bank, signal):
    codes = signal.new_zeros(0, bank.shape[1], *signal.shape[2:])
    none = torch.zeros(0, dtype=torch.int64, device=signal.device)
    return SparseCode(codes, torch.zeros_like(signal), none, signal.new_zeros(0), none.bool())


def _group_size(bank, signal):
    if signal.device.type != "cpu":
        return max(1, len(signal))
    codes_bytes = bank.shape[1] * signal.shape[2] * signal.shape[3] * signal.element_size()
    return max(1, _GROUP_BYTES // codes_bytes)


def _check_signal(signal):
    if signal.ndim != 4 or signal.shape[1] != 3 or signal.dtype not in (torch.float32, torch.float64):
        raise DataError(
            f"signal: expected (N, 3, H, W) in float32 or float64, got {tuple(signal.shape)} in {signal.dtype}"
        )
    if not torch.isfinite(signal).all():
        raise DataError("signal: holds NaN or infinite values; remove those images first")


def _check_dictionary(dictionary, signal, index):
    if dictionary.ndim not in (4, 5) or dictionary.shape[-3] != 3 or 0 in dictionary.shape:
        raise DataError(
            f"dictionary: expected (M, 3, h, w), or (K, M, 3, h, w) with index, got {tuple(dictionary.shape)}"
        )
    if not dictionary.is_floating_point() or not torch.isfinite(dictionary).all():
        raise DataError("dictionary: atoms must be finite floats")
    if (dictionary.ndim == 5) != (index is not None):
        raise DataError("index: needed with a bank (K, M, 3, h, w), and only then; give one integer per image")
    if signal.shape[2] < dictionary.shape[-2] or signal.shape[3] < dictionary.shape[-1]:
        raise DataError(
            f"signal: {signal.shape[2]}×{signal.shape[3]} is smaller than the atoms' "
            f"{dictionary.shape[-2]}×{dictionary.shape[-1]}; enlarge the images or use smaller atoms"
        )
    bank = dictionary.detach().to(signal)
    if index is None:
        return bank[None], torch.zeros(len(signal), dtype=torch.int64, device=signal.device)
    index = torch.as_tensor(index, device=signal.device)
    if index.shape != (len(signal),) or index.is_floating_point() or index.dtype == torch.bool:
        raise DataError(f"index: expected {len(signal)} integers, got {tuple(index.shape)} in {index.dtype}")
    index = index.long()
    if len(index) and not (0 <= int(index.min()) and int(index.max()) < len(bank)):
        raise DataError(f"index: values {int(index.min())}..{int(index.max())}, but the bank holds 0..{len(bank) - 1}")
    return bank, index


def _check_settings(lmbda, rel_tol, max_iter, rho, relax, dtype):
    if not 0 <= lmbda < float("inf"):
        raise DataError(f"lmbda={lmbda}: must be finite and ≥ 0")
    if max_iter is not None and max_iter < 0:
        raise DataError(f"max_iter={max_iter}: must be ≥ 0, or None")
    # Below this the residuals are rounding errors, and waiting for them to fall may never end.
    floor = 0.0 if max_iter is not None else 100 * torch.finfo(dtype).eps
    if not floor <= rel_tol < 1:
        raise DataError(f"rel_tol={rel_tol}: must be in [{floor:.1g}, 1) for {dtype} with max_iter={max_iter}")
    if rho is not None and not 0 < rho < float("inf"):
        raise DataError(f"rho={rho}: must be finite and > 0")
    if not 1 <= relax < 2:
        raise DataError(f"relax={relax}: must be in [1, 2)")
