"""The objective of robust semantic training."""

from torch import Tensor
from torch.nn import functional as F


def robust_semantic_loss(logits: Tensor, labels: Tensor, distances: Tensor, alpha: float) -> Tensor:
    """Cross-entropy plus the Mahalanobis pull of RSFP's eq. 7, batch mean; weight decay is left to the optimiser.

    L = mean( CE(f(x′), y) + α · MD(R(x′), (μ, Σ)) ), with MD = √((R(x′) − μ)ᵀ Σ⁻¹ (R(x′) − μ)) to the distribution of
    the sample's own cluster.

    logits (N, classes), labels (N,) integers, distances (N,) ≥ 0. Returns a scalar.

    >>> import torch
    >>> round(robust_semantic_loss(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([2.0]), alpha=0.5).item(), 4)
    1.6931
    """
    return F.cross_entropy(logits, labels) + alpha * distances.mean()
