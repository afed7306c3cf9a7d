"""What :func:`raypurify.csc.solve_cbpdn` refuses, and why."""

import torch

from raypurify.csc.methods import METHODS
from raypurify.errors import DataError


def check_signal(signal: torch.Tensor) -> None:
    """Raise DataError unless ``signal`` is a batch (N, 3, H, W) of finite numbers in float32 or float64."""
    if signal.ndim != 4 or signal.shape[1] != 3 or signal.dtype not in (torch.float32, torch.float64):
        raise DataError(
            f"signal: expected (N, 3, H, W) in float32 or float64, got {tuple(signal.shape)} in {signal.dtype}"
        )
    if not torch.isfinite(signal).all():
        raise DataError("signal: holds NaN or infinite values; remove those images first")


def check_options(signal: torch.Tensor, method: str, pad: int, sparse: bool, differentiable: str | None) -> None:
    """Raise DataError unless these choices exist and go together."""
    if method != "auto" and method not in METHODS:
        known = " or ".join(f'"{name}"' for name in METHODS)
        raise DataError(f'method={method!r}: choose "auto", {known}')
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
    """The codes to start from, constant and in the dtype of ``signal``; None where there are none.

    Raises DataError unless they are finite and shaped like those of the result, (N, M, H, W).
    """
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
    """The dictionary as a bank (K, M, 3, h, w), in dtype and device like ``signal``, and an index (N,) int64 into it.

    Raises DataError for other shapes, atoms that are not finite floats or larger than the images, an index out of
    range, or one of bank and index without the other.
    """
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
    """Raise DataError unless the settings are in range, and ``rel_tol`` is one that ``dtype`` can reach.

    With a ``max_iter`` any tolerance will do, because that ends the iteration.
    """
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
