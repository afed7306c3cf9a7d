"""k-means over blocks: the same bits however the rows are cut, ordered and held, and scikit-learn's clusters."""

import math

import numpy as np
import pytest
from sklearn.cluster import KMeans as SklearnKMeans

from raypurify.clusters.blocks import Block, exact_sum, rounded_sum, survey
from raypurify.clusters.candidates import assign, fit_candidates
from raypurify.clusters.lloyd import Scorer, Step, nearest, stack
from raypurify.clusters.seeding import Race, draw_starts
from raypurify.errors import DataError

hypothesis = pytest.importorskip("hypothesis")
given, settings, st = hypothesis.given, hypothesis.settings, hypothesis.strategies


def gaussians(n=600, dim=12, clusters=5, spread=1.0, offset=0.0, seed=0, dtype=np.float32) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = 2 * rng.normal(size=(clusters, dim))
    return (offset + centres[rng.integers(clusters, size=n)] + spread * rng.normal(size=(n, dim))).astype(dtype)


def over(latents, cuts=(), order=None, keep=False):
    """each_block over rows in another order, cut at some places; the rows keep their numbers."""
    order = np.arange(len(latents)) if order is None else order
    blocks = [Block(latents[part], part, keep) for part in np.split(order, cuts) if len(part)]
    return lambda look: [look(block) for block in reversed(blocks)]


def all_of(each_block, **settings):
    frame, candidates = fit_candidates(each_block, range(1, 7), **settings)
    return [(candidate.inertia, *assign(each_block, frame, candidate.centroids)) for candidate in candidates]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_blocks_and_order_change_no_bit(offset, dtype, monkeypatch):
    latents = gaussians(offset=offset, dtype=dtype)
    expected = all_of(over(latents, keep=True))
    rng = np.random.default_rng(0)
    for cuts, order, rows in [
        ([1, 7, 300], None, 1 << 10),
        ([200, 400], rng.permutation(600), 1 << 10),
        (range(50, 600, 50), rng.permutation(600), 7),
    ]:
        monkeypatch.setattr("raypurify.clusters.blocks._ROWS", rows)
        monkeypatch.setattr("raypurify.clusters.blocks._CHUNK", 1)
        found = all_of(over(latents, cuts, order))
        for (inertia, *arrays), (other, *others) in zip(expected, found):
            assert inertia == other
            for array, same in zip(arrays, others):
                np.testing.assert_array_equal(array, same)


def test_ties_are_broken_the_same_way_in_every_block(monkeypatch):
    # Few different values on a grid: most rows are as far from one centroid as from another.
    latents = np.random.default_rng(0).integers(0, 3, size=(400, 3)).astype(np.float32)
    expected = all_of(over(latents, keep=True), init="random")
    monkeypatch.setattr("raypurify.clusters.blocks._ROWS", 3)
    monkeypatch.setattr("raypurify.clusters.blocks._CHUNK", 1)
    found = all_of(over(latents, [10, 11, 200]), init="random")
    for (inertia, _, labels, _), (other, _, same, _) in zip(expected, found):
        assert inertia == other
        np.testing.assert_array_equal(labels, same)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_labels_are_the_exact_nearest_where_scores_cannot_tell(dtype):
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(300, 40)).astype(dtype)
    latents[100:200] = latents[:100] * (1 + 1e-6)
    [block] = over(latents)(lambda block: block)
    frame = survey(lambda look: [look(block)])
    # Centroids that differ in the last digits of float32, and twice the same.
    points = np.concatenate([latents[:3], latents[:3] + 1e-7, latents[:3]]).astype(np.float64)
    points = (points - frame.origin) / frame.step
    [chunk] = block.chunks(frame)
    squares = np.square(chunk.points[:, None].astype(np.longdouble) - points).sum(2)
    found = Scorer(stack({0: points}), latents.dtype).labels(chunk)[0]
    np.testing.assert_array_equal(found, squares.argmin(1))
    np.testing.assert_array_equal(found, nearest(chunk.points, points)[0])
    assert found.max() < 6


def test_a_block_with_memory_counts_what_one_without_counts():
    latents = gaussians()
    kept, bare = over(latents, keep=True), over(latents)
    frame = survey(kept)
    starts = draw_starts(kept, frame, 5, 3, True, 0)
    runs = {(k, r): starts[r][:k] for k in (2, 5) for r in range(3)}
    for turn in range(6):
        of = stack(runs)
        [with_memory], [without] = kept(Step(frame, of)), bare(Step(frame, of))
        np.testing.assert_array_equal(with_memory.counts, without.counts)
        np.testing.assert_array_equal(with_memory.sums, without.sums)
        points = without.sums / without.counts[:, None]
        runs = {run: points[of.places(position)] for position, run in enumerate(of.runs)}
        if turn == 2:
            # Runs end at different times.
            del runs[2, 1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "dim", "k"), [(300, 2, 3), (1000, 20, 9), (5000, 6, 4), (200, 300, 5)])
