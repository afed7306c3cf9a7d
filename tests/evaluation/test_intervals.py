"""Intervals cover what they promise to cover."""

import itertools

import numpy as np
import pytest
from scipy import stats

from raypurify.evaluation.intervals import mean_interval, paired, paired_mean, wilson


def test_wilson_is_scipys():
    for hits, count in ((0, 10), (3, 10), (10, 10), (417, 500)):
        expected = stats.binomtest(hits, count).proportion_ci(method="wilson")
        np.testing.assert_allclose(wilson(hits, count), (expected.low, expected.high), atol=1e-6)


@pytest.mark.parametrize(("hits", "count"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_counts_are_refused(hits, count):
    with pytest.raises(ValueError, match=f"{hits} hits of {count}"):
        wilson(hits, count)


def test_p_is_the_exact_binomial_test_of_the_images_that_differ():
    rng = np.random.default_rng(0)
    first, second = rng.random(300) < 0.7, rng.random(300) < 0.6
    won, lost = int((first & ~second).sum()), int((~first & second).sum())
    assert paired(first, second).p == pytest.approx(stats.binomtest(won, won + lost).pvalue, rel=1e-9)
    assert paired(first, first).p == 1
    large = rng.random(20_000) < 0.5
    assert paired(large, ~large).p == pytest.approx(stats.binomtest(int(large.sum()), 20_000).pvalue, rel=1e-9)
    assert paired(first, second).value == pytest.approx(first.mean() - second.mean())
    assert paired(second, first).low == pytest.approx(-paired(first, second).high)


def signs(*counts: int) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of outcomes under three attacks, (3, n) bool: so many attacks more does the first withstand an image."""
    # What both withstand differs from image to image, so that equal differences are not of equal floats.
    both = [k % (4 - abs(n)) for k, n in enumerate(counts)]
    sides = [[b + max(0, sign * n) for b, n in zip(both, counts)] for sign in (1, -1)]
    return tuple(np.array([[attack < k for k in side] for attack in range(3)]) for side in sides)


@pytest.mark.parametrize(
    ("counts", "value", "p"),
    [
        ([1] * 20, 1 / 3, 2 / 2**20),
        ([-3] * 20, -1, 2 / 2**20),
        ([0] * 20, 0, 1),
        ([2], 2 / 3, 1),
        ([0], 0, 1),
        ([3, -3] * 10, 0, 1),
    ],
)
def test_differences_that_are_all_equal_say_as_much_as_their_number_does(counts, value, p):
    first, second = signs(*counts)
    found, back = paired_mean(first, second), paired_mean(second, first)
    assert found.value == pytest.approx(value)
    assert found.p == back.p == pytest.approx(p, abs=1e-12)
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))


def test_one_image_that_differs_is_no_evidence_and_gives_no_narrow_interval():
    one, other = signs(*[0] * 999, 1)
    found = paired_mean(one, other)
    assert found.p == 1
    assert found.low < 0 < found.high
    assert found.high - found.low > 2 / 1000
    mostly = np.ones((3, 1000), bool)
    mostly[1, :] = False
    mostly[0, 0] = False
    assert mean_interval(mostly) == wilson(mostly.sum() / 3, 1000)


def test_p_of_a_mean_is_that_of_all_exchanges_and_normal_where_they_are_many():
    rng = np.random.default_rng(2)
    for _ in range(20):
        counts = rng.integers(-3, 4, 10)
        sums = (np.array(list(itertools.product((1, -1), repeat=10))) * counts).sum(1)
        expected = (abs(sums) >= abs(counts.sum())).mean()
        assert paired_mean(*signs(*counts.tolist())).p == pytest.approx(expected)
    counts = rng.choice([-1, 1, 2], 1001, p=[0.52, 0.3, 0.18]).tolist()
    many, fewer = (paired_mean(*signs(*some)).p for some in (counts, [*counts[:-1], 0]))
    assert 1e-4 < many < 1
    assert many == pytest.approx(fewer, rel=0.2)


@pytest.mark.parametrize("count", [1, 20, 5000])
def test_intervals_where_nothing_varies_have_a_width_and_stay_within_what_can_be(count):
    all_, none = np.ones((2, count), bool), np.zeros((2, count), bool)
    assert mean_interval(all_) == wilson(count, count)
    assert mean_interval(none) == wilson(0, count)
    for one, two in ((all_, none), (none, none)):
        single, mean = paired(one[0], two[0]), paired_mean(one, two)
        assert -1 <= single.low <= single.value <= single.high <= 1
        assert (single.low, single.high) == pytest.approx((mean.low, mean.high))
        assert single.p == pytest.approx(mean.p)
    assert wilson(np.int64(3_000_000), np.int64(4_000_000)) == wilson(3_000_000, 4_000_000)


@pytest.mark.parametrize("shapes", [((0,), (0,)), ((3,), (1,)), ((2, 3), (2, 3))])
def test_outcomes_that_are_not_of_the_same_images_are_refused(shapes):
    first, second = (np.ones(shape, bool) for shape in shapes)
    with pytest.raises(ValueError, match="not of the same images"):
        paired(first, second)
    means = [one[None] if one.ndim == 1 else one[0] for one in (first, second)]
    with pytest.raises(ValueError, match="not of the same images"):
        paired_mean(*means)


def test_paired_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(1)
    runs, inside, inside_mean, inside_one = 1500, 0, 0, 0
    for _ in range(runs):
        hard = rng.random(150)  # what makes an image hard for both
        first, second = ((rng.random((4, 150)) + hard) / 2 < edge for edge in (0.6, 0.5))
        truth = _truth(0.6) - _truth(0.5)
        one, mean = paired(first[0], second[0]), paired_mean(first, second)
        inside += one.low <= truth <= one.high
        inside_mean += mean.low <= truth <= mean.high
        low, high = mean_interval(first)
        inside_one += low <= _truth(0.6) <= high
    assert 0.935 < inside / runs < 0.975
    assert 0.93 < inside_mean / runs < 0.97
    assert 0.93 < inside_one / runs < 0.97


def _truth(edge: float) -> float:
    """P((U + V) / 2 < edge) for uniform U and V, at and above one half."""
    return 1 - 2 * (1 - edge) ** 2
