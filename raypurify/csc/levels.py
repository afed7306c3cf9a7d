"""The weights λ of the L1 norm: of a whole batch, of each image, or of each of its atoms.

Within this room they are one tensor (N, 1), or (N, M) where atoms differ, in float64. Dividing atom m by ``λ_m / λ̄``
and multiplying its codes by as much turns the second case into the first, with the *level* λ̄ for all atoms: descent
solves that problem, and whoever solved it, violations are measured in it, that of each atom in units of its own λ.
"""

import torch


def levels(lmbda: torch.Tensor) -> torch.Tensor:
    """Level λ̄ (N,) of each image: the median λ of its atoms, of those that have one above 0."""
    if lmbda.shape[1] == 1:
        return lmbda[:, 0]
    return torch.where(lmbda > 0, lmbda, torch.nan).nanmedian(1).values.nan_to_num(0.0)


def ratios(lmbda: torch.Tensor) -> torch.Tensor | None:
    """``λ̄ / λ`` (N, M), 1 for an atom with λ = 0; None where an image's atoms all have the same λ."""
    if lmbda.shape[1] == 1:
        return None
    return torch.where(lmbda > 0, levels(lmbda)[:, None] / lmbda, 1.0)


def penalties(codes: torch.Tensor, lmbda: torch.Tensor) -> torch.Tensor:
    """``Σ_m λ_m ‖x_m‖₁`` of dense codes (N, M, H, W), in float64: (N,)."""
    # One image at a time, or the sum would hold a copy of all codes in double precision.
    if lmbda.shape[1] == 1:
        norms = torch.stack([torch.linalg.vector_norm(maps, 1, dtype=torch.float64) for maps in codes])
        return lmbda[:, 0] * norms
    norms = torch.stack([torch.linalg.vector_norm(maps, 1, dim=(1, 2), dtype=torch.float64) for maps in codes])
    return (lmbda * norms).sum(1)
