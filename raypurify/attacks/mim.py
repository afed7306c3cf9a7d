"""Momentum iterative method: Dong et al., "Boosting adversarial attacks with momentum", CVPR 2018."""

from dataclasses import dataclass

from raypurify.attacks.pgd import PGD


@dataclass(frozen=True)
class MIM(PGD):
    """Momentum iterative method: BIM along a direction that remembers earlier gradients.

    g ← μ·g + ∇ / ‖∇‖₁ (their eq. 6), x′ ← Π(x′ + step · direction(g)), from x′ = x and g = 0. The direction is sign(g)
    under ``"linf"`` (eq. 7), g / ‖g‖₂ otherwise. ``momentum`` is μ: 1 is theirs, 0 gives BIM. The default step is
    PGD's; theirs is eps/steps, whose path reaches the border of the ball only where the direction
    never turns.

    >>> import torch
    >>> from raypurify.attacks import MIM
    >>> x = torch.full((1, 1, 1, 2), 0.5)
    >>> MIM(eps=0.1)(lambda x: x.flatten(1), x, torch.tensor([0]))
    tensor([[[[0.4000, 0.6000]]]])
    """

    random_start: bool = False
    momentum: float = 1.0
