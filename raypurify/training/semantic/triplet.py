"""The triplet loss of Schroff et al., equation 15 of Mustafa et al.: an anchor, one of its class, one of another."""

from torch import Tensor

from raypurify.training.semantic.contract import SemanticLoss
from raypurify.training.semantic.partners import partners, squared_distance


class Triplet(SemanticLoss):
    """The triplet loss max(0, m + ‖f_a − f_p‖² − ‖f_a − f_n‖²), with every image as an anchor (Mustafa et al., eq. 15).

    Its positive and its negative are its ``partners``; an anchor that lacks one of them counts nothing.

    >>> import torch
    >>> Triplet(margin=1.0)(torch.tensor([[0.0], [1.0], [1.0]]), torch.tensor([0, 0, 1]))
    tensor([1., 2., 0.])
    """

    figure = "triplet"

    def __init__(self, margin: float):
        super().__init__()
        self.margin = margin

    def forward(self, features: Tensor, labels: Tensor, clusters: Tensor | None = None) -> Tensor:
        (near, paired), (far, parted) = partners(labels, True), partners(labels, False)
        gap = squared_distance(features, features[near]) - squared_distance(features, features[far])
        return (self.margin + gap).clamp_min(0) * (paired & parted)
