"""Basic iterative method: Kurakin, Goodfellow, Bengio, "Adversarial examples in the physical world", 2017."""

from dataclasses import dataclass

from raypurify.attacks.pgd import PGD


@dataclass(frozen=True)
class BIM(PGD):
    """Basic iterative method: FGSM in ``steps`` small steps, projected to the ball after each.

    x′ ← Π(x′ + step · sign(∇ℓ(x′, y))) from x′ = x, which is PGD with no random start. The default step is
    PGD's. Kurakin et al.'s path is 1.25·eps long (1.25·eps steps of one grey level each), which
    under ``"l2"`` and ``"dissimilarity"`` often ends well inside the ball: a weaker attack than its budget says. Under
    those norms the sign becomes the normalised gradient.

    >>> import torch
    >>> from raypurify.attacks import BIM
    >>> x = torch.full((1, 1, 1, 2), 0.5)
    >>> BIM(eps=0.1)(lambda x: x.flatten(1), x, torch.tensor([0]))
    tensor([[[[0.4000, 0.6000]]]])
    """

    random_start: bool = False
