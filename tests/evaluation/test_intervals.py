"""Intervals cover what they promise to cover."""

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
    assert paired(first, second).value == pytest.approx(first.mean() - second.mean())
    assert paired(second, first).low == pytest.approx(-paired(first, second).high)


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
