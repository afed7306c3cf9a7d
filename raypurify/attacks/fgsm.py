"""Fast gradient sign method: Goodfellow, Shlens, Szegedy, "Explaining and harnessing adversarial examples", 2015."""

from dataclasses import dataclass

import torch
from torch import Tensor

from raypurify.attacks.ascent import ascend
from raypurify.attacks.base import Loss, Model
from raypurify.attacks.budget import check_norm, check_size


@dataclass(frozen=True)
class FGSM:
    """Fast gradient sign method: one step of length ``eps`` from the clean image, clipped to [0, 1].

    x′ = x + eps · sign(∇ℓ(x, y)), ℓ the cross-entropy: the largest rise of the linearised loss in the ball. Under
    ``"l2"`` and ``"dissimilarity"`` the sign becomes the normalised gradient (the fast gradient method).

    >>> from raypurify.attacks import FGSM
    >>> x = torch.full((1, 1, 1, 2), 0.5)
    >>> FGSM(eps=0.1)(lambda x: x.flatten(1), x, torch.tensor([0]))
    tensor([[[[0.4000, 0.6000]]]])
    """

    eps: float
    norm: str = "linf"

    def __post_init__(self) -> None:
        check_norm(self.norm)
        check_size("eps", self.eps)

    def __call__(
        self,
        model: Model,
        images: Tensor,
        labels: Tensor,
        *,
        generator: torch.Generator | None = None,
        loss: Loss | None = None,
    ) -> Tensor:
        """Adversarial images; the contract is ``attacks.base.Attack``'s. Nothing is drawn from ``generator``."""
        return ascend(model, images, labels, eps=self.eps, norm=self.norm, steps=1, step_size=self.eps, loss=loss)
