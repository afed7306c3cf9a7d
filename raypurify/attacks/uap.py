"""Universal perturbations: one pattern that misleads a classifier on most images of a set.

Learned by stochastic gradient, as in Shafahi et al., "Universal adversarial training", AAAI 2020 (Algorithm 1): the
form in use today. That of Moosavi-Dezfooli et al., "Universal adversarial perturbations", CVPR 2017, runs DeepFool
image by image and takes 13 times as long by the measurement of the former.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from raypurify.attacks.ascent import check_batch, input_gradient, wide
from raypurify.attacks.base import Loss, Model
from raypurify.attacks.budget import check_norm, check_size, project, step_direction, unit_length
from raypurify.attacks.rounds import check_rounds
from raypurify.errors import DataError


@dataclass(frozen=True)
class UAP:
    """Universal perturbation: a pattern δ that raises the mean loss of a set, learned on it and added to each image.

    δ ← Π(δ + step · direction(Σ ∇ min(ℓ(x + δ, y), bound))) over mini-batches, from δ = 0; Π projects onto the ball of
    size ``eps``. The bound on the cross-entropy (their eq. 3) keeps a few images from deciding. The default step falls
    from eps/2 to 0: each mini-batch has a direction of its own, and equal steps of 2.5·eps/steps would wander about the
    middle of the ball. Under ``"dissimilarity"`` an image gets ‖x‖₂·δ with ‖δ‖₂ ≤ eps, so that each meets its own
    budget.

    Called as an attack it learns from the very images it is given. To learn from some images and attack others:
    ``UAP(eps=8 / 255).learn(model, images, labels)`` is an attack that adds what it learned. What an image gets depends
    on its company, by definition. A ``loss`` given to the call takes the place of the bounded cross-entropy.

    >>> from raypurify.attacks import UAP
    >>> x = torch.tensor([0.3, 0.6, 0.5, 0.9]).reshape(2, 1, 1, 2)
    >>> UAP(eps=0.1)(lambda x: x.flatten(1), x, torch.tensor([1, 1])).flatten()
    tensor([0.4000, 0.5000, 0.6000, 0.8000])
    """

    eps: float
    norm: str = "linf"
    steps: int = 100
    step_size: float | None = None
    """One for all steps. None: falls from eps/2 by eps/2/steps at a time."""
    batch_size: int = 64
    bound: float = 9.0

    def __post_init__(self) -> None:
        check_norm(self.norm)
        check_size("eps", self.eps)
        check_size("bound", self.bound)
        if self.step_size is not None:
            check_size("step_size", self.step_size)
        check_rounds("UAP", steps=self.steps)
        check_rounds("UAP", batch_size=self.batch_size)

    def __call__(
        self,
        model: Model,
        images: Tensor,
        labels: Tensor,
        *,
        generator: torch.Generator | None = None,
        loss: Loss | None = None,
    ) -> Tensor:
        """Adversarial images; the contract is ``attacks.base.Attack``'s, with one pattern for all images."""
        return self.learn(model, images, labels, generator=generator, loss=loss)(model, images, labels)

    def learn(
        self,
        model: Model,
        images: Tensor,
        labels: Tensor,
        *,
        generator: torch.Generator | None = None,
        loss: Loss | None = None,
    ) -> "Universal":
        """The attack that adds the pattern learned on these images; the order of mini-batches is the generator's."""
        check_batch(images, labels)
        loss = loss or (lambda logits, labels: cross_entropy(logits, labels, reduction="none").clamp_max(self.bound))
        with torch.inference_mode(False), torch.no_grad():
            pattern = wide(images.new_zeros(1, *images.shape[1:]))
            for done, some in enumerate(self._batches(len(images), images.device, generator)):
                clean = wide(images[some].detach().clone())
                scale = unit_length(clean, self.norm)
                x = (clean + scale * pattern).clamp(0, 1)
                gradient, _ = input_gradient(model, x, labels[some], images.dtype, loss)
                direction = step_direction((scale * gradient).sum(0, keepdim=True), self.norm)
                step = self.eps / 2 * (1 - done / self.steps) if self.step_size is None else self.step_size
                pattern = project(pattern + step * direction, pattern, self.eps, _of_pattern(self.norm))
            return Universal(pattern[0], self.eps, self.norm)

    def _batches(self, count: int, device: torch.device, generator: torch.Generator | None) -> Iterator[Tensor]:
        """``steps`` mini-batches of indices; every image comes once before any comes again."""
        source = device if generator is None else generator.device
        waiting = torch.arange(0, device=device)
        for _ in range(self.steps if count else 0):
            if not len(waiting):
                waiting = torch.randperm(count, generator=generator, device=source).to(device)
            yield waiting[: self.batch_size]
            waiting = waiting[self.batch_size :]


@dataclass(frozen=True, eq=False)
class Universal:
    """A learned attack: adds ``pattern`` (C, H, W), times the image's unit of ``norm``, to every image.

    The result is clipped to [0, 1]. It asks nothing of the model. Raises DataError for images of another shape.
    """

    pattern: Tensor
    eps: float
    norm: str = "linf"

    def __post_init__(self) -> None:
        check_norm(self.norm)
        check_size("eps", self.eps)

    def __call__(
        self,
        model: Model,
        images: Tensor,
        labels: Tensor,
        *,
        generator: torch.Generator | None = None,
        loss: Loss | None = None,
    ) -> Tensor:
        """Adversarial images; the contract is ``attacks.base.Attack``'s. Model, generator and loss are not used."""
        check_batch(images, labels)
        if images.shape[1:] != self.pattern.shape:
            shape = tuple(self.pattern.shape)
            raise DataError(f"images are {tuple(images.shape[1:])}, the pattern was learned for {shape}")
        with torch.inference_mode(False), torch.no_grad():
            clean = wide(images.detach().clone())
            pattern = self.pattern.to(clean)[None]
            pattern = project(pattern, pattern, self.eps, _of_pattern(self.norm))
            return (clean + unit_length(clean, self.norm) * pattern).clamp(0, 1).to(images.dtype)


def _of_pattern(norm: str) -> str:
    """The norm of the pattern itself, which is relative to the image already under ``"dissimilarity"``."""
    return "l2" if norm == "dissimilarity" else norm
