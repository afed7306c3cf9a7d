"""The center loss of Wen et al., as equations 11 to 13 of Mustafa et al. give it: to a running mean of the class."""

import torch
from torch import Tensor, nn

from raypurify.training.semantic.contract import SemanticLoss
from raypurify.training.together import sum_over_workers


class Center(SemanticLoss):
    """The center loss, L(f, y) = ½‖f − c_y‖² (Mustafa et al., eq. 11), whose centres follow the features.

    After each batch c_j ← c_j − α · Σ_i δ(y_i = j)(c_j − f_i) / (1 + Σ_i δ(y_i = j)), their eq. 12 and 13, with α =
    ``robust.centres_lr``; over the images of all workers.

    >>> loss = Center(classes=2, dim=1)
    >>> loss.centres.data = torch.tensor([[1.0], [-1.0]])
    >>> loss(torch.tensor([[4.0]]), torch.tensor([0])).tolist()
    [4.5]
    """

    figure = "center"

    def __init__(self, classes: int, dim: int):
        super().__init__()
        self.centres = nn.Parameter(torch.randn(classes, dim))
        self.counts = torch.zeros(classes)

    def forward(self, features: Tensor, labels: Tensor, clusters: Tensor | None = None) -> Tensor:
        self.counts = torch.bincount(labels, minlength=len(self.centres)).to(features)
        return (features - self.centres[labels]).square().sum(1) / 2

    def settle(self, together: bool) -> None:
        # The gradient of the mean is Σ δ (c − f) / N, and eq. 13 divides by 1 + Σ δ instead.
        assert self.centres.grad is not None  # it was in the loss
        counts = sum_over_workers(self.counts) if together else self.counts
        self.centres.grad *= counts.sum() / (1 + counts)[:, None]
