"""Online dictionary learning on mini-batches: one projected gradient step with momentum each, the iterates averaged."""

from collections.abc import Callable

import numpy as np
import torch

from raypurify.csc.cbpdn import solve_cbpdn

# Images of one step, fewer where they hold more than so many pixels: a large image is a batch of patches by itself.
_BATCH_IMAGES, _BATCH_PIXELS = 4, 4 * 32 * 32
# How exactly each image is coded. Twice finer costs a quarter more time for the same held-out objective.
_REL_TOL = 2e-2
# With 0.2 and 0.9, as long a way in all, 1,000 images end 0.3 % lower, but 128 images with 4 or 12 atoms 0.4 % higher.
STEP, _MOMENTUM = 0.4, 0.8
# The j-th dictionary weighs about j³ in the average, so that the first ones are soon forgotten.
_AVERAGING_POWER = 3
# Where a whole batch is coded by zeros its gradient is 0, and so shall its step be.
TINY = 1e-30


def learn_online(
    signals: torch.Tensor,
    start: torch.Tensor,
    lmbda: float,
    passes: int,
    rng: np.random.Generator,
    progress: Callable[[int, int], None] | None,
) -> torch.Tensor:
    r"""Learn a dictionary from ``signals`` (N, C, H, W), on their device, beginning at the unit-norm ``start``.

    At mini-batch j with codes ``x`` and residual ``r = Σ_m d_m * x_m − s``::

        c_j = μ c_{j−1} + (1 − μ) ‖x‖² / M,   v_j = μ v_{j−1} − η ∇_d ½‖r‖² / c_j,   d ← normalise(d + v_j)

    the projected gradient step of Liu et al. (2018, RSFP's reference [44]) with momentum. ``‖x‖² / M`` is the mean
    diagonal of the Hessian in ``d``, so η depends neither on λ nor on the number of pixels or their scale. The result
    is the average of all ``d`` with polynomial weights (Shamir and Zhang 2013): with it the steps may stay long, where
    sporco's must shrink to be rid of the noise of single images.

    ``start`` and the result are (M, C, h, w) of unit norm; ``progress`` is that of ``learn_dictionary``.
    """
    atoms = average = start.to(signals.device)
    velocity, curvature = torch.zeros_like(atoms), None
    size = max(1, min(_BATCH_IMAGES, _BATCH_PIXELS // (signals.shape[2] * signals.shape[3])))
    total, done, step = passes * len(signals), 0, 0
    for _ in range(passes):
        for batch in torch.from_numpy(rng.permutation(len(signals))).split(size):
            signal = signals[batch.to(signals.device)]
            coded = solve_cbpdn(atoms, signal, lmbda, rel_tol=_REL_TOL)
            gradient = gradient_of_atoms(coded.codes, coded.reconstruction - signal, atoms.shape[2:])
            energy = (coded.codes.square().sum() / len(atoms)).clamp(min=TINY)
            curvature = energy if curvature is None else energy.lerp(curvature, _MOMENTUM)
            velocity = _MOMENTUM * velocity - STEP * gradient / curvature
            atoms = normalised(atoms + velocity)
            step += 1
            average = normalised(average.lerp(atoms, (_AVERAGING_POWER + 1) / (_AVERAGING_POWER + step)))
            for _ in batch:
                done += 1
                if progress is not None:
                    progress(done, total)
    return average


def gradient_of_atoms(
    codes: torch.Tensor, residual: torch.Tensor, size: torch.Size, each: bool = False
) -> torch.Tensor:
    """Gradient (M, C, h, w) of ``½‖Σ_m d_m * x_m − s‖²`` by the atoms, summed over the batch; with ``each`` that of
    every image by itself (N, M, C, h, w). It is the correlation of residual (N, C, H, W) and maps (N, M, H, W)."""
    codes_conj, residual_hat = torch.fft.rfft2(codes).conj(), torch.fft.rfft2(residual)
    # One channel at a time: the products of all at once would be as many times the memory of the codes.
    products = (codes_conj * residual_hat[:, c, None] for c in range(residual.shape[1]))
    spectra = torch.stack([product if each else product.sum(0) for product in products], dim=-3)
    return torch.fft.irfft2(spectra, s=residual.shape[2:])[..., : size[0], : size[1]]


def normalised(atoms: torch.Tensor) -> torch.Tensor:
    """Atoms (…, C, h, w) scaled to L2 norm 1 over channels and pixels."""
    return atoms / torch.linalg.vector_norm(atoms, dim=(-3, -2, -1), keepdim=True)
