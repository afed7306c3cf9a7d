"""What is DeepFool's own; the contract that it shares with the others is tested in test_attacks.py."""

import math

import pytest
import torch

from raypurify.attacks import DeepFool
from raypurify.attacks.budget import NORMS, eight_bit, project, size
from raypurify.attacks.losses import margin
from raypurify.errors import ConfigError

NO_BUDGET = math.inf


def distances(weight, images, labels, dual):
    """Of each image to the nearest border of the linear classifier, in the norm whose dual norm is given."""
    logits = images.flatten(1) @ weight.T
    slopes = torch.linalg.vector_norm(weight[None] - weight[labels][:, None], dual, dim=2)
    border = (logits.gather(1, labels[:, None]) - logits) / slopes
    return border.masked_fill(border.isnan(), math.inf).amin(1)


@pytest.mark.parametrize(("norm", "dual"), [("l2", 2), ("linf", 1)])
def test_one_step_is_the_distance_to_the_nearest_border_of_a_linear_classifier(norm, dual, linear):
    network, images, labels, weight = linear
    found = DeepFool(eps=NO_BUDGET, norm=norm, steps=1, overshoot=0.02, eight_bit=False)(network, images, labels)
    assert (margin(network(found), labels) > 0).all()
    expected = 1.02 * (distances(weight, images, labels, dual) + 1e-4)
    torch.testing.assert_close(size(found - images, images, norm), expected, rtol=1e-4, atol=1e-6)


def test_every_image_stops_where_it_is_fooled(linear):
    network, images, labels, _ = linear
    seen = []

    def counting(x):
        if x.requires_grad:
            seen.append(len(x))
        # Curved, so that one linearised step is not enough for all.
        return network(x).sinh()

    labels = counting(images).argmax(1)
    found = DeepFool(eps=NO_BUDGET, overshoot=1e-3)(counting, images, labels)
    assert (margin(network(found), labels) > 0).all()
    assert seen[0] == len(images)
    assert seen == sorted(seen, reverse=True)
    assert len(set(seen)) > 2
    assert len(seen) < 50


def test_an_image_that_is_misclassified_comes_back_as_it_is(linear):
    network, images, labels, _ = linear
    wrong = labels.clone()
    wrong[::2] = (wrong[::2] + 1) % 4
    found = DeepFool(eps=NO_BUDGET)(network, images, wrong)
    assert torch.equal(found[::2], images[::2])
    assert not (found[1::2] == images[1::2]).flatten(1).all(1).any()


@pytest.mark.parametrize("norm", NORMS)
def test_what_is_longer_than_the_budget_is_cut_to_it(norm, linear):
    network, images, labels, _ = linear
    whole = DeepFool(eps=NO_BUDGET, norm=norm)(network, images, labels)
    sizes = size(whole - images, images, norm)
    eps = sizes.median().item()
    found = DeepFool(eps=eps, norm=norm)(network, images, labels)
    inside = sizes <= eps
    assert torch.equal(found[inside], whole[inside])
    torch.testing.assert_close(found[~inside], images[~inside] + project(whole - images, images, eps, norm)[~inside])
    assert (margin(network(found), labels) > 0).tolist() == inside.tolist()


def test_only_the_likeliest_classes_are_compared(linear):
    network, images, labels, weight = linear
    found = DeepFool(eps=NO_BUDGET, classes=2, steps=1, eight_bit=False)(network, images, labels)
    second = network(images).topk(2).indices[:, 1]
    assert torch.equal(network(found).topk(2).indices.sort(1).values, torch.stack([labels, second], 1).sort(1).values)
    lengths, shortest = size(found - images, images, "l2"), distances(weight, images, labels, 2)
    assert (lengths > 1.02 * shortest).all()


def test_a_success_still_is_one_in_a_file_of_8_bits(victim, batch):
    images, labels = batch[0][:8], batch[1][:8]
    assert (margin(victim(images), labels) <= 0).all()
    stored = eight_bit(DeepFool(eps=NO_BUDGET, steps=100)(victim, images, labels))
    assert (margin(victim(stored), labels) > 0).all()
    published = DeepFool(eps=NO_BUDGET, steps=100, eight_bit=False)(victim, images, labels)
    assert (margin(victim(published), labels) > 0).all()
    assert (margin(victim(eight_bit(published)), labels) > 0).float().mean() < 0.5


def test_filled_it_goes_on_along_its_direction(linear):
    network, images, labels, _ = linear
    short, filled = (
        DeepFool(eps=0.3, steps=1, eight_bit=False, fill=fill)(network, images, labels) for fill in (False, True)
    )
    assert (size(short - images, images, "l2") < 0.299).any()
    torch.testing.assert_close(size(filled - images, images, "l2"), torch.full((len(images),), 0.3))
    cosines = torch.cosine_similarity((short - images).flatten(1), (filled - images).flatten(1))
    torch.testing.assert_close(cosines, torch.ones(len(images)), rtol=0, atol=1e-4)


def test_a_model_without_slope_leaves_the_images():
    images = eight_bit(torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)))

    def flat(x):
        return torch.tensor([1.0, 0.0]) + 0 * x.sum((1, 2, 3))[:, None]

    assert torch.equal(DeepFool(eps=1.0)(flat, images, torch.zeros(2, dtype=torch.long)), images)


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="classes=1"):
        DeepFool(eps=1.0, classes=1)
    with pytest.raises(ConfigError, match="overshoot=-1"):
        DeepFool(eps=1.0, overshoot=-1)
    with pytest.raises(ConfigError, match="eps=nan"):
        DeepFool(eps=math.nan)
