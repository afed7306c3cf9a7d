"""What is Square's own; the contract that it shares with the others is tested in test_attacks.py."""

import pytest
import torch

from raypurify.attacks import Square
from raypurify.attacks.budget import NORMS, eight_bit, size
from raypurify.attacks.losses import margin
from raypurify.attacks.square import _bump, _Draw
from raypurify.errors import ConfigError, DataError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def never(x):
    """A classifier that cannot be fooled, whose margin still moves: left half against right half."""
    left, right = x.chunk(2, 3)
    return torch.stack([100 + 0 * x.sum((1, 2, 3)), left.sum((1, 2, 3)) - right.sum((1, 2, 3))], 1)


@pytest.mark.parametrize("norm", NORMS)
def test_every_query_is_in_the_ball_and_only_better_ones_are_kept(norm):
    images, labels, eps = torch.rand(3, 3, 10, 12, generator=generator()), torch.zeros(3, dtype=torch.long), 0.05
    asked, best = [], []

    def watched(x):
        asked.append(x)
        return never(x)

    found = Square(eps=eps, norm=norm, queries=80)(watched, images, labels, generator=generator())
    assert len(asked) == 82
    for x in asked[1:]:
        assert (size(x - images, images, norm) <= eps * (1 + 1e-5)).all()
        assert x.min() >= 0
        assert x.max() <= 1
        best.append(margin(never(x), labels))
    torch.testing.assert_close(margin(never(found), labels), torch.stack(best).amax(0))
    assert (margin(never(found), labels) > best[0]).all()


@pytest.mark.parametrize(("norm", "share"), [("linf", 0.8), ("l2", 0.45), ("dissimilarity", 0.45)])
def test_climbs_a_linear_function_much_of_the_way(norm, share):
    images, eps = torch.full((2, 3, 8, 8), 0.5), 0.05
    labels = torch.zeros(2, dtype=torch.long)
    found = Square(eps=eps, norm=norm, queries=600)(never, images, labels, generator=generator())
    gain = never(found)[:, 1] - never(images)[:, 1]
    most = {"linf": 192 * eps, "l2": 192**0.5 * eps, "dissimilarity": 192**0.5 * eps * float(images[0].norm())}[norm]
    assert (gain > share * most).all()
    assert (gain <= most * (1 + 1e-4)).all()


def test_a_change_is_one_square_of_the_scheduled_side_at_the_border_of_the_ball():
    images, eps, attack = torch.full((1, 3, 16, 16), 0.5), 0.05, Square(eps=0.05, queries=1000)
    asked = []

    def watched(x):
        asked.append(x)
        return never(x)

    attack(watched, images, torch.zeros(1, dtype=torch.long), generator=generator())
    torch.testing.assert_close((asked[1] - images).abs(), torch.full_like(images, eps))
    assert torch.equal(asked[1], asked[1][:, :, :1].expand_as(images))
    best, value = asked[1], margin(never(asked[1]), torch.tensor([0]))
    for query, x in enumerate(asked[2:], start=1):
        rows, columns = (x != best)[0].any(0).nonzero().unbind(1)
        if len(rows):
            assert max(rows.max() - rows.min(), columns.max() - columns.min()) < attack.side(query, 16, 16)
        torch.testing.assert_close((x - images).abs(), torch.full_like(images, eps))
        now = margin(never(x), torch.tensor([0]))
        if now > value:
            best, value = x, now


def test_the_side_shrinks_as_published():
    # √(0.8 · 32²) = 28.6, halved in area at the authors' marks.
    attack = Square(eps=1.0, queries=10_000)
    marks = (1, 10, 11, 50, 51, 200, 201, 501, 1001, 2001, 4001, 6001, 8001)
    assert [attack.side(query, 32, 32) for query in marks] == [29, 29, 20, 20, 14, 14, 10, 7, 5, 4, 3, 2, 1]
    rescaled = Square(eps=1.0, queries=1000)
    assert [rescaled.side(query, 32, 32) for query in (1, 2, 6, 21)] == [29, 20, 14, 10]
    assert all(Square(eps=1.0, norm="l2", queries=1000).side(query, 33, 33) % 2 for query in range(1, 1001))
    assert Square(eps=1.0, norm="l2", queries=1000).side(1000, 33, 33) == 3
    assert Square(eps=1.0).side(1, 4, 64) == 4


def test_the_l2_pattern_is_that_of_equation_2():
    # Worked by hand: 1 + 1/4 in the middle of 3 × 3, 1/4 around it; of 1 × 3, the same row.
    torch.testing.assert_close(_bump(3, 3), torch.tensor([[0.25] * 3, [0.25, 1.25, 0.25], [0.25] * 3]).double())
    torch.testing.assert_close(_bump(1, 3), torch.tensor([[0.25, 1.25, 0.25]]).double())
    for side in (1, 3, 7):
        pattern = _Draw(generator(), torch.zeros(1)).pattern(side)
        assert pattern.shape == (side, side)
        torch.testing.assert_close(pattern.norm(), torch.tensor(1.0))


def test_stops_asking_about_an_image_that_is_fooled(linear):
    network, images, labels, _ = linear
    asked = []

    def watched(x):
        # Files are those whose success is confirmed.
        if not torch.equal(x, eight_bit(x)):
            asked.append(len(x))
        return network(x)

    found = Square(eps=0.2, queries=200)(watched, images, labels, generator=generator())
    fooled = margin(network(found), labels) > 0
    assert fooled.any()
    assert asked == sorted(asked, reverse=True)
    assert asked[-1] < len(images)
    wrong = (labels + 1) % 4
    assert torch.equal(Square(eps=0.2)(network, images, wrong), images)


def test_a_loss_for_the_batch_is_refused():
    images, labels = torch.rand(2, 3, 8, 8), torch.zeros(2, dtype=torch.long)
    with pytest.raises(DataError, match=r"loss of each image, and got shape \(\)"):
        Square(eps=0.1)(never, images, labels, loss=lambda logits, labels: logits.sum())


def test_settings_are_checked():
    for area in (0, 1.5, float("nan")):
        with pytest.raises(ConfigError, match="area="):
            Square(eps=0.1, area=area)


def test_of_several_restarts_each_image_keeps_the_best():
    images, labels = torch.rand(4, 3, 8, 8, generator=generator(3)), torch.zeros(4, dtype=torch.long)
    drawn, often = generator(), generator()
    once = [Square(eps=0.05, queries=4)(never, images, labels, generator=drawn) for _ in range(3)]
    best = Square(eps=0.05, queries=4, restarts=3)(never, images, labels, generator=often)
    heights = torch.stack([margin(never(x), labels) for x in once])
    torch.testing.assert_close(margin(never(best), labels), heights.amax(0))
    assert (heights.amax(0) > heights[0]).any()
