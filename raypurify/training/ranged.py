"""An attack of another size for each batch."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from raypurify.attacks.base import Attack, Loss, Model


@dataclass(frozen=True)
class Ranged:
    """An attack whose ε is drawn for each batch, uniformly between ``least`` and ``eps``; ``make(ε)`` gives it.

    Mustafa et al., section 6.1 ("Adversarial Training"): they train on attacks of ε from 0.01 to 0.05.

    >>> from raypurify.attacks import PGD
    >>> attack, x = Ranged(PGD, 0.01, 0.05, "linf"), torch.full((1, 3, 2, 2), 0.5)
    >>> moved = attack(lambda x: x.flatten(1), x, torch.tensor([0]), generator=torch.Generator().manual_seed(0))
    >>> 0.01 <= float((moved - x).abs().max()) <= 0.05
    True
    """

    make: Callable[[float], Attack]
    least: float
    eps: float
    norm: str

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
        where = generator.device if generator else "cpu"
        share = float(torch.rand((), generator=generator, device=where))
        attack = self.make(self.least + (self.eps - self.least) * share)
        return attack(model, images, labels, generator=generator, loss=loss)
