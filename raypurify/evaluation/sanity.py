"""Checks of the attacks themselves, after Carlini et al., "On Evaluating Adversarial Robustness" (2019), and Mustafa et
al. (PCL), section 6.6: an attack that fails them says nothing of a defence.
"""

import copy
import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from raypurify.attacks import BIM, FGSM, MIM, PGD, Attack, Model
from raypurify.attacks.ascent import input_gradient
from raypurify.attacks.square import Square
from raypurify.evaluation.judged import Accuracy, Check, Subject, accuracy_of
from raypurify.evaluation.random_search import check_random_search
from raypurify.purifiers.transform import held_draws

EPS = 2 / 255
# Of the images whose loss falls along the gradient there may be this share: a purifier's answer has steps.
DOWNHILL = 0.25


def check_attacks(subject: Subject, images: Tensor, labels: Tensor, other: nn.Module | None = None) -> list[Check]:
    """All checks of attacks on one subject, on (n, 3, H, W) images in [0, 1] of these labels (n,).

    ``other`` is a classifier to transfer from. Sizes are L∞, small enough that one step does not do everything. An
    image more or less is noise where two accuracies ought to be in order, so one is allowed; of a defence that draws at
    random twice the standard error of their difference over draws besides. Gradients are held against finite
    differences where the model is a module that computes in double precision; of another, and where they are another
    function's by intent, as those of a purifier that is passed by a surrogate, they need to point uphill.
    """

    def right(attack: Attack, victim: Model = subject.model) -> Tensor:
        loss = subject.loss if victim is subject.model else None
        x = attack(victim, images, labels, generator=torch.Generator().manual_seed(0), loss=loss)
        return subject.predict(x) == labels

    def accuracy(attack: Attack, victim: Model = subject.model) -> Accuracy:
        return accuracy_of(right(attack, victim))

    def no_more(less: Accuracy, more: Accuracy) -> bool:
        return less.value <= more.value + 1 / len(images) + 1e-9 + 2 * math.sqrt(less.variance + more.variance)

    def falls(found: list[Accuracy]) -> bool:
        return all(no_more(later, earlier) for earlier, later in pairwise(found))

    draws = len(subject.predict(images).reshape(-1, len(images)))
    count = f"; n = {len(images)}, one image of slack" + f", and the noise of {draws} draws" * (draws > 1)
    unbounded = accuracy(PGD(eps=1.0, steps=50))
    by_eps = [accuracy(PGD(eps=eps, steps=20)) for eps in (EPS / 4, EPS / 2, EPS, 4 * EPS)]
    few, some = (accuracy(PGD(eps=EPS, steps=steps)) for steps in (1, 5))
    long, basic, momentum = (
        right(attack) for attack in (PGD(eps=EPS, steps=80), BIM(eps=EPS, steps=20), MIM(eps=EPS, steps=20))
    )
    by_steps = [few, some, by_eps[2], accuracy_of(long)]
    single, *iterated = accuracy(FGSM(eps=EPS)), accuracy_of(basic), accuracy_of(momentum), by_eps[2]
    black = accuracy(Square(eps=EPS, queries=300))
    checks = [
        Check(
            "an unbounded attack leaves nothing", no_more(unbounded, Accuracy(0)), f"{unbounded} right at L∞ 1{count}"
        ),
        Check("accuracy falls with the size of the attack", falls(by_eps), _listed(by_eps) + count),
        Check("accuracy falls with the number of steps", falls(by_steps), _listed(by_steps) + count),
        Check(
            "many steps are no weaker than one",
            all(no_more(one, single) for one in iterated),
            "BIM {}, MIM {}, PGD {}".format(*iterated) + f", FGSM {single}{count}",
        ),
        Check(
            "the white box is no weaker than the black one",
            no_more(by_eps[2], black),
            f"PGD {by_eps[2]}, Square with 300 queries {black}{count}",
        ),
        check_random_search(subject, images, labels, EPS, [long, basic, momentum]),
        check_gradients(subject.model, images[:8], labels[:8])
        if computes_in_double(subject.model, images[:1])
        else check_uphill(subject, images[:8], labels[:8]),
        check_convergence(subject, images, labels),
    ]
    if other is not None:
        moved = accuracy(PGD(eps=EPS, steps=20), other)
        figures = f"PGD {by_eps[2]}, from another classifier {moved}{count}"
        checks.insert(5, Check("the white box is no weaker than a transfer", no_more(by_eps[2], moved), figures))
    return checks


