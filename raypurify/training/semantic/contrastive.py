"""The contrastive loss of Hadsell et al., equation 14 of Mustafa et al.: on pairs of images."""

import torch
from torch import Tensor

from raypurify.training.semantic.contract import SemanticLoss
from raypurify.training.semantic.partners import partners, squared_distance


class Contrastive(SemanticLoss):
    """The contrastive loss of each image with its two ``partners``, the mean of both.

    ½‖f₀ − f₁‖² for the one of its own class, ½ max(0, m − ‖f₀ − f₁‖)² for the one of another (Mustafa et al., eq. 14):
    as many pairs of either sort. A partner that the batch lacks counts nothing. Where two features are equal, the
    gradient of the second is 0.

    >>> Contrastive(margin=2.0)(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1]))
    tensor([0.2500, 0.2500])
    """

    figure = "contrastive"

    def __init__(self, margin: float):
        super().__init__()
        self.margin = margin

    def forward(self, features: Tensor, labels: Tensor, clusters: Tensor | None = None) -> Tensor:
        (near, paired), (far, parted) = partners(labels, True), partners(labels, False)
        squared = squared_distance(features, features[far])
        # √ has an infinite slope at 0, which times a gradient of 0 would be NaN.
        apart = torch.where(squared > 0, torch.where(squared > 0, squared, 1).sqrt(), 0)
        push = (self.margin - apart).clamp_min(0).square()
        return (paired * squared_distance(features, features[near]) + parted * push) / 4
