"""NumPy in, NumPy out; torch in, torch out: the two ends of every function of this room."""

from typing import TypeAlias, TypeVar

import numpy as np
import torch

from raypurify.errors import DataError

Array: TypeAlias = np.ndarray | torch.Tensor
SameArray = TypeVar("SameArray", bound=Array)


def to_numpy(array: Array) -> np.ndarray:
    """Copy ``array`` to a NumPy array on the CPU (bfloat16, which NumPy lacks, as float32)."""
    if isinstance(array, torch.Tensor):
        array = array.detach()
        return (array.float() if array.dtype == torch.bfloat16 else array).cpu().numpy()
    return np.asarray(array)


def like(array: np.ndarray, reference: SameArray) -> SameArray:
    """``array`` as the kind of ``reference``: NumPy, or a tensor on its device. The dtype stays."""
    if isinstance(reference, torch.Tensor):
        return torch.from_numpy(np.ascontiguousarray(array)).to(reference.device)  # type: ignore[return-value]  # so it is
    return array  # type: ignore[return-value]  # no tensor, so NumPy


def finite_rows(latents: Array) -> np.ndarray:
    """``latents`` as floating-point NumPy (N, d), or DataError: not two-dimensional, empty, or a row not finite.

    float32 and float64 stay as they are, everything else becomes float32.
    """
    rows = to_numpy(latents)
    if rows.ndim != 2:
        raise DataError(f"latents have shape {rows.shape}: expected (N, d), one row per image")
    if rows.size == 0:
        raise DataError(f"latents have shape {rows.shape}: there is nothing to cluster")
    if rows.dtype not in (np.float32, np.float64):
        rows = rows.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(rows).all(1))
    if len(bad):
        raise DataError(f"latents row {bad[0]} is not finite ({len(bad)} such rows of {len(rows)}): drop those images")
    return rows