def computes_in_double(model: Model, images: Tensor) -> bool:
    """Whether a model is a module that gives logits in double precision when it is turned to that. One that casts what
    it is given does not, and so does one that was exported with constants in single precision."""
    if not isinstance(model, nn.Module):
        return False
    try:
        with torch.no_grad():
            return copy.deepcopy(model).double()(images.double()).dtype == torch.float64
    except RuntimeError:
        return False


def check_gradients(model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, step: float = 1e-5) -> Check:
    """Check that gradients of the loss are finite, not zero, and those of finite differences, along a random direction.

    A module is checked in double precision, as single is too coarse for differences.
    """
    if isinstance(model, nn.Module):
        model = copy.deepcopy(model).double()
        images = images.double()
    x = images.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(cross_entropy(model(x), labels, reduction="sum"), x)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype).to(x.device)
    slope = (gradient * direction).flatten(1).sum(1)
    with torch.no_grad():
        ahead, behind = (
            cross_entropy(model(images + sign * step * direction), labels, reduction="none") for sign in (1, -1)
        )
    difference = (ahead - behind) / (2 * step)
    error = float(((slope - difference).abs() / (slope.abs() + difference.abs() + 1e-12)).median())
    finite, vanished = bool(gradient.isfinite().all()), int((gradient.flatten(1).abs().amax(1) == 0).sum())
    return Check(
        "gradients are finite and right",
        finite and vanished == 0 and error < 1e-2,
        f"median relative error against differences {error:.1e}, {vanished} of {len(images)} vanish",
    )


def check_uphill(subject: Subject, images: Tensor, labels: Tensor, step: float = EPS / 2) -> Check:
    """Check that gradients are finite and not zero, and that of most images the loss is higher a step along the sign of
    the gradient than a step against it; what is random draws the same for all three."""
    x = images.clone().requires_grad_(True)
    with held_draws():
        gradient, _ = input_gradient(subject.model, x, labels, x.dtype, subject.loss)
        with torch.no_grad():
            ahead, behind = (
                subject.losses((images + sign * step * gradient.sign()).clamp(0, 1), labels) for sign in (1, -1)
            )
    finite, vanished = bool(gradient.isfinite().all()), int((gradient.flatten(1).abs().amax(1) == 0).sum())
    uphill = int((ahead > behind).sum())
    return Check(
        "gradients are finite and point uphill",
        finite and vanished == 0 and uphill >= (1 - DOWNHILL) * len(images),
        f"{uphill} of {len(images)} uphill, {vanished} vanish",
    )


def check_convergence(subject: Subject, images: Tensor, labels: Tensor, steps: int = 50) -> Check:
    """Check that the loss under attack has stopped rising: the last fifth of the steps adds less than a twentieth.

    What is random draws anew at every step, and the same for all losses that are compared.
    """

    def loss(count: int) -> float:
        x = BIM(eps=EPS, steps=count, step_size=EPS / 8)(subject.model, images, labels, loss=subject.loss)
        with torch.no_grad(), held_draws():
            return float(subject.losses(x, labels).mean())

    before, almost, end = loss(1), loss(4 * steps // 5), loss(steps)
    late = (end - almost) / max(end - before, 1e-9)
    figures = f"{before:.2f} after 1 step, {almost:.2f} after {4 * steps // 5}, {end:.2f} after {steps}"
    return Check("the loss is flat at the end", late < 0.05, figures)


def _listed(values: list[Accuracy]) -> str:
    return " → ".join(map(str, values))
