"""How good a sparse code is: the one measure for codes of any method."""

from typing import NamedTuple

import torch

from raypurify.csc.convolution import analyze, atom_spectra

# Numbers that are multiplied in double precision at once. Smaller pieces would leave the heap in pieces, too: what is
# larger than 32 MiB goes back to the system.
_PIECE = 1 << 23


class Solution(NamedTuple):
    """Codes of a batch by any method, and what :func:`quality` needs to judge them.

    Attributes:
        codes: (N, M, H, W), dense or sparse.
        rest: (N, 3, H, W), what the codes leave of the signal, ``r = s − Dx``.
        iterations: (N,) int64.
        converged: (N,) bool, by the method's own rule.
        l1_norm: (N,) float64, ``‖x‖₁``.
        violation: (N,) the largest change that a coefficient asks for, in units of ``β = Dᴴr``.
        top: (N,) ``max |β|``, or ``max β`` for non-negative codes.
    """

    codes: torch.Tensor
    rest: torch.Tensor
    iterations: torch.Tensor
    converged: torch.Tensor
    l1_norm: torch.Tensor
    violation: torch.Tensor
    top: torch.Tensor


def quality(solution: Solution, signal: torch.Tensor, lmbda: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    r"""Objective, violation of optimality in units of λ, and duality gap of each image: three tensors (N,).

    With ``θ = r min(1, λ / max|β|)``, a feasible point of the dual ``max_θ ½‖s‖² − ½‖s − θ‖², ‖Dᴴθ‖∞ ≤ λ``, the gap is
    ``P(x) − D(θ) ≥ P(x) − P(x*)``: the objective is at most that far above the optimum. For λ = 0 the violation is in
    units of β, and the gap is ``½‖r‖²``.
    """
    rest, top = solution.rest, solution.top.double()
    energy = _inner(rest, rest) / 2
    objective = energy + lmbda * solution.l1_norm
    with torch.no_grad():
        scale = torch.where(top > lmbda, lmbda / top.clamp(min=torch.finfo(top.dtype).tiny), 1.0)
        gap = objective + energy * scale.square() - scale * _inner(rest, signal)
    unit = lmbda if lmbda > 0 else 1.0
    return objective.to(signal.dtype), (solution.violation / unit).to(signal.dtype), gap.clamp(min=0).to(signal.dtype)


def _inner(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """⟨one, other⟩ of each image (N,), in double precision: the gap is a small difference of large sums.

    Some rows at a time, as a copy in double precision would be twice the image.
    """
    rows = max(1, _PIECE // max(1, one[:, :, 0].numel()))
    parts = zip(one.split(rows, 2), other.split(rows, 2))
    return torch.stack([(a.double() * b.double()).sum((1, 2, 3)) for a, b in parts]).sum(0)


@torch.no_grad()
def extremes(
    atoms: torch.Tensor,
    codes: torch.Tensor,
    rest: torch.Tensor,
    lmbda: float,
    nonneg: bool,
    inside: tuple[slice, slice] = (slice(None), slice(None)),
) -> tuple[torch.Tensor, torch.Tensor]:
    """Violation of optimality and largest correlation of dense codes (N, M, H, W), for :func:`quality`: two (N,).

    ``rest`` is s − Dx (N, 3, H, W); only the rows and columns ``inside`` are looked at.
    """
    height, width = codes.shape[-2:]
    adjoint = atom_spectra(atoms, height, width).conj().resolve_conj()
    beta = torch.fft.irfft2(analyze(adjoint, torch.fft.rfft2(rest)), s=(height, width))
    held = atoms.square().sum((2, 3, 4))[:, :, None, None] * codes
    beta, held = (maps[..., inside[0], inside[1]] for maps in (beta, held))
    wanted = (beta + held - lmbda).clamp(min=0)
    if not nonneg:
        wanted = wanted - (-(beta + held) - lmbda).clamp(min=0)
    top = beta.amax((1, 2, 3)).clamp(min=0) if nonneg else beta.abs().amax((1, 2, 3))
    return (wanted - held).abs().amax((1, 2, 3)), top
