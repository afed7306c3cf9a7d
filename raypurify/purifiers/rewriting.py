"""The rewriting of images whose dictionaries are known: what RSFP with clusters and without share."""

from typing import Any

import torch
from torch import Tensor

from raypurify.config import LMBDA_RANGE, CscSettings
from raypurify.csc import (
    SparseCode,
    noise_level,
    refine_dictionaries,
    smooth_noise_level,
    solve_cbpdn,
    tikhonov_split,
)

# A code that is nearly zero says little of how large it should have been.
MAX_GAIN = 4.0


def rewrite(
    images: Tensor,
    dictionary: Tensor,
    csc: CscSettings,
    *,
    index: Tensor | None = None,
    rel_tol: float | None = None,
    hold_lmbda: bool = False,
    **options: Any,
) -> tuple[Tensor, SparseCode]:
    """Rewritten images x_low + g · t · Σ_m d_m ∗ r_m, clipped to [0, 1], and the code r of x_high / t, its
    ``reconstruction`` being t · Σ_m d_m ∗ r_m.

    The high part of an image x is coded under λ = t · ``csc.lmbda``, which scaling by t turns into the problem of
    eq. 6 of RSFP with ``csc.lmbda`` itself. With ``csc.noise_factor`` c > 0, λ = c · σ̂(x) (``csc.noise_level``) within
    ½ to 3 times ``csc.lmbda``; with 0, as in the paper, t = 1. With ``csc.refit`` the reconstruction is scaled by
    g = ⟨x_high, Dr⟩ / ‖Dr‖², the factor that fits x_high best, at most 4: an ℓ1 code is too small by what λ took from
    every coefficient (at the optimum g = 1 + λ‖r‖₁ / ‖Dr‖²); otherwise g = 1.

    With ``csc.refine`` each image's dictionary is first refined to it (``csc.refine_dictionaries``); gradients take the
    refined atoms for constants, though they depend on the image.

    ``dictionary``, ``index`` and ``options`` are those of ``solve_cbpdn``; differentiable where they make it so, t
    too unless ``hold_lmbda`` (:func:`scale_of_lmbda`).

    >>> atoms = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    >>> atoms /= atoms.flatten(1).norm(dim=1)[:, None, None, None]
    >>> rewrite(torch.rand(2, 3, 8, 9), atoms, CscSettings(noise_factor=10, refit=True))[0].shape
    torch.Size([2, 3, 8, 9])
    """
    # The high part is images - low. Of a large image it is not kept while that is coded, which needs all the memory.
    low = tikhonov_split(images, lmbda=csc.tikhonov, pad=csc.pad)[0]
    scale = scale_of_lmbda(images.detach() if hold_lmbda else images, csc)[:, None, None, None]
    tolerance = csc.rel_tol if rel_tol is None else rel_tol
    if csc.refine and len(images):
        high = ((images - low) / scale).detach()
        dictionary = refine_dictionaries(dictionary, high, csc.lmbda, csc.refine, tolerance, index)
        index = torch.arange(len(images), device=images.device)
    code = solve_cbpdn(dictionary, (images - low) / scale, lmbda=csc.lmbda, rel_tol=tolerance, index=index, **options)
    code = code._replace(reconstruction=scale * code.reconstruction)
    coded = code.reconstruction
    if csc.refit:
        coded = gain(coded, images - low)[:, None, None, None] * coded
    return (low + coded).clamp_(0, 1), code


def scale_of_lmbda(images: Tensor, csc: CscSettings) -> Tensor:
    """The scale t of each image (N,): its λ in units of ``csc.lmbda``.

    Its gradient, for images that require one, is that of ``csc.smooth_noise_level``: the exact one of a median is that
    of the one square in the middle, large, and another square's a little further on. It would lead attackers astray,
    and so a figure of robustness.

    >>> scale_of_lmbda(torch.zeros(1, 3, 8, 8), CscSettings(noise_factor=10))
    tensor([0.5000])
    """
    if not (csc.noise_factor and csc.lmbda):
        return images.new_ones(len(images))
    noise = noise_level(images.detach())
    if images.requires_grad and torch.is_grad_enabled():
        smooth = smooth_noise_level(images)
        noise = noise + (smooth - smooth.detach())
    return (csc.noise_factor * noise / csc.lmbda).clamp(*LMBDA_RANGE)


def gain(coded: Tensor, high: Tensor) -> Tensor:
    """The refit factor argmin_g ‖g · coded − high‖₂ of each image (N,), within 1 to 4; 1 where ``coded`` is zero.

    >>> gain(torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.tensor([[2.0, 1.0], [1.0, 1.0]]))
    tensor([1.5000, 1.0000])
    """
    energy = coded.square().flatten(1).sum(1)
    product = (coded * high).flatten(1).sum(1)
    return torch.where(energy > 0, product / energy.clamp(min=torch.finfo(energy.dtype).tiny), 1).clamp(1, MAX_GAIN)
