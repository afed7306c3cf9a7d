"""The Mahalanobis pull of RSFP, equation 7: to the distribution of the image's own cluster."""

from torch import Tensor

from raypurify.clusters import ClusterDistributions
from raypurify.training.semantic.contract import SemanticLoss


class Mahalanobis(SemanticLoss):
    """The distance of each image's latents to its own cluster, MD = √((R − μ)ᵀ Σ⁻¹ (R − μ)).

    The clusters are those of a fit, made of the baseline's latents, and do not move (RSFP, eq. 7 and Algorithm 1 ii).

    >>> import torch
    >>> latents = torch.tensor([[0.0, 0], [2, 0], [0, 2], [2, 2]])
    >>> clusters = ClusterDistributions.fit(latents, torch.tensor([0, 0, 0, 0]), form="shrinkage")
    >>> Mahalanobis(clusters)(torch.tensor([[1.0, 3.0]]), torch.tensor([0]), torch.tensor([0]))
    tensor([2.])
    """

    figure = "distance"

    def __init__(self, distributions: ClusterDistributions):
        super().__init__()
        self.distributions = distributions

    def forward(self, features: Tensor, labels: Tensor, clusters: Tensor | None = None) -> Tensor:
        assert clusters is not None  # a batch names them where there are distributions
        return self.distributions.own_distance(features, clusters.to(features.device))
