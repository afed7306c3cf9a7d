"""DeepFool: Moosavi-Dezfooli et al., "DeepFool: a simple and accurate method to fool deep neural networks", 2016."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from raypurify.attacks.ascent import check_batch, logits_at, wide
from raypurify.attacks.base import Loss, Model
from raypurify.attacks.budget import (
    check_norm,
    check_size,
    clip_to_ball,
    eight_bit,
    per_image,
    step_direction,
)
from raypurify.attacks.losses import margin
from raypurify.attacks.rounds import check_rounds
from raypurify.attacks.success import confirmed, lengthened
from raypurify.errors import ConfigError


@dataclass(frozen=True)
class DeepFool:
    """DeepFool: a short perturbation that changes the class, by steps to the nearest linearised border.

    At every step the border with class k is taken for the hyperplane f_k − f_y + (∇f_k − ∇f_y)ᵀ(z − x') = 0, and x'
    goes to the nearest of them: by |f_k − f_y| / ‖w‖₂ along w / ‖w‖₂ with w = ∇f_k − ∇f_y (Algorithm 2), under
    ``"linf"`` by |f_k − f_y| / ‖w‖₁ along sign(w) (section 3.3), and 1e-4 further, as in the authors' code. The sum of
    all steps, lengthened by ``overshoot``, is the perturbation; it is clipped to [0, 1] as it grows. An image is left
    alone once its class is not the label: one that is misclassified from the start comes back as it is. Only the
    ``classes`` most likely classes of the clean image are compared, its own included.

    With ``eight_bit`` the model is asked about the image as a file would hold it: x' is rounded at every step, the sum
    of steps is not, so an image is left alone only once it still is a success in a file. Without it the attack is the
    published one, whose successes at an overshoot of 0.02 rounding mostly undoes.

    What is longer than ``eps`` is cut to the ball and mostly stops being a success; with ``eps=math.inf`` nothing is
    cut. With ``fill`` the perturbation is lengthened along its direction to ``eps`` instead of being left as short as
    it was found, unless that would undo its success. There is no loss in it, so a ``loss`` given to the call is refused
    with ConfigError.

    >>> from raypurify.attacks import DeepFool
    >>> x = torch.tensor([[[[0.6, 0.5]]]])
    >>> DeepFool(eps=0.3, eight_bit=False)(lambda x: 20 * x.flatten(1), x, torch.tensor([0])).round(decimals=3)
    tensor([[[[0.5490, 0.5510]]]])
    """

    own_objective: ClassVar[bool] = True
    eps: float
    norm: str = "l2"
    steps: int = 50
    overshoot: float = 0.02
    classes: int = 10
    eight_bit: bool = True
    fill: bool = False

    def __post_init__(self) -> None:
        check_norm(self.norm)
        if self.eps != math.inf:
            check_size("eps", self.eps)
        check_size("overshoot", self.overshoot)
        if self.fill and self.eps == math.inf:
            raise ConfigError("DeepFool with fill lengthens perturbations to eps: give it a finite one")
        if self.classes < 2:
            raise ConfigError(f"classes={self.classes}: a border is between two classes")
        # A step has a gradient for each class.
        check_rounds("DeepFool", steps=self.steps, classes=self.classes)

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
        if loss is not None:
            raise ConfigError("DeepFool goes from border to border: it has no loss that another could replace")
        check_batch(images, labels)
        if len(images) == 0:
            return images.detach().clone()
        with torch.inference_mode(False), torch.no_grad():
            clean = wide(images.detach().clone())
            logits = logits_at(model, clean, images.dtype)
            others = logits.scatter(1, labels[:, None], -math.inf)
            rivals = others.topk(min(self.classes, logits.shape[1]) - 1).indices
            found, total = clean.clone(), torch.zeros_like(clean)
            todo = (margin(logits, labels) <= 0).nonzero().flatten()
            for _ in range(self.steps):
                if not len(todo):
                    break
                step, holds = self._step(model, found[todo], labels[todo], rivals[todo], images.dtype)
                todo = todo[holds]
                total[todo] += step[holds]
                moved = (clean[todo] + (1 + self.overshoot) * total[todo]).clamp(0, 1)
                found[todo] = eight_bit(moved) if self.eight_bit else moved
            if not self.fill:
                return clip_to_ball(found, clean, self.eps, self.norm).to(images.dtype)
            budget = self.eps, self.norm
            return lengthened(model, found, clean, labels, *budget, images.dtype, self.eight_bit).to(images.dtype)

    def _step(
        self, model: Model, x: Tensor, labels: Tensor, rivals: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """The way to the nearest linearised border, and whether the label still holds, (N,)."""
        nearest = x.new_full((len(x),), math.inf)
        slope = torch.zeros_like(x)
        with torch.enable_grad():
            inputs = x.detach().requires_grad_()
            logits = wide(model(inputs.to(dtype)))
            gaps = logits.gather(1, rivals) - logits.gather(1, labels[:, None])
            for gap in gaps.unbind(1):
                (gradient,) = torch.autograd.grad(gap.sum(), inputs, retain_graph=True)
                dual = torch.linalg.vector_norm(gradient.flatten(1), 1 if self.norm == "linf" else 2, dim=1)
                # A border without a slope is infinitely far; were it chosen, 0 / 0 would be the way to it.
                distance = torch.where(dual > 0, gap.detach().abs() / dual, math.inf)
                closer = distance < nearest
                nearest = torch.where(closer, distance, nearest)
                slope = torch.where(per_image(closer, x), gradient, slope)
        out = confirmed(model, x, logits.detach(), labels, dtype, rounded=False)
        # Steps shrink as the border nears: without the authors' constant, rounding can keep x' on it for good.
        length = torch.where(nearest.isinf(), 0, nearest + 1e-4)
        return per_image(length, x) * step_direction(slope, self.norm), ~out
