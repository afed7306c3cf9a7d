"""What :func:`raypurify.csc.solve_cbpdn` refuses, and why."""

import torch

from raypurify.csc.methods import METHODS
from raypurify.errors import DataError


def check_signal(signal: torch.Tensor) -> None:
    """Raise DataError unless ``signal`` is a batch (N, C, H, W) of finite numbers in float32 or float64."""
    if signal.ndim != 4 or not signal.shape[1] or signal.dtype not in (torch.float32, torch.float64):
        raise DataError(
            f"signal: expected (N, C, H, W) in float32 or float64, got {tuple(signal.shape)} in {signal.dtype}"
        )
    if not torch.isfinite(signal).all():
        raise DataError(
            "signal: holds NaN or infinite values; remove those images, or pass signal.nan_to_num() with mask=0 there"
        )


def check_options(
    signal: torch.Tensor, method: str, pad: int, sparse: bool, differentiable: str | None, balanced_mask: bool
) -> None:
    """Raise DataError unless these choices exist and go together."""
    if method != "auto" and method not in METHODS:
        known = " or ".join(f'"{name}"' for name in METHODS)
        raise DataError(f'method={method!r}: choose "auto", {known}')
    if pad < 0:
        raise DataError(f"pad={pad}: must be ≥ 0")
    if balanced_mask:
        raise DataError("auto_rho=True: not with a mask; leave out one of the two, and choose rho yourself if need be")
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
    """The dictionary as a bank (K, M, C, h, w), in dtype and device like ``signal``, and an index (N,) int64 into it.

    Raises DataError for other shapes, atoms that are not finite floats or larger than the images, an index out of
    range, or one of bank and index without the other.
    """
    if dictionary.ndim not in (4, 5) or 0 in dictionary.shape:
        raise DataError(
            f"dictionary: expected (M, C, h, w), or (K, M, C, h, w) with index, got {tuple(dictionary.shape)}"
        )
    if dictionary.shape[-3] != signal.shape[1]:
        raise DataError(
            f"dictionary: atoms have {dictionary.shape[-3]} channels, but signal has {signal.shape[1]}; for maps of "
            "each channel by itself, make its channels the batch: signal.flatten(0, 1)[:, None]"
        )
    if not dictionary.is_floating_point() or not torch.isfinite(dictionary).all():
        raise DataError("dictionary: atoms must be finite floats")
    if (dictionary.ndim == 5) != (index is not None):
        raise DataError("index: needed with a bank (K, M, C, h, w), and only then; give one integer per image")
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


def check_lmbda(lmbda: float | torch.Tensor, signal: torch.Tensor, atoms: int) -> torch.Tensor:
    """λ of the images, (N, 1), or (N, M) where it is given for each atom, in float64 and on the device of ``signal``.

    Raises DataError unless it is a number, (N,), (1, M), (N, 1) or (N, M), finite and ≥ 0.
    """
    count = len(signal)
    given = torch.as_tensor(lmbda, dtype=torch.float64, device=signal.device).detach()
    fits = given.ndim == 0 or given.shape == (count,)
    if not fits and not (given.ndim == 2 and given.shape[0] in (1, count) and given.shape[1] in (1, atoms)):
        raise DataError(
            f"lmbda: expected a number, one for each image ({count},), or for each atom (1, {atoms}) or "
            f"({count}, {atoms}), got {tuple(given.shape)}; weights of the atoms alone are weights[None]"
        )
    wrong = given[~((given >= 0) & (given < torch.inf))]
    if len(wrong):
        raise DataError(f"lmbda={wrong[0]:g}: must be finite and ≥ 0")
    return (given if given.ndim == 2 else given.reshape(-1, 1)).expand(count, -1)


def check_mask(mask: torch.Tensor | None, signal: torch.Tensor) -> torch.Tensor | None:
    """The mask (N, C, H, W), in dtype and device like ``signal``; None where there is none.

    Raises DataError unless it is (N or 1, C or 1, H, W), of bools or of numbers in [0, 1].
    """
    if mask is None:
        return None
    count, channels, *size = signal.shape
    if mask.ndim != 4 or list(mask.shape[2:]) != size or mask.shape[0] not in (1, count):
        raise DataError(f"mask: expected ({count} or 1, {channels} or 1, *{size}), got {tuple(mask.shape)}")
    if mask.shape[1] not in (1, channels):
        raise DataError(f"mask: has {mask.shape[1]} channels; give one, or each of the {channels} of the signal")
    if mask.dtype != torch.bool and not ((mask >= 0) & (mask <= 1)).all():
        raise DataError("mask: must be in [0, 1]; scale it, 0 being where nothing is known")
    return mask.detach().to(signal).expand_as(signal)


def check_settings(rel_tol: float, max_iter: int | None, rho: float | None, relax: float, dtype: torch.dtype) -> None:
    """Raise DataError unless the settings are in range, and ``rel_tol`` is one that ``dtype`` can reach.

    With a ``max_iter`` any tolerance will do, because that ends the iteration.
    """
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
