"""The objectives of adversarial and robust semantic training. Weight decay is left to the optimiser."""

from torch import Tensor
from torch.nn import functional as F

from raypurify.attacks.tpgd import divergence


def robust_semantic_loss(logits: Tensor, labels: Tensor, distances: Tensor, alpha: float) -> Tensor:
    """Cross-entropy plus the Mahalanobis pull of RSFP's eq. 7, batch mean.

    L = mean( CE(f(x′), y) + α · MD(R(x′), (μ, Σ)) ), with MD = √((R(x′) − μ)ᵀ Σ⁻¹ (R(x′) − μ)) to the distribution of
    the sample's own cluster. With α = 0 it is PGD adversarial training (Madry et al. 2018, eq. 2.1; RSFP, eq. 3).

    logits (N, classes), labels (N,) integers, distances (N,) ≥ 0. Returns a scalar.

    >>> import torch
    >>> round(robust_semantic_loss(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([2.0]), alpha=0.5).item(), 4)
    1.6931
    """
    return F.cross_entropy(logits, labels) + alpha * distances.mean()


def trades_loss(clean: Tensor, adversarial: Tensor, labels: Tensor, beta: float) -> Tensor:
    """The surrogate loss of TRADES (Zhang et al. 2019, eq. 5; β is their 1/λ), batch mean.

    L = mean( CE(f(x), y) + β · KL(f(x) ‖ f(x′)) ), where x′ maximises the divergence. Its gradient goes through both
    logits, clean f(x) and adversarial f(x′), each (N, classes); labels (N,) integers. Returns a scalar.

    >>> import torch
    >>> round(trades_loss(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([0]), beta=6.0).item(), 4)
    0.6931
    """
    return F.cross_entropy(clean, labels) + beta * divergence(clean, adversarial).mean()
