"""What is UAP's own; the contract that it shares with the others is tested in test_attacks.py."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from raypurify.attacks import UAP, Universal
from raypurify.attacks.budget import NORMS, unit_length
from raypurify.errors import ConfigError, DataError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("norm", NORMS)
def test_every_image_gets_the_same_pattern(norm, toy):
    network, _, labels = toy
    images = 0.3 + 0.4 * torch.rand(6, 3, 8, 8, generator=generator())
    delta = (UAP(eps=0.05, norm=norm)(network, images, labels) - images) / unit_length(images, norm)
    torch.testing.assert_close(delta, delta[:1].expand_as(delta), rtol=0, atol=1e-6)
    assert delta[0].abs().max() > 0


def test_learns_by_normalised_steps_along_the_gradient_of_the_mean_loss(toy):
    network, images, labels = toy
    pattern, eps, steps = torch.zeros(1, 3, 8, 8), 0.4, 5
    for _ in range(steps):
        inputs = (images + pattern).clamp(0, 1).requires_grad_()
        cross_entropy(network(inputs), labels, reduction="none").clamp_max(1.5).sum().backward()
        slope = inputs.grad.sum(0, keepdim=True)
        pattern = pattern + 0.25 * eps * slope / slope.norm()
        pattern = pattern * min(1, eps / float(pattern.norm()))
    found = UAP(eps=eps, norm="l2", steps=steps, step_size=0.25 * eps, bound=1.5).learn(network, images, labels)
    torch.testing.assert_close(found.pattern, pattern[0], rtol=1e-3, atol=1e-5)


def test_what_was_learned_misleads_more_than_noise(victim, batch):
    images, labels = batch[0][:16], batch[1][:16]
    adversarial = UAP(eps=12 / 255, steps=30)(victim, images, labels, generator=generator())
    noise = 12 / 255 * torch.randn(images.shape[1:], generator=generator()).sign()
    fooled = (victim(adversarial).argmax(1) != labels).float().mean()
    by_chance = (victim((images + noise).clamp(0, 1)).argmax(1) != labels).float().mean()
    assert fooled > by_chance + 0.2


def test_the_default_step_gets_to_the_border_of_the_ball(victim, batch):
    images, labels, eps = batch[0][:32], batch[1][:32], 8 / 255
    steps = {"steps": 24, "batch_size": 16}
    attack, short = UAP(eps=eps, **steps), UAP(eps=eps, step_size=2.5 * eps / 24, **steps)
    found, wandered = (one.learn(victim, images, labels, generator=generator()) for one in (attack, short))
    assert found.pattern.abs().max() > 0.99 * eps
    assert found.pattern.abs().mean() > 1.2 * wandered.pattern.abs().mean()
    left, more = ((victim(one(victim, images, labels)).argmax(1) == labels).float().mean() for one in (found, wandered))
    assert left < more


def test_what_is_learned_once_is_added_to_other_images(toy):
    network, images, labels = toy
    attack = UAP(eps=0.1)
    learned = attack.learn(network, images, labels)
    assert torch.equal(attack(network, images, labels), learned(network, images, labels))
    others = images.flip(0) / 2 + 0.25
    torch.testing.assert_close(learned(network, others, labels), others + learned.pattern)


def test_mini_batches_take_every_image_in_turn():
    batches = list(UAP(eps=1.0, steps=6, batch_size=4)._batches(10, torch.device("cpu"), generator()))
    assert [len(some) for some in batches] == [4, 4, 2, 4, 4, 2]
    assert sorted(torch.cat(batches[:3]).tolist()) == list(range(10))


def test_a_stored_pattern_is_kept_to_its_budget_and_shape(toy):
    network, images, labels = toy
    adversarial = Universal(torch.ones(3, 8, 8), eps=0.1)(network, images, labels)
    torch.testing.assert_close(adversarial, (images + 0.1).clamp(0, 1))
    with pytest.raises(DataError, match=r"\(3, 8, 8\), the pattern was learned for \(3, 4, 4\)"):
        Universal(torch.ones(3, 4, 4), eps=0.1)(network, images, labels)


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="batch_size=0"):
        UAP(eps=0.1, batch_size=0)
    for name in ("step_size", "bound"):
        with pytest.raises(ConfigError, match=f"{name}=-1"):
            UAP(eps=0.1, **{name: -1})
