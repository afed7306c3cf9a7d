"""What :func:`raypurify.csc.solve_cbpdn` refuses, and why."""

import torch

from raypurify.errors import DataError


def check_signal(signal: torch.Tensor) -> None:
    """A batch of finite colour images in a precision that the solvers compute in."""
    if signal.ndim != 4 or signal.shape[1] != 3 or signal.dtype not in (torch.float32, torch.float64):
        raise DataError(
            f"signal: expected (N, 3, H, W) in float32 or float64, got {tuple(signal.shape)} in {signal.dtype}"
        )
    if not torch.isfinite(signal).all():
        raise DataError("signal: holds NaN or infinite values; remove those images first")


def check_options(signal: torch.Tensor, method: str, pad: int, sparse: bool, differentiable: str | None) -> None:
    """Choices that exist and go together."""
    if method not in ("auto", "admm", "cd"):
        raise DataError(f'method={method!r}: choose "auto", "admm" or "cd"')
    if pad < 0:
        raise DataError(f"pad={pad}: must be ≥ 0")
    if differentiable not in (None, "unrolled", "implicit"):
        raise DataError(f'differentiable={differentiable!r}: choose "unrolled", "implicit" or None')
    if differentiable and sparse:
        raise DataError("sparse=True: sparse codes carry no gradient; leave out one of sparse and differentiable")
    if differentiable is None and signal.requires_grad and torch.is_grad_enabled():
        raise DataError(
            'signal: requires a gradient; choose differentiable="unrolled" or "implicit", or pass signal.detach()'
        )


def check_initial(initial: torch.Tensor | None, bank: torch.Tensor, signal: torch.Tensor) -> torch.Tensor | None:
    """Codes to start from, shaped like those of the result."""
    shape = (len(signal), bank.shape[1], *signal.shape[2:])
    if initial is None:
        return None
    values = initial.coalesce().values() if initial.is_sparse else initial
    if initial.shape != shape or not bool(torch.isfinite(values).all()):
        raise DataError(f"initial: expected finite codes {shape}, got {tuple(initial.shape)}")
    return initial.detach().to(signal)


def check_dictionary(
    dictionary: torch.Tensor, signal: torch.Tensor, index: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The dictionary as a bank (K, M, 3, h, w) like ``signal``, and an index (N,) into it."""
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
    if len(index) and not (int(index.min()) >= 0 and int(index.max()) < len(bank)):
        raise DataError(f"index: values {int(index.min())}..{int(index.max())}, but the bank holds 0..{len(bank) - 1}")
    return bank, index


def check_settings(
    lmbda: float, rel_tol: float, max_iter: int | None, rho: float | None, relax: float, dtype: torch.dtype
) -> None:
    """Settings in range, and a tolerance that the precision can reach where nothing else ends the iteration."""
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
