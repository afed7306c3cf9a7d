"""ADMM for convolutional basis pursuit denoising, dense and batched."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from raypurify.csc.convolution import analyze, atom_spectra, synthesize
from raypurify.csc.levels import levels

# sporco's ConvBPDN defaults of AutoRho: react to a residual ratio above 1.2, change ρ by at most 1000 at once.
_RATIO, _LARGEST_STEP = 1.2, 1000.0
# ρ stays as it is after so many iterations: sporco's rule can swing between two values for ever.
_SETTLE = 200
# Where "until solved" gives up. Images need 50 to 500 iterations; one that needs more than this is reported unsolved.
_CEILING = 10_000


@dataclass(frozen=True)
class AdmmSettings:
    """Parameters of the iteration, which :func:`raypurify.csc.solve_cbpdn` explains; α is ``relax``, ρ is ``rho``.

    ``lmbda`` is (N, 1) or (N, M) and ``rho`` (N,), in float64; a number is that of all images.
    """

    lmbda: float | torch.Tensor
    rel_tol: float
    max_iter: int | None
    rho: float | torch.Tensor
    relax: float
    auto_rho: bool
    nonneg: bool

    def part(self, some: torch.Tensor | slice) -> "AdmmSettings":
        """The settings of the images that ``some`` counts."""
        lmbda, rho = (each[some] if isinstance(each, torch.Tensor) else each for each in (self.lmbda, self.rho))
        return replace(self, lmbda=lmbda, rho=rho)

    def weights(self, count: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """``(λ (N, 1 or M), ρ (N,))`` of ``count`` images, in float64."""
        lmbda, rho = (torch.as_tensor(each, dtype=torch.float64, device=device) for each in (self.lmbda, self.rho))
        lmbda, rho = lmbda if lmbda.ndim == 2 else lmbda.reshape(-1, 1), rho.reshape(-1)
        return lmbda.expand(count, -1), rho.expand(count)


class Start(NamedTuple):
    """What the iteration starts from.

    Attributes:
        spectra: of the atoms (N, C, M, H, W//2 + 1), or (1, ...) shared.
        adjoint: their conjugates.
        signal_hat: spectra of the signal (N, C, H, W//2 + 1).
        y: (N, M, H, W), the sparse variable.
        u: (N, M, H, W), the scaled dual variable.
        done: (N,) bool, images whose solution ``y`` is.
    """

    spectra: torch.Tensor
    adjoint: torch.Tensor
    signal_hat: torch.Tensor
    y: torch.Tensor
    u: torch.Tensor
    done: torch.Tensor


def begin(
    atoms: torch.Tensor,
    signal: torch.Tensor,
    settings: AdmmSettings,
    initial: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> Start:
    """The start of :func:`solve_admm`, which has the arguments; ``mask`` is that of ``admm_masked``."""
    shape = signal.shape[2:]
    lmbda, rho = settings.weights(len(signal), signal.device)
    spectra = atom_spectra(atoms, *shape)
    adjoint = spectra.conj().resolve_conj()
    signal_hat = torch.fft.rfft2(signal)
    if initial is None:
        y, u = (signal.new_zeros(len(signal), atoms.shape[1], *shape) for _ in range(2))
    else:
        y = initial.to_dense() if initial.is_sparse else initial
        u = (lmbda / rho[:, None]).to(signal)[:, :, None, None] * y.sign()
    # Where ‖Dᴴs‖∞ ≤ λ the zero code is the exact solution. The iteration would never stop there, because the relative
    # primal residual ‖x − 0‖ / max(‖x‖, 0) stays 1 while x shrinks.
    seen_hat = signal_hat if mask is None else torch.fft.rfft2(mask.square() * signal)
    reach = torch.fft.irfft2(analyze(adjoint, seen_hat.detach()), s=shape)
    bound = reach.amax((2, 3)) if settings.nonneg else reach.abs().amax((2, 3))
    zero = (bound <= lmbda.to(signal)).all(1) | (bound == 0).all(1)
    y, u = (part.masked_fill(zero[:, None, None, None], 0) for part in (y, u))
    return Start(spectra, adjoint, signal_hat, y, u, zero)


def limit_of(settings: AdmmSettings) -> int:
    """The iteration that is the last one, finished or not."""
    return _CEILING if settings.max_iter is None else settings.max_iter


def solve_admm(
    atoms: torch.Tensor, signal: torch.Tensor, settings: AdmmSettings, initial: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    r"""Codes of a batch by relaxed, scaled ADMM on ``argmin_{x, y} ½‖Dx − s‖² + Σ_m λ_m‖y_m‖₁`` subject to ``x = y``.

    The iteration is (Boyd et al., Distributed Optimization and Statistical Learning via ADMM, 2011; Wohlberg, Efficient
    Algorithms for Convolutional Sparse Representations, 2016)::

        x ← (DᴴD + ρI)⁻¹(Dᴴs + ρ(y − u)),   x̂ = αx + (1 − α)y,   y ← shrink(x̂ + u, λ/ρ),   u ← u + x̂ − y

    With ``z = y − u`` the x-step is computed as ``z + Dᴴ(DDᴴ + ρI)⁻¹(s − Dz)``: per frequency a system of the C
    channels instead of the M atoms. Because ``y = shrink(v)`` and ``u = v − y`` for ``v = x̂ + u``, one array v carries
    the state. Each image stops by sporco's relative primal and dual residuals on its own and leaves the batch.

    Autograd differentiates the codes with respect to ``signal`` through all iterations. The penalties that ``auto_rho``
    chooses count as constants: they steer the way to the solution and not where it lies, so the gradient has the same
    limit, and the ratio of two residuals has no derivative where one of them is zero.

    Args:
        atoms: (N, M, C, h, w), one dictionary per image, or (1, M, C, h, w) shared.
        signal: (N, C, H, W), float32 or float64.
        settings: λ ≥ 0, α, ρ > 0 and when to stop.
        initial: codes y (N, M, H, W) to start from, dense or sparse; u is then the dual that would make them optimal,
            ``λ/ρ sign(y)``, as in sporco.

    Returns:
        ``(codes (N, M, H, W), iterations (N,) int64, converged (N,) bool)``, the codes being the sparse variable y.
    """
    count, shape = len(signal), signal.shape[2:]
    spectra, adjoint, signal_hat, y, u, done = begin(atoms, signal, settings, initial)
    # Zeros that depend on the signal: a code that stays zero has the gradient zero, where a constant would have none.
    codes = (0 * signal[:, :1]).repeat(1, atoms.shape[1], 1, 1)
    iterations = torch.zeros(count, dtype=torch.int64, device=signal.device)
    converged = torch.zeros(count, dtype=torch.bool, device=signal.device)
    active = torch.arange(count, device=signal.device)
    limit = limit_of(settings)
    lmbda, rho = settings.weights(count, signal.device)
    targets = _targets(lmbda) if settings.auto_rho else torch.ones_like(rho)
    lmbda, rho, normal, step = lmbda.to(signal), rho.to(signal), _normal(spectra), 0
    solver = _inverse(normal, rho)
    while True:
        if done.any():
            finished = active[done]
            codes[finished], iterations[finished], converged[finished] = y[done], step, True
            keep = torch.nonzero(~done).flatten()
            active, signal_hat, y, u, lmbda, rho, targets, solver = (
                t[keep] for t in (active, signal_hat, y, u, lmbda, rho, targets, solver)
            )
            spectra, adjoint, normal = (t if t.shape[0] == 1 else t[keep] for t in (spectra, adjoint, normal))
        if not len(active) or step == limit:
            break
        step += 1
        z = y - u
        residual_hat = signal_hat - synthesize(spectra, torch.fft.rfft2(z))
        dual_hat = (solver * residual_hat[:, None]).sum(2)
        w = torch.fft.irfft2(analyze(adjoint, dual_hat), s=shape)
        # v = x̂ + u with x = z + w and x̂ = αx + (1 − α)y
        v = y + (1 - settings.relax) * u + settings.relax * w
        # The reciprocal first, as torch divides a number by a tensor: the bits of one λ for all do not change.
        y_before, y = y, shrink(v, rho.reciprocal()[:, None] * lmbda, settings.nonneg)
        u = v - y
        with torch.no_grad():
            primal, dual = _residuals(z + w, y, y_before, u)
        done = (primal < settings.rel_tol) & (dual < settings.rel_tol)
        if settings.auto_rho and 1 < step <= _SETTLE:
            factor = _rho_factor(primal, dual, targets)
            rho, u = rho * factor, u / factor[:, None, None, None]
            solver = _inverse(normal, rho)
    codes[active], iterations[active] = y, step
    return codes, iterations, converged


def inverses(spectra: torch.Tensor, rho: float | torch.Tensor) -> torch.Tensor:
    """``(DDᴴ + ρI)⁻¹`` (n, C, C, H, Wf) of the spectra (n, C, M, H, Wf) of n dictionaries and ρ, one or (n,).

    Where all images share dictionary and ρ, n is 1.
    """
    rho = torch.as_tensor(rho, device=spectra.device).reshape(-1).to(spectra.real.dtype)
    if bool((rho == rho[0]).all()):
        rho = rho[:1].expand(len(spectra))
    return _inverse(_normal(spectra), rho)


def _normal(spectra: torch.Tensor) -> torch.Tensor:
    return torch.stack([synthesize(spectra, spectra[:, c].conj()) for c in range(spectra.shape[1])], dim=2)


def _inverse(normal: torch.Tensor, rho: torch.Tensor) -> torch.Tensor:
    """``(DDᴴ + ρI)⁻¹`` (n, C, C, H, Wf) of ``DDᴴ`` (n or 1, C, C, H, Wf) and ρ (n,), by the factorisation LΔLᴴ.

    Written out, in double precision: on a GPU, libraries for batches of small matrices are slow, or fail on so many.
    Every pivot is at least ρ, rounding apart.
    """
    a, rho = normal.to(torch.complex128), rho.double()[:, None, None]
    channels = range(a.shape[1])
    lower: dict[tuple[int, int], torch.Tensor] = {}
    pivots: list[torch.Tensor] = []
    for j in channels:
        pivot = a[:, j, j].real + rho
        if j:
            known = sum(pivots[k] * lower[j, k].abs().square() for k in range(j))
            pivot = torch.maximum(pivot - known, rho)
        pivots.append(pivot)
        for i in channels[j + 1 :]:
            left = a[:, i, j]
            for k in range(j):
                left = left - pivots[k] * lower[i, k] * lower[j, k].conj()
            lower[i, j] = left / pivot
    one = torch.ones_like(a[:, 0, 0]).expand(len(rho), -1, -1)
    zero = torch.zeros_like(one)
    rows: list[list[torch.Tensor]] = []  # of L⁻¹
    for i in channels:
        before = [-sum((rows[k][j] * lower[i, k] for k in range(j + 1, i)), lower[i, j]) for j in range(i)]
        rows.append([*before, one, *[zero] * (len(channels) - i - 1)])
    factor = torch.stack([torch.stack(row, 1) for row in rows], 1)
    scaled = factor / torch.stack(pivots, 1)[:, :, None]
    inverse = torch.stack([(factor[:, :, i, None].conj() * scaled).sum(1) for i in channels], 1)
    return inverse.to(normal.dtype)


def shrink(v: torch.Tensor, threshold: torch.Tensor, nonneg: bool) -> torch.Tensor:
    """Soft thresholding of v (n, M, H, W) by ``threshold`` (n, 1) or (n, M); all below 0 goes if ``nonneg``."""
    threshold = threshold[:, :, None, None]
    removed = torch.minimum(v.detach(), threshold)
    if not nonneg:
        removed = torch.maximum(removed, -threshold)
    shrunk = v - removed
    # Masked, the zeros pass no gradient on, and autograd keeps one byte per coefficient where clamping v keeps v twice.
    return shrunk.masked_fill(shrunk.detach() == 0, 0) if v.requires_grad else shrunk


def _norm(x: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(x, dim=(1, 2, 3))


def _residuals(
    x: torch.Tensor, y: torch.Tensor, y_before: torch.Tensor, u: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return relative_residuals(_norm(x - y), _norm(x), _norm(y), _norm(y - y_before), _norm(u))


def relative_residuals(
    gap: torch.Tensor, x: torch.Tensor, y: torch.Tensor, change: torch.Tensor, u: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Boyd's residuals ``(primal, dual)`` relative to the variables' norms, a zero norm counting as one, as in sporco.

    All (N,): the arguments are the norms of x − y, x, y, the last change of y, and u.
    """
    primal_scale, dual_scale = torch.maximum(x, y), u
    primal = gap / torch.where(primal_scale == 0, 1.0, primal_scale)
    dual = change / torch.where(dual_scale == 0, 1.0, dual_scale)
    return primal, dual


def _targets(lmbda: torch.Tensor) -> torch.Tensor:
    """The ratio of the residuals that ρ is steered to, of each image (N,), by Wohlberg 2015."""
    # The rule was fitted to images in [0, 1]. Much larger ones, with λ > 1, would get penalties that overflow.
    found = [1 + 18.3 ** (math.log10(min(each, 1.0)) + 1) if each > 0 else 1.0 for each in levels(lmbda).tolist()]
    return torch.tensor(found, dtype=torch.float64, device=lmbda.device)


def _rho_factor(primal: torch.Tensor, dual: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Residual balancing with the target ratio of Wohlberg 2015 (sporco's AutoRho with AutoScaling)."""
    goal = target.to(dual) * dual
    size = torch.sqrt(torch.where(primal > goal, primal / goal, goal / primal)).clamp(max=_LARGEST_STEP)
    size = torch.where((primal == 0) | (dual == 0), _LARGEST_STEP, size)
    grow, fall = primal > (target * _RATIO).to(dual) * dual, dual > (_RATIO / target).to(dual) * primal
    return torch.where(grow, size, torch.where(fall, 1 / size, torch.ones_like(size)))