def test_scikit_learns_lloyd_from_the_same_start(n, dim, k, dtype):
    latents = gaussians(n, dim, clusters=k, dtype=dtype)
    start = latents[:k]
    peer = SklearnKMeans(k, init=start, n_init=1, algorithm="lloyd").fit(latents)
    each_block = over(latents, [n // 3])
    frame, [found] = fit_candidates(each_block, [k], init=start)
    _, labels, centroids = assign(each_block, frame, found.centroids)
    np.testing.assert_array_equal(labels, peer.labels_)
    assert found.inertia == pytest.approx(peer.inertia_, rel=1e-5)
    np.testing.assert_allclose(frame.latents(centroids), peer.cluster_centers_, rtol=1e-4, atol=1e-5)


def test_scikit_learns_answer_to_a_cluster_that_loses_its_rows():
    latents = gaussians()
    start = np.concatenate([latents[:3], [latents[0] + 100], [latents[1] - 200]]).astype(np.float32)
    peer = SklearnKMeans(5, init=start, n_init=1, algorithm="lloyd").fit(latents)
    assert np.bincount(peer.labels_).min() > 0
    each_block = over(latents, [50, 51])
    frame, [found] = fit_candidates(each_block, [5], init=start)
    np.testing.assert_array_equal(assign(each_block, frame, found.centroids)[1], peer.labels_)


def test_candidates_are_as_good_as_scikit_learns():
    latents = gaussians(1500, 16, clusters=12)
    _, candidates = fit_candidates(over(latents, [700]), range(1, 13), n_init=8)
    curve = [candidate.inertia for candidate in candidates]
    peers = [SklearnKMeans(k, n_init=8, random_state=0).fit(latents).inertia_ for k in range(1, 13)]
    assert (np.array(curve) <= 1.04 * np.array(peers)).all()
    assert np.mean(curve) <= 1.005 * np.mean(peers)
    assert [len(candidate.centroids) for candidate in candidates] == list(range(1, 13))


@pytest.mark.parametrize("distinct", [1, 2, 3])
def test_fewer_different_rows_than_clusters(distinct):
    latents = np.repeat(np.eye(3, dtype=np.float32)[:distinct], 5, axis=0)
    for inertia, _, labels, centroids in all_of(over(latents, [4]))[distinct - 1 :]:
        assert inertia == 0
        assert np.bincount(labels).tolist() == [5] * distinct
        assert len(centroids) == distinct
    # Nor do starts that are equal, or far from everything, make clusters without rows.
    start = np.concatenate([latents[:1]] * 4 + [latents[:1] + 9])
    frame, [found] = fit_candidates(over(latents), [5], init=start)
    assert found.inertia == 0
    assert len(assign(over(latents), frame, found.centroids)[2]) == distinct


@pytest.mark.parametrize(("spread", "expected"), [(True, (0, 1 / 10, 9 / 10)), (False, (0, 1 / 2, 1 / 2))])
def test_rows_are_drawn_by_their_squared_distance(spread, expected):
    latents = np.array([[0.0], [1.0], [3.0]], np.float32)
    each_block = over(latents, [1])
    frame = survey(each_block)
    start = (latents[:1] - frame.origin) / frame.step
    race = Race(frame, dict.fromkeys(range(4000), start), {r: 1000 + r for r in range(4000)}, spread, places=1)
    parts = each_block(race)
    drawn = [min((winner.key, winner.number) for part in parts for winner in part[r])[1] for r in range(4000)]
    np.testing.assert_allclose(np.bincount(drawn, minlength=3) / 4000, expected, atol=0.025)


def test_first_rows_are_drawn_evenly_and_none_twice():
    latents = np.arange(4, dtype=np.float32)[:, None]
    frame = survey(over(latents))
    for spread in (True, False):
        starts = draw_starts(over(latents, [2]), frame, 4, 2000, spread, 7)
        drawn = np.array([frame.latents(points)[:, 0] for points in starts]).round().astype(int)
        np.testing.assert_allclose(np.bincount(drawn[:, 0]) / 2000, [0.25] * 4, atol=0.04)
        assert (np.sort(drawn, 1) == range(4)).all()


def test_seeds_and_restarts_differ():
    latents = gaussians()
    frame = survey(over(latents))
    one, two = draw_starts(over(latents), frame, 3, 2, True, 0)
    assert not np.array_equal(one, two)
    assert not np.array_equal(one, draw_starts(over(latents), frame, 3, 1, True, 1)[0])


def test_rows_that_are_not_finite_are_named_by_their_number():
    latents = gaussians()
    latents[[40, 500], 3] = np.nan, np.inf
    with pytest.raises(DataError, match="row 40 is not finite"):
        fit_candidates(over(latents, [300]), [2])


def test_equal_rows_and_a_single_row():
    for latents in (np.full((9, 4), 3.25, np.float32), np.full((1, 4), -1e-30, np.float32), np.zeros((5, 2))):
        each_block = over(latents)
        frame, candidates = fit_candidates(each_block, [1, 2])
        assert [candidate.inertia for candidate in candidates] == [0, 0]
        np.testing.assert_array_equal(frame.latents(candidates[1].centroids), latents[:1])


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e300), max_size=50), st.integers(0, 50))
def test_exact_sum_is_the_correctly_rounded_sum(values, cut):
    total = exact_sum(np.array(values[:cut])) + exact_sum(np.array(values[cut:]))
    assert rounded_sum(total) == math.fsum(values)
