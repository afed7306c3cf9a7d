"""Basic iterative method: Kurakin, Goodfellow, Bengio, "Adversarial examples in the physical world", 2017."""

from dataclasses import dataclass

import torch
from torch import Tensor

from raypurify.attacks.ascent import ascend
from raypurify.attacks.base import Loss, Model
from raypurify.attacks.budget import check_norm, check_size
from raypurify.errors import ConfigError


@dataclass(frozen=True)
class BIM:
    """FGSM in ``steps`` small steps from the clean image, projected to the ball after each; no random start.

    The default step is 2.5·eps/steps, as in PGD. Kurakin et al.'s path is 1.25·eps long (1.25·eps steps of one grey
    level each), which under ``"l2"`` and ``"dissimilarity"`` often ends well inside the ball: a weaker attack than its
    budget says. Under those norms the sign becomes the normalised gradient.

    >>> from raypurify.attacks import BIM
    >>> x = torch.full((1, 1, 1, 2), 0.5)
    >>> BIM(eps=0.1)(lambda x: x.flatten(1), x, torch.tensor([0]))
    tensor([[[[0.4000, 0.6000]]]])
    """

    eps: float
    norm: str = "linf"
    steps: int = 10
    step_size: float | None = None

    def __post_init__(self) -> None:
        check_norm(self.norm)
        check_size("eps", self.eps)
        if self.step_size is not None:
            check_size("step_size", self.step_size)
        if self.steps < 1:
            raise ConfigError(f"steps={self.steps}: BIM needs at least one step")

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
        return ascend(
            model,
            images,
            labels,
            eps=self.eps,
            norm=self.norm,
            steps=self.steps,
            step_size=2.5 * self.eps / self.steps if self.step_size is None else self.step_size,
            loss=loss,
        )
