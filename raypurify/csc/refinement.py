"""Dictionaries refined for the image at hand: codes and atoms of one image, optimised in turns."""

import torch

from raypurify.csc.cbpdn import solve_cbpdn
from raypurify.csc.online import STEP, TINY, gradient_of_atoms, normalised

# Pixels of the images whose dense codes are held at a time.
_PIXELS = 1 << 16


@torch.no_grad()
def refine_dictionaries(
    dictionary: torch.Tensor,
    signal: torch.Tensor,
    lmbda: float,
    alternations: int,
    rel_tol: float = 5e-3,
    index: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""Refine the dictionary of every image to that image: a bank (N, M, C, h, w) of unit-norm atoms.

    STL's figure 2 ("jointly optimize the sparse feature maps and filters in this dictionary"), on its problem 2 without
    the sum over training images: from the learned atoms ``d`` on, ``alternations`` times codes
    ``x = argmin_x ½‖Σ_m d_m * x_m − s‖² + λ Σ_m ‖x_m‖₁`` and then one projected gradient step of the atoms::

        d ← normalise(d − η ∇_d ½‖Σ_m d_m * x_m − s‖² / c),   c = ‖x‖² / M

    which is the step of :func:`~raypurify.csc.online.learn_online`, η = 0.4, without momentum. An atom that codes
    nothing stays as it was. Not differentiable.

    Args:
        dictionary: unit-norm atoms (M, C, h, w), or a bank (K, M, C, h, w) with ``index`` (N,).
        signal: images (N, C, H, W), normally their high part.
        lmbda: weight λ of the L1 norm.
        alternations: how often codes and atoms are optimised; 0 gives the dictionaries as they came.
        rel_tol: of the codes, as in :func:`solve_cbpdn`.
        index: the dictionary of the bank that each image begins with.

    >>> atoms = torch.full((1, 3, 2, 2), 12**-0.5)
    >>> refine_dictionaries(atoms, torch.rand(5, 3, 4, 4), lmbda=0.1, alternations=1).shape
    torch.Size([5, 1, 3, 2, 2])
    """
    bank = dictionary.expand(len(signal), *dictionary.shape) if dictionary.ndim == 4 else dictionary[index]
    if not len(signal) or not alternations:
        return bank
    parts = max(1, _PIXELS // (signal.shape[2] * signal.shape[3]))
    refined = [_refined(*pair, lmbda, alternations, rel_tol) for pair in zip(bank.split(parts), signal.split(parts))]
    return torch.cat(refined)


def _refined(bank: torch.Tensor, signal: torch.Tensor, lmbda: float, count: int, rel_tol: float) -> torch.Tensor:
    own = torch.arange(len(signal), device=signal.device)
    for _ in range(count):
        coded = solve_cbpdn(bank, signal, lmbda, rel_tol=rel_tol, index=own)
        gradient = gradient_of_atoms(coded.codes, coded.reconstruction - signal, bank.shape[-2:], each=True)
        curvature = (coded.codes.square().sum((1, 2, 3)) / bank.shape[1]).clamp(min=TINY)
        bank = normalised(bank - STEP * gradient / curvature[:, None, None, None, None])
    return bank
