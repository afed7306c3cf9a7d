"""How good a sparse code is: the one measure for codes of any method."""

from typing import NamedTuple

import torch

from raypurify.csc.convolution import analyze, atom_spectra


class Quality(NamedTuple):
    """Per image: the objective, the violation of optimality in units of λ, and the duality gap."""

    objective: torch.Tensor
    residual: torch.Tensor
    gap: torch.Tensor


def quality(signal, rest, size, violation, top, lmbda: float) -> Quality:
    r"""From the residual image ``r = s − Dx`` and the extremes of its correlation ``β = Dᴴr``.

    With ``θ = r min(1, λ / max|β|)``, a feasible point of the dual ``max_θ ½‖s‖² − ½‖s − θ‖², ‖Dᴴθ‖∞ ≤ λ``, the gap is
    ``P(x) − D(θ) ≥ P(x) − P(x*)``: the objective is at most that far above the optimum. For λ = 0 the residual is in
    units of ``max|Dᴴs|`` at x = 0 instead, and the gap is ``½‖r‖²``.

    Args:
        signal, rest: (N, 3, H, W), s and r.
        size: (N,) ``‖x‖₁``.
        violation: (N,) largest change that a coefficient asks for, in units of β.
        top: (N,) ``max |β|``, or ``max β`` for non-negative codes.
    """
    # In double precision: the gap is a small difference of large sums.
    r, s = rest.double(), signal.double()
    energy = r.square().sum((1, 2, 3)) / 2
    objective = energy + lmbda * size.double()
    scale = torch.where(top > lmbda, lmbda / top.clamp(min=torch.finfo(top.dtype).tiny), 1.0).double()
    with torch.no_grad():
        gap = objective + energy * scale.square() - scale * (r * s).sum((1, 2, 3))
    unit = lmbda if lmbda > 0 else 1.0
    return Quality(objective.to(signal), (violation / unit).to(signal), gap.clamp(min=0).to(signal))


@torch.no_grad()
def extremes(atoms, codes, rest, lmbda: float, nonneg: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """``(violation, top)`` of dense codes (N, M, H, W), as :func:`quality` wants them."""
    height, width = codes.shape[-2:]
    adjoint = atom_spectra(atoms, height, width).conj().resolve_conj()
    beta = torch.fft.irfft2(analyze(adjoint, torch.fft.rfft2(rest)), s=(height, width))
    held = atoms.square().sum((2, 3, 4))[:, :, None, None] * codes
    wanted = (beta + held - lmbda).clamp(min=0)
    if not nonneg:
        wanted = wanted - (-(beta + held) - lmbda).clamp(min=0)
    top = beta.amax((1, 2, 3)).clamp(min=0) if nonneg else beta.abs().amax((1, 2, 3))
    return (wanted - held).abs().amax((1, 2, 3)), top
