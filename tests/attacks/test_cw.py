"""What is CW's own; the contract that it shares with the others is tested in test_attacks.py."""

import math

import pytest
import torch

from raypurify.attacks import CW, PGD
from raypurify.attacks.budget import NORMS, eight_bit, project, size
from raypurify.attacks.losses import margin
from raypurify.errors import ConfigError

NO_BUDGET = math.inf


@pytest.fixture
def bordered(linear):
    """A linear classifier, images in the middle of the range, the labels it gives, and the distances to its borders."""
    network, images, labels, weight = linear
    logits = network(images)
    others = weight[None] - weight[labels][:, None]
    border = (logits.gather(1, labels[:, None]) - logits) / others.norm(dim=2)
    return network, images, labels, border.masked_fill(border.isnan(), math.inf).amin(1)


def test_the_margin_is_that_of_the_best_other_class():
    logits = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [0.0, 0.0, -1.0]])
    assert margin(logits, torch.tensor([0, 1, 0])).tolist() == [-1.0, 2.0, 0.0]


@pytest.mark.parametrize("eps", [4 / 255, None])
def test_a_search_is_adam_on_the_objective_of_the_paper(eps, toy):
    network, images, _ = toy
    labels = network(images).argmax(1)
    low, high = ((images - eps).clamp_min(0), (images + eps).clamp_max(1)) if eps else (0 * images, 0 * images + 1)
    w = torch.atanh((1 - 1e-6) * ((images - low) / (high - low) * 2 - 1)).requires_grad_()
    optimizer = torch.optim.Adam([w], lr=0.05)
    for _ in range(15):
        expected = low + (high - low) * (w.tanh() + 1) / 2
        logits = network(expected)
        best_other = logits.masked_fill(torch.nn.functional.one_hot(labels, 4).bool(), -math.inf).amax(1)
        own = logits.gather(1, labels[:, None])[:, 0]
        objective = (expected - images).square().sum() + 0.2 * (own - best_other).clamp_min(-9).sum()
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()
    # No margin of this network is 9, so that the last step is what comes back.
    settings = {"searches": 1, "steps": 15, "step_size": 0.05, "initial_const": 0.2, "confidence": 9.0}
    settings |= {"abort_early": False, "eight_bit": False}
    attack = CW(eps=eps, norm="linf", **settings) if eps else CW(eps=NO_BUDGET, **settings)
    torch.testing.assert_close(attack(network, images, labels), expected.detach(), rtol=0, atol=1e-4)


