"""ADMM's iteration on a GPU: the arithmetic of :func:`raypurify.csc.admm.solve_admm` in two kernels and two FFTs."""

from typing import Any

import torch

from raypurify.csc._gpu_use import fetch, launching, usable
from raypurify.csc.admm import AdmmSettings, begin, inverses, limit_of, relative_residuals, shrink, solve_admm
from raypurify.csc.convolution import atom_spectra

# What the kernels are written for.
_CHANNELS = 3


def applies(settings: AdmmSettings, signal: torch.Tensor, *others: torch.Tensor | None) -> bool:
    """Whether :func:`solve_fused` can code ``signal``, ``others`` being the atoms and the initial codes, if any."""
    if not signal.is_cuda or signal.dtype != torch.float32 or settings.auto_rho or signal.shape[1] > _CHANNELS:
        return False
    # One threshold for an image, not for each of its atoms.
    if isinstance(settings.lmbda, torch.Tensor) and settings.lmbda.shape[1] > 1:
        return False
    # The state v cannot hold an initial code that breaks the constraint, as the first iteration may be given.
    if settings.nonneg and others[-1] is not None:
        return False
    recorded = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (signal, *others))
    return not recorded and usable(signal.device, "ADMM", _both_agree)


def solve_fused(
    atoms: torch.Tensor, signal: torch.Tensor, settings: AdmmSettings, initial: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes of a batch as ``admm.solve_admm`` returns them, where :func:`applies` says so; no gradient."""
    # Channels of zeros change nothing, and cost little: most of the time goes into maps, which channels share.
    missing = _CHANNELS - signal.shape[1]
    if missing:
        atoms, signal = (torch.nn.functional.pad(each, (0, 0, 0, 0, 0, missing)) for each in (atoms, signal))
    spectra, _, signal_hat, y, u, done = begin(atoms, signal, settings, initial)
    return iterate(spectra, inverses(spectra, settings.rho), signal_hat, y + u, done, settings, limit_of(settings))


@torch.no_grad()
def iterate(
    spectra: torch.Tensor,
    solver: torch.Tensor,
    signal_hat: torch.Tensor,
    v: torch.Tensor,
    done: torch.Tensor,
    settings: AdmmSettings,
    limit: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes of a batch, as ``solve_admm`` returns them.

    Args:
        spectra: of the atoms (N, 3, M, H, Wf), or (1, ...) shared.
        solver: ``(DDᴴ + ρI)⁻¹`` (N, 3, 3, H, Wf), or (1, ...) shared.
        signal_hat: (N, 3, H, Wf).
        v: the state ``y + u`` to start from, (N, M, H, W).
        done: (N,) bool, images whose codes are the initial ones.
        limit: number of iterations at most.
    """
    count, _, height, width = v.shape
    device = v.device
    spectra, signal_hat, v = spectra.contiguous(), signal_hat.contiguous(), v.contiguous()
    # The FFTs leave out their 1/(HW).
    solver = (solver / (height * width)).contiguous()
    lmbda, rho = settings.weights(count, device)
    threshold = (lmbda[:, 0] / rho).to(v)
    codes = torch.empty_like(v)
    iterations, converged = torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.bool)

    with launching(device):
        from raypurify.csc._gpu_kernels import correct_spectra, update_state

        def correction(z: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            maps_hat = correct_spectra(torch.fft.rfft2(z), spectra, solver, signal_hat, rows)
            return torch.fft.irfft2(maps_hat, s=(height, width), norm="forward").contiguous()

        # Images still iterating; the same numbers on the GPU.
        active = torch.arange(count)
        rows = active.to(device)
        done, step, w = done.cpu(), 0, None
        while True:
            if done.any():
                finished, left = (torch.nonzero(some).flatten().to(device) for some in (done, ~done))
                codes[rows[finished]] = shrink(v[finished], threshold[finished, None], settings.nonneg)
                iterations[active[done]], converged[active[done]] = step, True
                active = active[~done]
                rows, v, threshold = rows[left], v[left], threshold[left]
                w = None if w is None else w[left]
            if not len(active) or step == limit:
                break
            step += 1
            if w is None:
                w = correction(2 * shrink(v, threshold[:, None], settings.nonneg) - v, rows)
            z, norms = update_state(v, w, threshold, settings.relax, settings.nonneg)
            read = fetch(norms)
            # Half of the next iteration is under way before the host asks whether there is one: it leaves v as it is.
            w = correction(z, rows) if step < limit else None
            primal, dual = relative_residuals(*read().unbind(1))
            done = (primal < settings.rel_tol) & (dual < settings.rel_tol)
        codes[rows], iterations[active] = shrink(v, threshold[:, None], settings.nonneg), step
    return codes, iterations.to(device), converged.to(device)


def _both_agree(device: torch.device) -> bool:
    return agrees(device, shared=True) and agrees(device, shared=False)


def agrees(device: torch.device, shared: bool) -> bool:
    """Whether :func:`iterate` finds the codes of the plain iteration on the CPU, for one small problem."""
    # Whatever dtype and device the process has for its own.
    draw = torch.Generator("cpu").manual_seed(0)
    kind: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
    atoms = torch.randn(1 if shared else 6, 5, 3, 4, 4, generator=draw, **kind) / 7
    signal = torch.randn(6, 3, 11, 12, generator=draw, **kind)
    settings = AdmmSettings(lmbda=0.2, rel_tol=0.0, max_iter=6, rho=11.0, relax=1.8, auto_rho=False, nonneg=False)
    expected, *_ = solve_admm(atoms, signal, settings)
    atoms, signal = atoms.to(device), signal.to(device)
    spectra = atom_spectra(atoms, *signal.shape[2:])
    state = signal.new_zeros(expected.shape)
    done = torch.zeros(len(signal), dtype=torch.bool, device=device)
    found, *_ = iterate(spectra, inverses(spectra, settings.rho), torch.fft.rfft2(signal), state, done, settings, 6)
    return torch.allclose(found.cpu(), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
