"""What is MIM's own; the contract that it shares with the others is tested in test_attacks.py."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from raypurify.attacks import BIM, MIM
from raypurify.attacks.budget import NORMS


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_follows_the_recursion_of_dong_et_al(norm, toy):
    network, images, labels = toy
    expected, velocity, eps, steps = images.clone(), torch.zeros_like(images), 0.03, 4
    for _ in range(steps):
        inputs = expected.clone().requires_grad_()
        cross_entropy(network(inputs), labels, reduction="sum").backward()
        velocity = 0.9 * velocity + inputs.grad / inputs.grad.abs().sum((1, 2, 3), keepdim=True)
        if norm == "linf":
            expected = (expected + eps / steps * velocity.sign()).clamp(images - eps, images + eps)
        else:
            expected = expected + eps / steps * velocity / velocity.flatten(1).norm(dim=1)[:, None, None, None]
        expected = expected.clamp(0, 1)
    found = MIM(eps=eps, norm=norm, steps=steps, step_size=eps / steps, momentum=0.9)(network, images, labels)
    # Rounding may turn the sign of a slope that is all but zero.
    assert ((found - expected).abs() < 1e-6).double().mean() > 0.99


@pytest.mark.parametrize("norm", NORMS)
def test_without_momentum_it_is_bim(norm, toy):
    network, images, labels = toy
    found = MIM(eps=0.03, norm=norm, momentum=0)(network, images, labels)
    assert torch.equal(found, BIM(eps=0.03, norm=norm)(network, images, labels))


def test_a_gradient_that_underflows_when_squared_is_followed(toy):
    images = 0.3 + 0.4 * toy[1]

    def faint(x):
        return 1e-25 * x.flatten(1)

    found = MIM(eps=0.1, norm="l2")(faint, images, torch.zeros(len(images), dtype=torch.long))
    torch.testing.assert_close((found - images).flatten(1).norm(dim=1), torch.full((len(images),), 0.1))
