"""The L2 attack of Carlini and Wagner, "Towards evaluating the robustness of neural networks", 2017."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from raypurify.attacks.adam import Adam
from raypurify.attacks.ascent import check_batch, input_gradient, logits_at, wide
from raypurify.attacks.base import Loss, Model
from raypurify.attacks.budget import check_norm, check_size, clip_to_ball, eight_bit, per_image
from raypurify.attacks.losses import margin
from raypurify.attacks.rounds import check_rounds
from raypurify.attacks.success import confirmed, lengthened, slack
from raypurify.errors import ConfigError


@dataclass(frozen=True)
class CW:
    """Carlini and Wagner's attack: the shortest perturbation (in L2) that changes the class, cut to the budget.

    Adam minimises ‖x′ − x‖² − c·min(f(x′), confidence), where f is the margin by which another class beats the label
    and x′ = ½(tanh w + 1) stays in [0, 1] by itself. A search for each image's own c goes up tenfold from
    ``initial_const`` until one succeeds, then halves the interval: ``searches`` times ``steps`` steps in all. Success
    is f > ``confidence``; the shortest success is kept. The settings are the authors', but for their 10,000 steps: 100
    are RSFP's. As in theirs a search ends early, here for each image alone: when a tenth of the steps, or ten, have not
    lowered its objective.

    With ``eight_bit`` the model is asked about x′ as a file would hold it, and its gradient there is taken for that at
    x′, so that a success still is one in a file. Without it the attack is the published one.

    What is longer than ``eps`` is cut to the ball and mostly stops being a success: accuracy under the attack is the
    share of images whose shortest perturbation does not fit. With ``eps=math.inf`` nothing is cut. With ``fill`` the
    perturbation is lengthened along its direction to ``eps``, unless that would undo its success; a high
    ``confidence`` finds one that is worth it. Under ``"linf"`` the tanh runs over [x − eps, x + eps] ∩ [0, 1] instead,
    so the shortest within the ball is found. An image that is a success unperturbed comes back as it is, one without
    any success as the last step left it. ``CW(eps=math.inf, searches=1, initial_const=c)`` is what toolboxes without a
    search mean by CW.

    A ``loss`` given to the call is raised in the margin's place, without bound; success is still told by the margin.

    >>> from raypurify.attacks import CW
    >>> x = torch.tensor([[[[0.6, 0.5]]]])
    >>> CW(eps=0.3, eight_bit=False)(lambda x: 20 * x.flatten(1), x, torch.tensor([0])).round(decimals=2)
    tensor([[[[0.5500, 0.5500]]]])
    """

    own_objective: ClassVar[bool] = True
    eps: float
    norm: str = "l2"
    searches: int = 9
    steps: int = 100
    step_size: float | None = None
    """Adam's, in w. None: 0.01; 0.05 under "linf", where a step of w moves x′ less."""
    initial_const: float = 1e-3
    confidence: float = 0.0
    abort_early: bool = True
    eight_bit: bool = True
    fill: bool = False

    def __post_init__(self) -> None:
        check_norm(self.norm)
        if self.eps != math.inf:
            check_size("eps", self.eps)
        for name in ("step_size", "initial_const", "confidence"):
            if getattr(self, name) is not None:
                check_size(name, getattr(self, name))
        if self.fill and self.eps == math.inf:
            raise ConfigError("CW with fill lengthens perturbations to eps: give it a finite one")
        check_rounds("CW", searches=self.searches, steps=self.steps)

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
        check_batch(images, labels)
        if len(images) == 0:
            return images.detach().clone()
        with torch.inference_mode(False), torch.no_grad():
            clean = wide(images.detach().clone())
            found = clean.clone()
            todo = margin(logits_at(model, clean, images.dtype), labels) <= self.confidence
            if todo.any():
                found[todo] = self._shortest(model, clean[todo], labels[todo], images.dtype, loss)
            if not self.fill:
                return clip_to_ball(found, clean, self.eps, self.norm).to(images.dtype)
            budget = self.eps, self.norm
            return lengthened(model, found, clean, labels, *budget, images.dtype, self.eight_bit).to(images.dtype)

    def _shortest(self, model: Model, clean: Tensor, labels: Tensor, dtype: torch.dtype, loss: Loss | None) -> Tensor:
        """The shortest success for each image, or the last x′ where there is none."""
        # Where the deployed model wants more of a margin than the gradient's pass, it is raised so far.
        bar = clean.new_full((len(clean),), self.confidence)
        loss = loss or (lambda logits, labels: margin(logits, labels).clamp_max(bar[at]))
        reach = self.eps if self.norm == "linf" else 1.0
        low, high = (clean - reach).clamp_min(0), (clean + reach).clamp_max(1)
        half = ((high - low) / 2).clamp_min(torch.finfo(clean.dtype).tiny)
        # The arctanh of an edge is infinite.
        origin = torch.atanh(((clean - low) / half - 1) * (1 - 1e-6))
        length = clean.new_full((len(clean),), math.inf)
        shortest = clean.clone()
        lower, upper = torch.zeros_like(length), torch.full_like(length, math.inf)
        const = torch.full_like(length, self.initial_const)
        rate = (0.05 if self.norm == "linf" else 0.01) if self.step_size is None else self.step_size
        for _ in range(self.searches):
            success, before = torch.zeros_like(labels, dtype=torch.bool), torch.full_like(length, math.inf)
            at, w, adam = torch.arange(len(clean), device=clean.device), origin, Adam(origin)
            for step in range(1, self.steps + 1):
                tanh = w.tanh()
                x = low[at] + half[at] * (tanh + 1)
                shown = eight_bit(x).clamp(low[at], high[at]) if self.eight_bit else x
                gradient, logits = input_gradient(model, shown, labels[at], dtype, loss)
                distance = (shown - clean[at]).flatten(1).norm(dim=1)
                # A success that is neither the first of its search nor shorter would change nothing.
                asked = ~success[at] | (distance < length[at])
                now = asked.clone()
                now[asked] = confirmed(
                    model, shown[asked], logits[asked], labels[at[asked]], dtype, self.confidence, self.eight_bit
                )
                success[at] |= now
                beaten = margin(logits, labels[at])
                short = asked & ~now & (beaten > bar[at])
                bar[at[short]] = (beaten + slack(logits)).to(bar)[short]
                better = now & (distance < length[at])
                # Until there is a success, the latest x′ is kept.
                kept = better | length[at].isinf()
                shortest[at[kept]], length[at[better]] = shown[kept], distance[better]
                offset = x - clean[at]
                slope = (2 * offset - per_image(const[at], x) * gradient) * half[at] * (1 - tanh * tanh)
                w = w - rate * adam.way(slope)
                due = self.abort_early and step % max(10, math.ceil(self.steps / 10)) == 0
                # A loss that is a sum does not tell which image still gains.
                if due and (raised := loss(logits, labels[at])).ndim:
                    value = offset.square().flatten(1).sum(1) - const[at] * raised
                    falls = value + 1e-4 * value.abs() < before[at]
                    # Until a value of 8 bits has moved, the margin cannot.
                    before[at] = torch.where(distance > 0, value, before[at])
                    at, w = at[falls], w[falls]
                    adam.keep(falls)
                    if not len(at):
                        break
            upper = torch.where(success, const, upper)
            lower = torch.where(success, lower, const)
            const = torch.where(upper.isinf(), 10 * const, (lower + upper) / 2)
        return shortest
