"""What the checks of attacks are made of: who is attacked, how accurate that is, and one check with its figures."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from raypurify.attacks import Loss, Model


@dataclass(frozen=True)
class Check:
    """One check: what is asked, whether it holds, and the figures behind it."""

    name: str
    passed: bool
    figures: str


@dataclass(frozen=True)
class Accuracy:
    """The share of images that are right, and the ``variance`` of it that the draws of a random defence leave."""

    value: float
    variance: float = 0.0

    def __str__(self) -> str:
        return f"{self.value:.3f}"


def accuracy_of(right: Tensor) -> Accuracy:
    """The accuracy of images that are ``right`` (N,) bool, or right by each of K draws (K, N).

    >>> accuracy_of(torch.tensor([[True, True], [True, False]]))
    Accuracy(value=0.75, variance=0.0625)
    """
    value = float(right.float().mean())
    if right.ndim == 1 or len(right) == 1:
        return Accuracy(value)
    share = right.float().mean(0)
    # Of the mean of K draws of each image, estimated without bias from the same draws.
    each = share * (1 - share) / (len(right) - 1)
    return Accuracy(value, float(each.sum()) / len(share) ** 2)


@dataclass(frozen=True)
class Subject:
    """What is attacked, and how it is judged.

    ``model`` is what the attacker differentiates, images to logits, and ``loss`` what it raises (None: cross-entropy).
    ``answer`` says which class (N,) the defence gives to images in truth, one that draws at random (K, N) of K draws;
    None: the largest logit of the model.
    """

    model: Model
    answer: Callable[[Tensor], Tensor] | None = None
    loss: Loss | None = None

    def losses(self, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of each image, (N,)."""
        logits = self.model(images)
        return self.loss(logits, labels) if self.loss else cross_entropy(logits, labels, reduction="none")

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """The class of each image, (N,) or of each draw (K, N)."""
        return self.answer(images) if self.answer else self.model(images).argmax(1)
