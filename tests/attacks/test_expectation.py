"""Expectation over draws: what is averaged where an attack asks for a gradient."""

from itertools import cycle

import pytest
import torch
from torch.nn.functional import cross_entropy

from raypurify.attacks import APGD, MIM, PGD, TPGD, StAdv
from raypurify.attacks.adaptive import eot
from raypurify.attacks.ascent import input_gradient
from raypurify.attacks.expectation import Expectation

SHIFTS = (0.0, 0.3, -0.2)
# By how much the logits of a draw are larger: its gradient is steeper by about as much.
SCALES = (1.0, 30.0, 0.1)


def draws_of(network):
    return [lambda x, s=s, k=k: k * network((x + s).clamp(0, 1)) for s, k in zip(SHIFTS, SCALES)]


def in_turn(models):
    """A random model whose draws come in turn."""
    turns = cycle(models)
    return lambda x: next(turns)(x)


def slope(model, images, labels):
    x = images.clone().requires_grad_()
    return torch.autograd.grad(cross_entropy(model(x), labels, reduction="sum"), x)[0]


@pytest.mark.parametrize("average", ["gradients", "directions"])
def test_each_draw_has_a_loss_of_its_own(average, toy):
    network, images, labels = toy
    each = torch.stack([slope(model, images, labels) for model in draws_of(network)])
    if average == "directions":
        each = each / each.flatten(2).norm(dim=2)[..., None, None, None]
    model = eot(in_turn(draws_of(network)), 3, average=average)
    found, logits = input_gradient(model, images, labels, images.dtype, None)
    torch.testing.assert_close(found, each.mean(0))
    torch.testing.assert_close(logits, torch.stack([one(images) for one in draws_of(network)]).mean(0))
    torch.testing.assert_close(model(images), logits)


def test_an_image_without_a_gradient_in_a_draw_has_that_of_the_others(toy):
    network, images, labels = toy
    model = Expectation(in_turn([network, lambda x: 0 * network(x)]), 2, "directions")
    found, _ = input_gradient(model, images, labels, images.dtype, None)
    lengths = found.flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, 0.5))


def test_one_draw_at_a_time_needs_the_memory_of_one(toy):
    network, images, labels = toy
    alive = []

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            alive.append(len(alive))
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            alive.pop()
            return gradient

    most = []

    def model(x):
        logits = network(Counted.apply(x))
        most.append(len(alive))
        return logits

    input_gradient(Expectation(model, 4, "gradients"), images, labels, images.dtype, None)
    assert max(most) == 1
    most.clear()
    input_gradient(Expectation(model, 4), images, labels, images.dtype, None)
    assert max(most) == 4


@pytest.mark.parametrize(
    "attack",
    [
        PGD(eps=0.03, steps=3),
        MIM(eps=0.03, steps=3, random_start=True, restarts=2),
        TPGD(eps=0.03, steps=3),
        APGD(eps=0.03, steps=5),
        StAdv(eps=0.5, steps=3),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_iterative_attacks_follow_what_is_averaged(attack, toy):
    network, images, labels = toy
    found = {}
    for average in ("logits", "gradients", "directions"):
        model = eot(in_turn(draws_of(network)), 3, average=average)
        found[average] = attack(model, images, labels, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(found["logits"], found["directions"])
    assert not torch.equal(found["gradients"], found["directions"])
