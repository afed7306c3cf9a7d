"""The prototype conformity loss of Mustafa et al., equation 5: to the centre of the class, away from all others."""

import torch
from torch import Tensor, nn

from raypurify.training.semantic.contract import SemanticLoss


class PrototypeConformity(SemanticLoss):
    """The prototype conformity loss, with a learned centre w for each of the k classes.

    L(f, y) = ‖f − w_y‖² − push/(k − 1) · Σ_{j≠y} (‖f − w_j‖² + ‖w_y − w_j‖²), Mustafa et al., eq. 5, where push is 1;
    then ∂L/∂f = 2(f − w_y) − 2·push/(k − 1) · Σ_{j≠y} (f − w_j), their eq. 6.

    With push = 1 the squares of f cancel: the gradient does not know where f is, and both features and centres run
    away. For features that stay where they are, the centres of classes of one size have a minimum to settle in while
    push < (k − 1)/(3k − 1), a third for many classes. The authors' code has 0.0001, and 0.00001 with adversarial
    training. See docs/decisions.md.

    Centres are drawn from the normal distribution, as the authors'.

    >>> loss = PrototypeConformity(classes=2, dim=1, push=1.0)
    >>> loss.centres.data = torch.tensor([[1.0], [-1.0]])
    >>> loss(torch.tensor([[2.0]]), torch.tensor([0])).tolist()
    [-12.0]
    """

    figure = "pcl"

    def __init__(self, classes: int, dim: int, push: float):
        super().__init__()
        self.push = push
        self.centres = nn.Parameter(torch.randn(classes, dim))

    def forward(self, features: Tensor, labels: Tensor, clusters: Tensor | None = None) -> Tensor:
        own, mean = self.centres[labels], self.centres.mean(0)
        pull = (features - own).square().sum(1)
        # Σ_j ‖f − w_j‖² = k‖f − w̄‖² + Σ_j ‖w_j − w̄‖² over all classes: no array of images × classes × features.
        from_mean = (features - mean).square().sum(1) + (own - mean).square().sum(1)
        every = len(self.centres) * from_mean + 2 * (self.centres - mean).square().sum()
        # Of the own class the first square is the pull, the second is 0.
        return pull - self.push / (len(self.centres) - 1) * (every - pull)
