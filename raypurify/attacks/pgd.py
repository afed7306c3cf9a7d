"""Projected gradient descent: Madry et al., "Towards deep learning models resistant to adversarial attacks", 2018."""

from dataclasses import dataclass

import torch
from torch import Tensor

from raypurify.attacks.ascent import ascend, step_sizes, wide
from raypurify.attacks.base import Loss, Model
from raypurify.attacks.budget import check_norm, check_size, random_in_ball
from raypurify.attacks.losses import loss_of
from raypurify.attacks.restarts import best_of, check_restarts
from raypurify.attacks.rounds import check_rounds


@dataclass(frozen=True)
class PGD:
    """Projected gradient descent: ``steps`` projected steps from a uniform random start in the ball.

    max ℓ(f(x′), y) over ‖x′ − x‖ ≤ eps and x′ in [0, 1], untargeted, by x′ ← Π(x′ + step · direction(∇ℓ)), where the
    direction is sign(∇) under ``"linf"`` and ∇ / ‖∇‖₂ otherwise, and Π projects onto ball and range. ``eps`` and
    ``step_size`` are in the unit of ``norm`` (see ``attacks.budget``). The default step 2.5·eps/steps (Madry et al.'s
    choice for L2) can reach the boundary from any start and still move along it, as long as the gradient keeps its
    direction. Under ``"dissimilarity"``, whose budgets are large, it turns at every step, and a path of equal short
    steps ends well inside the ball: there the default step falls from eps by eps/steps at a time, which reaches the
    boundary at once and then settles on it.

    ``loss`` is a name of ``attacks.losses.LOSSES``. Of several ``restarts`` each image keeps the best; one that is
    fooled is left alone by those that follow (``attacks.restarts``).

    >>> from raypurify.attacks import PGD
    >>> PGD(eps=8 / 255)(lambda x: x.flatten(1), torch.rand(2, 1, 2, 2), torch.tensor([0, 3])).shape
    torch.Size([2, 1, 2, 2])
    """

    eps: float
    norm: str = "linf"
    steps: int = 10
    step_size: float | None = None
    random_start: bool = True
    momentum: float = 0.0
    """How much of the earlier steps' gradient is kept; ``MIM`` has it."""
    restarts: int = 1
    loss: str = "ce"

    def __post_init__(self) -> None:
        check_norm(self.norm)
        check_size("eps", self.eps)
        if self.step_size is not None:
            check_size("step_size", self.step_size)
        check_size("momentum", self.momentum)
        check_rounds(type(self).__name__, steps=self.steps, restarts=self.restarts)
        check_restarts(self.restarts, self.random_start)
        loss_of(self.loss)

    @property
    def _step(self) -> list[float]:
        return step_sizes(self.eps, self.norm, self.steps, self.step_size)

    def __call__(
        self,
        model: Model,
        images: Tensor,
        labels: Tensor,
        *,
        generator: torch.Generator | None = None,
        loss: Loss | None = None,
    ) -> Tensor:
        """Adversarial images; the contract is ``attacks.base.Attack``'s."""
        raised = loss or loss_of(self.loss)

        def attempt(which: Tensor | slice) -> Tensor:
            def start(clean: Tensor) -> Tensor:
                # Drawn for all, so that an image's start does not depend on which others are left.
                return random_in_ball(wide(images.detach()), self.eps, self.norm, generator)[which]

            return ascend(
                model,
                images[which],
                labels[which],
                eps=self.eps,
                norm=self.norm,
                steps=self.steps,
                step_size=self._step,
                start=start if self.random_start else None,
                loss=raised,
                momentum=self.momentum,
            )

        return best_of(attempt, model, images, labels, self.restarts, raised, leave=loss is None)
