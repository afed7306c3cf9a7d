"""Checks of the attacks themselves, after Carlini et al., "On Evaluating Adversarial Robustness" (2019), and Mustafa et
al. (PCL), section 6.6: an attack that fails them says nothing of a defence.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from raypurify.attacks import BIM, FGSM, PGD
from raypurify.attacks.square import Square

EPS = 2 / 255


@dataclass(frozen=True)
class Check:
    """One check: what is asked, whether it holds, and the figures behind it."""

    name: str
    passed: bool
    figures: str


def check_attacks(network: nn.Module, images: Tensor, labels: Tensor, other: nn.Module | None = None) -> list[Check]:
    """All checks of attacks on one classifier, on (n, 3, H, W) images in [0, 1] of these labels (n,).

    ``other`` is a classifier to transfer from. Sizes are L∞, small enough that one step does not do everything. An
    image more or less is noise where two accuracies ought to be in order, so one is allowed.
    """

    def accuracy(attack: Callable, victim: nn.Module = network) -> float:
        x = attack(victim, images, labels, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            return float((network(x).argmax(1) == labels).float().mean())

    one = 1 / len(images) + 1e-9
    unbounded = accuracy(PGD(eps=1.0, steps=50))
    by_eps = [accuracy(PGD(eps=eps, steps=20)) for eps in (EPS / 4, EPS / 2, EPS, 4 * EPS)]
    by_steps = [accuracy(PGD(eps=EPS, steps=steps)) for steps in (1, 5, 20, 80)]
    single, iterated = accuracy(FGSM(eps=EPS)), accuracy(BIM(eps=EPS, steps=20))
    black = accuracy(Square(eps=EPS, queries=300))
    checks = [
        Check("an unbounded attack leaves nothing", unbounded <= one, f"{unbounded:.3f} right at L∞ 1"),
        Check("accuracy falls with the size of the attack", _falls(by_eps, one), _listed(by_eps)),
        Check("accuracy falls with the number of steps", _falls(by_steps, one), _listed(by_steps)),
        Check("many steps are no weaker than one", iterated <= single + one, f"BIM {iterated:.3f}, FGSM {single:.3f}"),
        Check(
            "the white box is no weaker than the black one",
            by_eps[2] <= black + one,
            f"PGD {by_eps[2]:.3f}, Square with 300 queries {black:.3f}",
        ),
        check_gradients(network, images[:8], labels[:8]),
        check_convergence(network, images, labels),
    ]
    if other is not None:
        moved = accuracy(PGD(eps=EPS, steps=20), other)
        figures = f"PGD {by_eps[2]:.3f}, from another classifier {moved:.3f}"
        checks.insert(5, Check("the white box is no weaker than a transfer", by_eps[2] <= moved + one, figures))
    return checks


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


def check_convergence(network: nn.Module, images: Tensor, labels: Tensor, steps: int = 50) -> Check:
    """Check that the loss under attack has stopped rising: the last fifth of the steps adds less than a twentieth."""

    def loss(count: int) -> float:
        attack = BIM(eps=EPS, steps=count, step_size=EPS / 8)
        with torch.no_grad():
            return float(cross_entropy(network(attack(network, images, labels)), labels))

    before, almost, end = loss(1), loss(4 * steps // 5), loss(steps)
    late = (end - almost) / max(end - before, 1e-9)
    figures = f"{before:.2f} after 1 step, {almost:.2f} after {4 * steps // 5}, {end:.2f} after {steps}"
    return Check("the loss is flat at the end", late < 0.05, figures)


def _falls(values: list[float], slack: float) -> bool:
    return all(later <= earlier + slack for earlier, later in pairwise(values))


def _listed(values: list[float]) -> str:
    return " → ".join(f"{value:.3f}" for value in values)
