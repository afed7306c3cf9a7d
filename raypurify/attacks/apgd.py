"""Auto-PGD: Croce, Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks", ICML 2020, Algorithm 1.
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from raypurify.attacks.ascent import check_batch, input_gradient, wide
from raypurify.attacks.base import Loss, Model
from raypurify.attacks.budget import (
    check_norm,
    check_size,
    per_image,
    project,
    random_in_ball,
    step_direction,
    unit_length,
)
from raypurify.attacks.losses import loss_of, values
from raypurify.attacks.restarts import best_of
from raypurify.attacks.rounds import check_rounds
from raypurify.attacks.success import confirmed
from raypurify.errors import ConfigError


@dataclass(frozen=True)
class APGD:
    """Auto-PGD: projected ascent with momentum 0.75, whose step of 2·eps is halved for each image where it stalls.

    The best x′ so far is kept. At checkpoints, after 22 % of ``steps`` and then at distances that shrink by 3 % to 6 %,
    an image's step is halved, and its path taken up at its best x′, where either at most ``rho`` of the steps since
    the last one raised the loss, or the best loss has not risen since although the step was left alone then. ``loss``
    is a name of ``attacks.losses.LOSSES``: APGD-CE is ``"ce"``, APGD-DLR ``"dlr"``.

    An image that is fooled, and stays so when rounded to 8 bits, leaves the batch: neither its further steps nor
    further ``restarts`` are paid for. A ``loss`` given to the call is raised with all steps instead; it has to give one
    value per image, or DataError is raised. The algorithm is the paper's, and only the starts are drawn otherwise
    (uniformly from the ball), so that any norm, model and loss here can be attacked and an image depends on no
    neighbour; ``AutoAttack`` is the authors' own package.

    >>> from raypurify.attacks import APGD
    >>> x = torch.full((1, 1, 1, 2), 0.5)
    >>> APGD(eps=0.1)(lambda x: 9 * (x - 0.5).flatten(1) ** 3, x, torch.tensor([0])).sub(x).abs().max() <= 0.1001
    tensor(True)
    """

    eps: float
    norm: str = "linf"
    loss: str = "ce"
    steps: int = 100
    restarts: int = 1
    rho: float = 0.75

    def __post_init__(self) -> None:
        check_norm(self.norm)
        check_size("eps", self.eps)
        loss_of(self.loss)
        check_rounds("APGD", steps=self.steps, restarts=self.restarts)
        if not 0 <= self.rho <= 1:
            raise ConfigError(f"rho={self.rho}: the share of steps that raise the loss is in [0, 1]")

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
        raised = loss or loss_of(self.loss)
        with torch.inference_mode(False), torch.no_grad():
            clean = wide(images.detach().clone())

            def attempt(which: Tensor | slice) -> Tensor:
                start = random_in_ball(clean, self.eps, self.norm, generator)[which]
                return self._climb(model, clean[which], start, labels[which], images.dtype, raised, loss is None)

            return best_of(attempt, model, images, labels, self.restarts, raised, leave=loss is None)

    def checkpoints(self) -> list[int]:
        """The steps after which step sizes are looked at, from the paper's section 3: w_j = ⌈p_j · steps⌉."""
        before, share, marks = 0.0, 0.22, [0]
        while share <= 1:
            # Less a rounding error, which ⌈⌉ would make a step of.
            marks.append(max(-int(-(share * self.steps - 1e-9) // 1), marks[-1] + 1))
            before, share = share, share + max(share - before - 0.03, 0.06)
        return marks

    def _climb(
        self, model: Model, clean: Tensor, start: Tensor, labels: Tensor, dtype: torch.dtype, raised: Loss, leave: bool
    ) -> Tensor:
        x = (clean + start).clamp(0, 1)
        found, marks = x.clone(), self.checkpoints()
        step = per_image(clean.new_full((len(clean),), 2 * self.eps), clean) * unit_length(clean, self.norm)
        zero = clean.new_zeros(len(clean))
        where = torch.arange(len(clean), device=clean.device)
        least = zero - torch.inf
        path = _Paths(where, clean, labels, x, x, x, x, x, least, least, zero, zero + 1, step, zero)
        for taken in range(self.steps + 1):
            gradient, logits = input_gradient(model, path.x, path.labels, dtype, raised)
            height = values(raised, logits, path.labels)
            better = height > path.best
            wide_better = per_image(better, gradient)
            path = replace(
                path,
                gradient=gradient,
                best=torch.where(better, height, path.best),
                best_x=torch.where(wide_better, path.x, path.best_x),
                best_gradient=torch.where(wide_better, gradient, path.best_gradient),
                # Of the step that led here; the start has none before it.
                rises=path.rises + (height > path.last_height if taken else zero[path.where]),
                last_height=height,
            )
            found[path.where] = path.best_x.to(found)
            if leave and (out := confirmed(model, path.x, logits, path.labels, dtype)).any():
                found[path.where[out]] = path.x[out]
                path = path.of(~out)
            if taken == self.steps or not len(path.where):
                break
            if taken in marks[1:]:
                path = self._halved(path, taken - marks[marks.index(taken) - 1])
            path = self._stepped(path, first=taken == 0)
        return found.to(dtype)

    def _stepped(self, path: "_Paths", first: bool) -> "_Paths":
        """One step with momentum: x + α(z − x) + (1 − α)(x − x₋₁), z the plain step, both projected; α = 0.75."""
        alpha = 1.0 if first else 0.75
        plain = self._projected(path.x + path.step * step_direction(path.gradient, self.norm), path.clean)
        moved = path.x + alpha * (plain - path.x) + (1 - alpha) * (path.x - path.previous)
        return replace(path, previous=path.x, x=self._projected(moved, path.clean))

    def _halved(self, path: "_Paths", since: int) -> "_Paths":
        """The step of images that stall halved, and their path taken up at the best point, at a checkpoint."""
        stuck = (path.halved == 0) & (path.best <= path.best_before)
        stalls = (path.rises <= self.rho * since) | stuck
        wide_stalls = per_image(stalls, path.x)
        return replace(
            path,
            step=torch.where(wide_stalls, path.step / 2, path.step),
            x=torch.where(wide_stalls, path.best_x, path.x),
            gradient=torch.where(wide_stalls, path.best_gradient, path.gradient),
            halved=stalls.to(path.halved),
            best_before=path.best,
            rises=torch.zeros_like(path.rises),
        )

    def _projected(self, x: Tensor, clean: Tensor) -> Tensor:
        return (clean + project(x - clean, clean, self.eps, self.norm)).clamp(0, 1)


@dataclass(frozen=True)
class _Paths:
    """Where the paths of the images that are still in the batch have come to; all fields have one entry for each."""

    where: Tensor
    clean: Tensor
    labels: Tensor
    x: Tensor
    previous: Tensor
    gradient: Tensor
    best_x: Tensor
    best_gradient: Tensor
    best: Tensor
    best_before: Tensor
    rises: Tensor
    halved: Tensor
    step: Tensor
    last_height: Tensor

    def of(self, which: Tensor) -> "_Paths":
        """The paths that ``which`` (N,) tells."""
        return _Paths(*(getattr(self, field.name)[which] for field in fields(self)))
