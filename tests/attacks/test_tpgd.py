import math

import pytest
import torch
from torch.nn.functional import kl_div, log_softmax, softmax

from raypurify.attacks import PGD, TPGD
from raypurify.attacks.budget import NORMS, size
from raypurify.attacks.tpgd import divergence_from
from raypurify.errors import ConfigError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def divergence(network, images, perturbed):
    with torch.no_grad():
        return divergence_from(network(images))(network(perturbed), None)


def test_the_loss_is_the_divergence_of_the_perturbed_from_the_clean_prediction():
    clean, perturbed = torch.randn(2, 5, 7, generator=generator()).double()
    p, q = softmax(clean, 1), softmax(perturbed, 1)
    expected = (p * (p / q).log()).sum(1)
    torch.testing.assert_close(divergence_from(clean)(perturbed, None), expected)
    assert (divergence_from(clean)(clean, None).abs() < 1e-12).all()


def test_follows_the_recursion_of_trades(toy):
    network, images, labels = toy
    eps, step_size, steps = 0.031, 0.007, 4
    clean = softmax(network(images), 1).detach()
    expected = (images + 0.001 * torch.randn(images.shape, generator=generator())).clamp(0, 1)
    for _ in range(steps):
        inputs = expected.clone().requires_grad_()
        loss = kl_div(log_softmax(network(inputs), 1), clean, reduction="sum")
        expected = expected + step_size * torch.autograd.grad(loss, inputs)[0].sign()
        expected = expected.clamp(images - eps, images + eps).clamp(0, 1)
    attack = TPGD(eps=eps, steps=steps, step_size=step_size)
    found = attack(network, images, labels, generator=generator())
    # Rounding may turn the sign of a slope that is all but zero.
    assert ((found - expected).abs() < 1e-6).double().mean() > 0.99


def test_labels_are_not_used(toy):
    network, images, labels = toy
    attack = TPGD(eps=0.1, norm="l2")
    first = attack(network, images, labels, generator=generator())
    assert torch.equal(first, attack(network, images, (labels + 1) % 4, generator=generator()))


@pytest.mark.parametrize("norm", NORMS)
def test_raises_the_divergence_more_than_a_random_perturbation_of_the_same_size(norm, toy):
    network, images, labels = toy
    attack = TPGD(eps=0.03, norm=norm)
    perturbed = attack(network, images, labels, generator=generator())
    noise = PGD(eps=0.03, norm=norm, steps=1, step_size=0)(network, images, labels, generator=generator())
    assert (divergence(network, images, perturbed) > 5 * divergence(network, images, noise)).all()


def test_the_start_stays_in_a_ball_smaller_than_the_noise(toy):
    network, images, labels = toy
    for norm in NORMS:
        found = TPGD(eps=1e-4, norm=norm, steps=1, step_size=0)(network, images, labels, generator=generator())
        sizes = size(found - images, images, norm)
        assert (sizes <= 1e-4 * (1 + 1e-3)).all()
        assert (sizes > 0.5e-4).all()


def test_reaches_as_much_under_autocast(toy):
    network, images, labels = toy
    attack = TPGD(eps=0.03)
    plain = attack(network, images, labels, generator=generator())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = attack(network, images, labels, generator=generator())
    assert divergence(network, images, rounded).mean() > 0.5 * divergence(network, images, plain).mean()


def test_a_start_without_slope_is_refused():
    for settings in ({"random_start": False}, {"noise": 0.0}):
        with pytest.raises(ConfigError, match="no slope"):
            TPGD(eps=0.1, **settings)
    with pytest.raises(ConfigError, match="noise=nan"):
        TPGD(eps=0.1, noise=math.nan)


def test_of_several_restarts_each_image_keeps_the_highest_divergence(toy):
    network, images, labels = toy
    settings = {"eps": 0.03, "steps": 1, "step_size": 0.01, "noise": 0.02}
    drawn, often = generator(), generator()
    once = [TPGD(**settings)(network, images, labels, generator=drawn) for _ in range(3)]
    best = TPGD(**settings, restarts=3)(network, images, labels, generator=often)
    heights = torch.stack([divergence(network, images, x) for x in once])
    torch.testing.assert_close(divergence(network, images, best), heights.amax(0))
    assert len(set(heights.argmax(0).tolist())) > 1
