"""Low-frequency PGD: Guo, Frank, Weinberger, "Low frequency adversarial perturbation", UAI 2019, and Sharma, Ding,
Brubaker, "On the effectiveness of low frequency perturbations", IJCAI 2019.

A purifier that rewrites the high part of an image leaves what such an attack adds.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from raypurify.attacks.ascent import check_batch, input_gradient, step_sizes, wide
from raypurify.attacks.base import Loss, Model
from raypurify.attacks.budget import (
    check_norm,
    check_size,
    over_largest,
    per_image,
    project,
    random_in_ball,
    size,
    step_direction,
    unit_length,
)
from raypurify.attacks.losses import loss_of
from raypurify.attacks.restarts import best_of, check_restarts
from raypurify.attacks.rounds import check_rounds
from raypurify.errors import ConfigError


@dataclass(frozen=True)
class LowFrequency:
    """PGD among the perturbations that have low frequencies alone: the first ``band`` of the DCT's along each side.

    x′ = x + δ with Pδ = δ, where P keeps the first ⌈band · side⌉ rows and columns of the orthonormal DCT-II of each
    channel. A step adds P sign(P∇) under ``"linf"``, P∇ otherwise, scaled to ``step_size`` (default: as ``PGD``'s);
    what leaves the ball is scaled back into it, not clipped, so that no high frequency comes in. Only where x′ is
    clipped to [0, 1] does δ have others. It is weaker than PGD on a classifier alone, which is no reason to leave it
    out where something treats the bands of an image differently. ``loss`` and ``restarts`` are those of ``PGD``.

    >>> from raypurify.attacks import LowFrequency
    >>> x = torch.full((1, 1, 4, 4), 0.5)
    >>> delta = LowFrequency(eps=0.1, band=0.25)(lambda x: x.flatten(1), x, torch.tensor([0])) - x
    >>> bool(delta.std() < 1e-6 < delta.abs().min())
    True
    """

    eps: float
    norm: str = "linf"
    band: float = 0.25
    steps: int = 50
    step_size: float | None = None
    random_start: bool = True
    restarts: int = 1
    loss: str = "ce"

    def __post_init__(self) -> None:
        check_norm(self.norm)
        check_size("eps", self.eps)
        if self.step_size is not None:
            check_size("step_size", self.step_size)
        if not 0 < self.band <= 1:
            raise ConfigError(f"band={self.band}: the share of frequencies that a perturbation may have is in (0, 1]")
        check_rounds("LowFrequency", steps=self.steps, restarts=self.restarts)
        check_restarts(self.restarts, self.random_start)
        loss_of(self.loss)

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
                delta = torch.zeros_like(clean)
                if self.random_start:
                    delta = dct_band(random_in_ball(clean, self.eps, self.norm, generator), self.band)
                return self._climb(model, clean[which], delta[which], labels[which], images.dtype, raised)

            return best_of(attempt, model, images, labels, self.restarts, raised, leave=loss is None)

    def _climb(
        self, model: Model, clean: Tensor, delta: Tensor, labels: Tensor, dtype: torch.dtype, raised: Loss
    ) -> Tensor:
        delta, unit = self._within(delta, clean), unit_length(clean, self.norm)
        for step_size in step_sizes(self.eps, self.norm, self.steps, self.step_size):
            gradient, _ = input_gradient(model, (clean + delta).clamp(0, 1), labels, dtype, raised)
            # To unit size first: a square of a confident network's gradient is 0 in float32.
            gradient = dct_band(over_largest(gradient), self.band)
            if self.norm == "linf":
                direction = over_largest(dct_band(gradient.sign(), self.band))
            else:
                direction = step_direction(gradient, self.norm)
            delta = self._within(delta + step_size * unit * direction, clean)
        return (clean + delta).clamp(0, 1).to(dtype)

    def _within(self, delta: Tensor, clean: Tensor) -> Tensor:
        """The perturbation scaled into the ball."""
        if self.norm != "linf":
            return project(delta, clean, self.eps, self.norm)
        return delta * per_image((self.eps / size(delta, clean, "linf").clamp_min(1e-30)).clamp_max(1), delta)


def dct_band(images: Tensor, band: float) -> Tensor:
    """The part of images (N, C, H, W) in the first ⌈band · side⌉ frequencies of the DCT along each side: a projection.

    >>> x = torch.rand(1, 1, 6, 5)
    >>> torch.allclose(dct_band(x, 1.0), x, atol=1e-6), torch.allclose(dct_band(x, 0.1), x.mean(), atol=1e-6)
    (True, True)
    """
    rows, columns = (_projector(side, band, images) for side in images.shape[-2:])
    return rows @ images @ columns


def _projector(side: int, band: float, like: Tensor) -> Tensor:
    kept = torch.arange(math.ceil(band * side), dtype=torch.float64)
    basis = torch.cos(torch.pi / side * (torch.arange(side, dtype=torch.float64) + 0.5)[:, None] * kept)
    basis /= basis.norm(dim=0)
    return (basis @ basis.T).to(like)