def test_finds_the_distance_to_the_nearest_border_of_a_linear_classifier(bordered):
    network, images, labels, shortest = bordered
    found = CW(eps=NO_BUDGET, steps=1000, step_size=0.001, eight_bit=False)(network, images, labels)
    # Another batch rounds otherwise.
    assert (margin(network(found), labels) > -1e-6).all()
    lengths = size(found - images, images, "l2")
    assert (lengths > shortest * 0.999).all()
    torch.testing.assert_close(lengths, shortest, rtol=0.02, atol=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_finds_every_success_that_fits_the_budget(norm, bordered):
    network, images, labels, _ = bordered
    eps = 1.03 * size(CW(eps=NO_BUDGET)(network, images, labels) - images, images, norm).amax().item()
    assert (margin(network(CW(eps=eps, norm=norm)(network, images, labels)), labels) > 0).all()


def test_without_a_search_a_larger_c_fools_more(bordered):
    """What papers mean that give one c and no budget: success where c times the slope outweighs the distance."""
    network, images, labels, _ = bordered

    def fooled(c):
        attack = CW(eps=NO_BUDGET, searches=1, initial_const=c, steps=200, eight_bit=False)
        return float((margin(network(attack(network, images, labels)), labels) > 0).float().mean())

    few, some, every = (fooled(c) for c in (1e-3, 0.01, 10.0))
    assert few < some < every == 1


def test_under_linf_the_shortest_in_the_ball_is_found_where_a_cut_would_lose_it():
    # The border is crossed fastest along the first value, which the ball bounds: the others have to do the rest.
    weight = torch.tensor([[0.0, 0.0, 0.0], [4.0, 1.0, 1.0]])
    images = torch.full((1, 3, 1, 1), 0.5)

    def network(x):
        return (x.flatten(1) - 0.5) @ weight.T + torch.tensor([0.55, 0.0])

    labels = torch.tensor([0])
    unbounded = CW(eps=NO_BUDGET)(network, images, labels) - images
    assert network(images + project(unbounded, images, 0.1, "linf")).argmax() == 0
    found = CW(eps=0.1, norm="linf", eight_bit=False)(network, images, labels)
    assert network(found).argmax() == 1
    torch.testing.assert_close((found - images).flatten(), torch.tensor([0.1, 0.075, 0.075]), rtol=0.1, atol=0)


@pytest.mark.parametrize("norm", ["l2", "dissimilarity"])
def test_what_is_longer_than_the_budget_is_cut_to_it(norm, bordered):
    network, images, labels, _ = bordered
    whole = CW(eps=NO_BUDGET, norm=norm)(network, images, labels)
    sizes = size(whole - images, images, norm)
    eps = sizes.median().item()
    cut = CW(eps=eps, norm=norm)(network, images, labels)
    inside = sizes <= eps
    assert torch.equal(cut[inside], whole[inside])
    expected = images + project(whole - images, images, eps, norm)
    torch.testing.assert_close(cut[~inside], expected[~inside])
    assert (margin(network(cut), labels) > 0).tolist() == inside.tolist()


def test_confidence_is_by_how_much_the_other_class_must_win(bordered):
    network, images, labels, _ = bordered
    found = CW(eps=NO_BUDGET, confidence=0.5, eight_bit=False)(network, images, labels)
    margins = margin(network(found), labels)
    assert (margins > 0.5).all()
    assert margins.median() < 0.55


def test_an_image_that_is_misclassified_comes_back_as_it_is(bordered):
    network, images, labels, _ = bordered
    wrong = labels.clone()
    wrong[::2] = (wrong[::2] + 1) % 4
    found = CW(eps=NO_BUDGET, steps=20)(network, images, wrong)
    assert torch.equal(found[::2], images[::2])
    assert not (found[1::2] == images[1::2]).flatten(1).all(1).any()


def test_where_nothing_succeeds_the_result_keeps_the_contract():
    images = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def stubborn(x):
        return torch.stack([x.mean((1, 2, 3)) + 100, x.amax((1, 2, 3))], 1)

    for norm in NORMS:
        attack = CW(eps=0.1, norm=norm, searches=2, steps=3)
        found = attack(stubborn, images, torch.zeros(3, dtype=torch.long))
        assert found.isfinite().all()
        assert (size(found - images, images, norm) <= 0.1 * (1 + 1e-5)).all()
        assert not torch.equal(found, images)


def test_values_at_the_ends_of_the_range_do_no_harm():
    images = torch.tensor([0.0, 1.0, 0.5]).reshape(1, 3, 1, 1)
    for norm, eps in (("l2", 1.0), ("linf", 4 / 255), ("linf", 1e-9), ("dissimilarity", NO_BUDGET)):
        found = CW(eps=eps, norm=norm, searches=2, steps=5)(lambda x: 9 * x.flatten(1), images, torch.tensor([1]))
        assert found.isfinite().all()
        assert (size(found - images, images, norm) <= eps * (1 + 1e-5)).all()


def test_needs_less_than_pgd_on_the_same_images(victim, batch):
    images, labels = batch[0][:8], batch[1][:8]
    assert (victim(images).argmax(1) == labels).all()
    # PGD's images are not rounded either.
    found = CW(eps=NO_BUDGET, searches=5, steps=40, initial_const=0.01, eight_bit=False)(victim, images, labels)
    assert (victim(found).argmax(1) != labels).all()
    lengths = size(found - images, images, "l2")
    smallest = torch.full_like(lengths, math.inf)
    for eps in torch.arange(0.3, 0, -0.03).tolist():
        perturbed = PGD(eps=eps, norm="l2", random_start=False)(victim, images, labels)
        smallest[victim(perturbed).argmax(1) != labels] = eps
    # The smallest radius that PGD needs, of ten.
    assert (smallest <= 0.3).all()
    assert (lengths < 1.1 * smallest).all()
    assert lengths.mean() < 0.95 * smallest.mean()


def test_agrees_with_foolbox(victim, batch):
    foolbox = pytest.importorskip("foolbox", reason="foolbox, the other implementation, is not installed")
    images, labels = batch[0][:6], batch[1][:6]
    own = CW(eps=NO_BUDGET, searches=4, steps=30, initial_const=0.01, abort_early=False, eight_bit=False)(
        victim, images, labels
    )
    other = foolbox.attacks.L2CarliniWagnerAttack(
        binary_search_steps=4, steps=30, stepsize=0.01, initial_const=0.01, abort_early=False
    )
    model = foolbox.PyTorchModel(victim, bounds=(0, 1), device="cpu")
    theirs, _, success = other(model, images, labels, epsilons=None)
    assert success.all()
    lengths, expected = (size(x - images, images, "l2") for x in (own, theirs))
    torch.testing.assert_close(lengths, expected, rtol=0.05, atol=0)


def test_a_success_still_is_one_in_a_file_of_8_bits(victim, batch):
    images, labels = batch[0][:8], batch[1][:8]
    assert (margin(victim(images), labels) <= 0).all()
    settings = {"eps": NO_BUDGET, "searches": 2, "steps": 30, "initial_const": 0.1}
    found = CW(**settings)(victim, images, labels)
    assert torch.equal(found, eight_bit(found))
    assert (margin(victim(found), labels) > 0).all()


def test_ending_early_costs_little_length_and_saves_many_passes(bordered):
    network, images, labels, _ = bordered
    seen = []

    def counting(x):
        seen.append(len(x))
        return network(x)

    lengths, passes = [], []
    for early in (True, False):
        seen.clear()
        found = CW(eps=NO_BUDGET, eight_bit=False, abort_early=early)(counting, images, labels)
        lengths.append(size(found - images, images, "l2").mean())
        passes.append(sum(seen))
    assert passes[0] < 0.7 * passes[1]
    assert lengths[0] < 1.05 * lengths[1]


def test_settings_are_checked():
    for name in ("step_size", "initial_const", "confidence"):
        with pytest.raises(ConfigError, match=f"{name}=-1"):
            CW(eps=1.0, **{name: -1})
    for eps in (math.nan, -math.inf):
        with pytest.raises(ConfigError, match="eps="):
            CW(eps=eps)
