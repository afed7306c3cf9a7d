import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf

from raypurify.clusters.blocks import Block
from raypurify.clusters.candidates import assign, fit_candidates
from raypurify.clusters.covariance import moments, moments_of, shrink
from raypurify.clusters.scatter import Scatters, merge_scatters, scatter, scatter_block


@pytest.mark.parametrize("offset", [0, 1e4])
@pytest.mark.parametrize("cuts", [(1,), (5, 6, 200), range(3, 250, 3)])
def test_merged_parts_are_the_whole(cuts, offset):
    rng = np.random.default_rng(0)
    rows = offset + rng.normal(size=(250, 7)) * rng.exponential(size=7) + np.repeat(rng.normal(size=(2, 7)), 125, 0)
    parts = [scatter(part) for part in np.split(rows, cuts)]
    whole, merged = scatter(rows), merge_scatters(parts)
    assert merged.count == whole.count
    assert merged.largest == whole.largest
    for name in ("mean", "second", "third", "fourth"):
        expected = getattr(whole, name)
        np.testing.assert_allclose(getattr(merged, name), expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


def test_offset_does_not_cancel():
    rows = np.random.default_rng(1).normal(size=(1000, 3))
    merged = merge_scatters([scatter(part + 1e6) for part in np.split(rows, 10)])
    np.testing.assert_allclose(merged.second, scatter(rows).second, rtol=1e-6, atol=1e-6)


def test_ledoit_wolf_of_merged_parts_is_scikit_learns():
    rows = np.random.default_rng(2).normal(size=(90, 20)) + 5
    axes, variances, rest = shrink(moments_of(merge_scatters([scatter(part) for part in np.split(rows, 9)])))
    covariance = axes.T @ np.diag(variances) @ axes + rest * (np.eye(20) - axes.T @ axes)
    np.testing.assert_allclose(covariance, ledoit_wolf(rows)[0], rtol=1e-9, atol=1e-12)


def test_the_pass_over_blocks_finds_the_moments_of_every_cluster():
    rng = np.random.default_rng(3)
    latents = (rng.normal(size=(3, 6))[rng.integers(3, size=400)] * 4 + rng.normal(size=(400, 6))).astype(np.float32)
    blocks = [Block(latents[part], part) for part in np.split(np.arange(400), [1, 130])]

    def each_block(look):
        return [look(block) for block in blocks]

    frame, [found] = fit_candidates(each_block, [3])
    rows, labels, _ = assign(each_block, frame, found.centroids)
    of_block = each_block(Scatters(rows, labels, range(3)))
    assert None in of_block[0]
    for k, parts in enumerate(zip(*of_block)):
        merged = moments_of(merge_scatters(part for part in parts if part))
        alone = moments(latents[labels == k])
        np.testing.assert_allclose(merged.spectrum.variances, alone.spectrum.variances, rtol=1e-6)
        assert merged.count == alone.count
        assert merged.fourth == pytest.approx(alone.fourth, rel=1e-6)


def test_a_pass_goes_through_a_block_part_by_part():
    """With memory for one part, and the sums of all."""
    rows = np.random.default_rng(4).normal(size=(2500, 300)).astype(np.float32)
    block = Block(rows, np.arange(2500))
    assert len(list(block.parts())) == 3
    [found] = Scatters(block.numbers, np.zeros(2500, np.int32), range(1))(block)
    for sums in (found, scatter_block(block)):
        assert sums.count == 2500
        np.testing.assert_allclose(sums.second, scatter(rows).second, rtol=1e-6, atol=1e-3)
