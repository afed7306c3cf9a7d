"""ADMM for convolutional basis pursuit denoising of images whose pixels do not all count alike."""

import torch

from raypurify.csc.admm import AdmmSettings, begin, inverses, limit_of, relative_residuals, shrink
from raypurify.csc.convolution import analyze, reconstruct, synthesize


def solve_masked(
    atoms: torch.Tensor,
    signal: torch.Tensor,
    mask: torch.Tensor,
    settings: AdmmSettings,
    initial: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    r"""Codes of a batch, ``argmin_x ½‖W(Dx − s)‖² + Σ_m λ_m‖x_m‖₁``, by ADMM with mask decoupling.

    The misfit gets a variable of its own beside that of the codes, ``Dx − s = a`` and ``x = y`` (Heide, Heidrich &
    Wetzstein, Fast and Flexible Convolutional Sparse Coding, 2015; Wohlberg, Boundary Handling for Convolutional Sparse
    Representations, 2016), so that the mask meets no Fourier transform. With the scaled dual variables b and u::

        x ← (DᴴD + I)⁻¹(Dᴴ(s + a − b) + y − u),   Dx̂ = αDx + (1 − α)(a + s),   x̂ = αx + (1 − α)y,
        a ← ρ(Dx̂ − s + b) / (W² + ρ),   b ← b + Dx̂ − s − a,   y ← shrink(x̂ + u, λ/ρ),   u ← u + x̂ − y

    The iterates are those of ``sporco.admm.cbpdn.ConvBPDNMaskDcpl`` with AutoRho off. Each image stops on its own, by
    the relative residuals of :mod:`raypurify.csc.admm` over both constraints at once.

    Args:
        atoms: (N, M, C, h, w), one dictionary per image, or (1, M, C, h, w) shared.
        signal: (N, C, H, W), float32 or float64; what it holds where the mask is 0 counts for nothing.
        mask: W (N, C, H, W) in the dtype of ``signal``.
        settings: λ ≥ 0, α, ρ > 0 and when to stop; ρ stays what it is.
        initial: codes y (N, M, H, W) to start from, dense or sparse.

    Returns:
        ``(codes (N, M, H, W), iterations (N,) int64, converged (N,) bool)``, the codes being the sparse variable y.
    """
    count, shape = len(signal), signal.shape[2:]
    signal = torch.where(mask > 0, signal, 0)
    spectra, adjoint, _, y, u, done = begin(atoms, signal, settings, initial, mask)
    lmbda, rho = (each.to(signal) for each in settings.weights(count, signal.device))
    square = mask.square()
    # Of the constraint on the misfit; zeros at first, as in sporco, unless there are codes to start from.
    a = torch.zeros_like(signal) if initial is None else reconstruct(atoms, y) - signal
    b = square * a / rho[:, None, None, None]
    codes = (0 * signal[:, :1]).repeat(1, atoms.shape[1], 1, 1)
    iterations = torch.zeros(count, dtype=torch.int64, device=signal.device)
    converged = torch.zeros(count, dtype=torch.bool, device=signal.device)
    active = torch.arange(count, device=signal.device)
    limit, solver, step = limit_of(settings), inverses(spectra, 1.0), 0
    while True:
        if done.any():
            finished = active[done]
            codes[finished], iterations[finished], converged[finished] = y[done], step, True
            keep = torch.nonzero(~done).flatten()
            active, signal, square, y, u, a, b, lmbda, rho = (
                each[keep] for each in (active, signal, square, y, u, a, b, lmbda, rho)
            )
            spectra, adjoint, solver = (t if t.shape[0] == 1 else t[keep] for t in (spectra, adjoint, solver))
        if not len(active) or step == limit:
            break
        step += 1
        penalty = rho[:, None, None, None]
        z, target = y - u, signal + a - b
        rest_hat = torch.fft.rfft2(target) - synthesize(spectra, torch.fft.rfft2(z))
        dual_hat = (solver * rest_hat[:, None]).sum(2)
        w = torch.fft.irfft2(analyze(adjoint, dual_hat), s=shape)
        # Dx = target − (DDᴴ + I)⁻¹(target − Dz), without another pass over the maps.
        image = target - torch.fft.irfft2(dual_hat, s=shape)
        misfit = settings.relax * (image - signal) + (1 - settings.relax) * a + b
        a_before, a = a, penalty * misfit / (square + penalty)
        b = misfit - a
        v = y + (1 - settings.relax) * u + settings.relax * w
        y_before, y = y, shrink(v, rho.reciprocal()[:, None] * lmbda, settings.nonneg)
        u = v - y
        with torch.no_grad():
            x = z + w
            primal, dual = relative_residuals(
                _norm(image - signal - a, x - y),
                torch.maximum(_norm(image, x), torch.linalg.vector_norm(signal, dim=(1, 2, 3))),
                _norm(a, y),
                _norm(a - a_before, y - y_before),
                _norm(b, u),
            )
        done = (primal < settings.rel_tol) & (dual < settings.rel_tol)
    codes[active], iterations[active] = y, step
    return codes, iterations, converged


def _norm(image: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Of both blocks of a constraint together: (n,)."""
    return torch.hypot(*(torch.linalg.vector_norm(each, dim=(1, 2, 3)) for each in (image, maps)))
