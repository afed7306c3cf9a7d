"""TRADES' attack: Zhang et al., "Theoretically principled trade-off between robustness and accuracy", 2019."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from raypurify.attacks.ascent import ascend, check_batch, logits_at, wide
from raypurify.attacks.base import Loss, Model
from raypurify.attacks.budget import check_size, project
from raypurify.attacks.pgd import PGD
from raypurify.attacks.restarts import best_of
from raypurify.errors import ConfigError


@dataclass(frozen=True)
class TPGD(PGD):
    """TRADES' attack: PGD that raises KL(f(x) ‖ f(x′)), away from what the network says of the clean image.

    The settings are PGD's. The divergence has no slope at the clean image, so the path has to start beside it: at
    Gaussian noise of standard deviation ``noise``, as in the authors' code, projected to the ball. Labels are checked
    and not used: an image that the network gets wrong is driven away from its wrong class, be it to the right one. Of
    several ``restarts`` the highest divergence is kept, whatever the class. A ``loss`` given to the call takes the
    place of the divergence.

    >>> from raypurify.attacks import TPGD
    >>> TPGD(eps=8 / 255)(lambda x: x.flatten(1), torch.rand(2, 1, 2, 2), torch.tensor([0, 3])).shape
    torch.Size([2, 1, 2, 2])
    """

    noise: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("noise", self.noise)
        if not (self.random_start and self.noise):
            raise ConfigError("TPGD needs a random start and noise > 0: at the clean image its loss has no slope")
        if self.loss != "ce":
            raise ConfigError("TPGD raises its own divergence: leave loss out, or use pgd")

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
        check_batch(images, labels)
        if len(images) == 0:
            return images.detach().clone()
        with torch.inference_mode(False), torch.no_grad():
            clean = wide(images.detach().clone())
            raised = loss or divergence_from(logits_at(model, clean, images.dtype))

        def attempt(which: Tensor | slice) -> Tensor:
            return ascend(
                model,
                images[which],
                labels[which],
                eps=self.eps,
                norm=self.norm,
                steps=self.steps,
                step_size=self._step,
                start=lambda some: self._start(some, generator),
                loss=raised,
                momentum=self.momentum,
            )

        # The divergence is of all images, in their order: none may leave.
        return best_of(attempt, model, images, labels, self.restarts, raised, leave=False)

    def _start(self, clean: Tensor, generator: torch.Generator | None) -> Tensor:
        device = clean.device if generator is None else generator.device
        drawn = torch.randn(clean.shape, generator=generator, device=device, dtype=clean.dtype)
        return project(self.noise * drawn.to(clean.device), clean, self.eps, self.norm)


def divergence(clean: Tensor, adversarial: Tensor) -> Tensor:
    """KL(f(x) ‖ f(x′)) = Σ_c p_c · log(p_c / q_c) per image (N,), p and q the softmax of the logits (N, classes).

    >>> divergence(torch.tensor([[100.0, 0.0]]), torch.zeros(1, 2))
    tensor([0.6931])
    """
    log_p, log_q = log_softmax(clean, 1), log_softmax(adversarial, 1)
    return kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)


def divergence_from(clean: Tensor) -> Loss:
    """A loss that is the divergence from ``clean``, logits of the clean images (N, classes); it ignores the labels."""
    return lambda logits, labels: divergence(clean, logits)
