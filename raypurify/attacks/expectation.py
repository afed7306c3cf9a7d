"""Expectation over transformation: a model of several random draws, and what is averaged over them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from raypurify.attacks.base import Model
from raypurify.errors import ConfigError

AVERAGES = ("logits", "probabilities", "gradients", "directions")
"""What may be averaged over draws, see :class:`Expectation`."""


@dataclass(frozen=True)
class Expectation:
    """A model that stands for ``samples`` draws of a random one, which is asked so often: images to logits (N, C).

    Athalye et al., "Synthesizing robust adversarial examples", ICML 2018: ∇E ℓ(f(t(x))) is estimated by a mean over
    draws t. ``average`` says of what:

    * ``"logits"``: f(t(x)), and the loss is of their mean;
    * ``"probabilities"``: softmax(f(t(x))); the logits are log E softmax(f(t(x))), those of an ensemble;
    * ``"gradients"``: ∇ℓ(f(t(x))), each draw with a loss of its own (Bakiskan et al., eq. 5);
    * ``"directions"``: ∇ℓ / ‖∇ℓ‖₂ of each draw and image (Bakiskan et al., section 5.1), so that no draw counts more
      because its loss is steep.

    Called, it gives the mean logits, or those of the ensemble, also for the last two: by them an attack judges its
    success. The means of gradients are taken where an attack asks for the gradient of its loss,
    ``attacks.ascent.input_gradient``, one draw at a time; an attack that goes by other gradients (DeepFool,
    AutoAttack) has that of the mean logits, and Square none. The other two need the memory of all draws at once.

    Raises ConfigError for fewer draws than one, or another average.

    >>> signs = iter([1.0, -3.0])
    >>> Expectation(lambda x: next(signs) * x.flatten(1), 2)(torch.full((1, 1, 1, 2), 0.5))
    tensor([[-0.5000, -0.5000]])
    """

    model: Model
    samples: int
    average: str = "logits"

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ConfigError(f"samples={self.samples}: an expectation needs at least one")
        if self.average not in AVERAGES:
            raise ConfigError(f"unknown average {self.average!r}: choose one of {', '.join(AVERAGES)}")

    @property
    def of_gradients(self) -> bool:
        """Whether gradients are averaged, and not what the model says."""
        return self.average in ("gradients", "directions")

    def __call__(self, images: Tensor) -> Tensor:
        outputs = torch.stack([self.model(images) for _ in range(self.samples)])
        if self.average != "probabilities":
            return outputs.mean(0)
        return log_softmax(outputs, 2).logsumexp(0) - math.log(self.samples)
