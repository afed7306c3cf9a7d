"""How good a sparse code is: the one measure for codes of any method."""

from typing import NamedTuple

import torch

from raypurify.csc.convolution import analyze, atom_spectra
from raypurify.csc.levels import levels, ratios

# Numbers that are multiplied in double precision at once. Smaller pieces would leave the heap in pieces, too: what is
# larger than 32 MiB goes back to the system.
_PIECE = 1 << 23


class Solution(NamedTuple):
    """Codes of a batch by any method, and what :func:`quality` needs to judge them.

    Attributes:
        codes: (N, M, H, W), dense or sparse.
        rest: (N, C, H, W), what the codes leave of the signal, ``r = s − Dx``.
        iterations: (N,) int64.
        converged: (N,) bool, by the method's own rule.
        penalty: (N,) float64, ``Σ_m λ_m ‖x_m‖₁``.
        violation: (N,) the largest change that a coefficient asks for, in units of ``β = DᴴW²r``.
        top: (N,) ``max |β|``, or ``max β`` for non-negative codes. Where atoms differ in λ, β and violation of each
            are multiplied by ``λ̄ / λ_m`` (:mod:`raypurify.csc.levels`).
    """

    codes: torch.Tensor
    rest: torch.Tensor
    iterations: torch.Tensor
    converged: torch.Tensor
    penalty: torch.Tensor
    violation: torch.Tensor
    top: torch.Tensor


def quality(
    solution: Solution, signal: torch.Tensor, lmbda: torch.Tensor, mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    r"""Objective, violation of optimality in units of λ, and duality gap of each image: three tensors (N,).

    A mask W makes it the problem of the atoms Wd and the signal Ws, with the residual Wr. With ``θ = r min(1, λ /
    max|β|)``, a feasible point of the dual ``max_θ ½‖s‖² − ½‖s − θ‖², |Dᴴθ| ≤ λ``, the gap is ``P(x) − D(θ) ≥
    P(x) − P(x*)``: the objective is at most that far above the optimum. For λ = 0 the violation is in units of β, and
    the gap is the objective; so is it where an atom alone has λ = 0, whose violation is in units of λ̄.
    """
    rest, top = solution.rest, solution.top.double()
    if mask is not None:
        rest, signal = mask * rest, mask * signal
    energy, level = _inner(rest, rest) / 2, levels(lmbda)
    objective = energy + solution.penalty
    with torch.no_grad():
        # The reciprocal first, as torch divides a number by a tensor: the bits of one λ for all do not change.
        scale = top.clamp(min=torch.finfo(top.dtype).tiny).reciprocal() * level
        scale = torch.where(top > level, scale, 1.0)
        gap = objective + energy * scale.square() - scale * _inner(rest, signal)
    unit = torch.where(level > 0, level, 1.0).to(solution.violation)
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
    lmbda: torch.Tensor,
    nonneg: bool,
    mask: torch.Tensor | None = None,
    inside: tuple[slice, slice] = (slice(None), slice(None)),
) -> tuple[torch.Tensor, torch.Tensor]:
    """Violation of optimality and largest correlation of dense codes (N, M, H, W), for :func:`quality`: two (N,).

    ``rest`` is s − Dx (N, C, H, W), ``mask`` W alike; only the rows and columns ``inside`` are looked at.
    """
    if mask is None:
        beta, energies = _correlated(atoms, rest), atoms.square().sum((2, 3, 4))[:, :, None, None]
    else:
        beta, energies = _correlated(atoms, mask.square() * rest), _correlated(atoms.square(), mask.square())
    held = energies * codes
    beta, held = (maps[..., inside[0], inside[1]] for maps in (beta, held))
    threshold = lmbda.to(codes)[:, :, None, None]
    wanted = (beta + held - threshold).clamp(min=0)
    if not nonneg:
        wanted = wanted - (-(beta + held) - threshold).clamp(min=0)
    top = beta.amax((2, 3)).clamp(min=0) if nonneg else beta.abs().amax((2, 3))
    violation, ratio = (wanted - held).abs().amax((2, 3)), ratios(lmbda)
    if ratio is not None:
        violation, top = violation * ratio.to(violation), top * ratio.to(top)
        # No multiple of the residual is feasible for an atom without a penalty, unless it is orthogonal to it.
        top = torch.where((lmbda == 0) & (top > 0), torch.inf, top)
    return violation.amax(1), top.amax(1)


def _correlated(atoms: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    height, width = images.shape[-2:]
    adjoint = atom_spectra(atoms, height, width).conj().resolve_conj()
    return torch.fft.irfft2(analyze(adjoint, torch.fft.rfft2(images)), s=(height, width))
