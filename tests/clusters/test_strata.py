"""Strata of STL: PCA, k-means over all, and the vote, against scikit-learn and by their properties."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier

from raypurify.clusters.blocks import Block
from raypurify.clusters.neighbours import majority, nearest_rows
from raypurify.clusters.strata import Strata, fit_strata, halved
from raypurify.config import StrataSettings
from raypurify.errors import BundleError, DataError

SETTINGS = StrataSettings(count=3, components=6, neighbours=5, keep=200, n_init=2)


def latents(n: int = 600, dim: int = 12, k: int = 3, spread: float = 1.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = 3 * rng.normal(size=(k, dim))
    return (centres[rng.integers(k, size=n)] + spread * rng.normal(size=(n, dim)) + 5).astype(np.float32)


@pytest.fixture(scope="module")
def fitted():
    return fit_strata(latents(), SETTINGS, seed=3)


def in_blocks(rows: np.ndarray, cuts: list[int], order: np.random.Generator):
    """Passes over parts of rows that come in any order, each block's rows in any order too."""
    parts = np.split(order.permutation(len(rows)), cuts)
    return lambda look: [look(Block(rows[part], part)) for part in parts]


class TestNearestRows:
    @given(
        n=st.integers(1, 3000),
        queries=st.integers(0, 6),
        dim=st.integers(1, 9),
        count=st.integers(1, 20),
        seed=st.integers(0, 99),
    )
    @settings(max_examples=40, deadline=None)
    def test_are_those_of_all_distances(self, n, queries, dim, count, seed):
        generator = torch.Generator().manual_seed(seed)
        rows, wanted = torch.randn(n, dim, generator=generator), torch.randn(queries, dim, generator=generator)
        count = min(count, n)
        found = nearest_rows(wanted, rows, count)
        all_of_them = torch.linalg.vector_norm(wanted[:, None].double() - rows.double(), dim=2)
        assert found.shape == (queries, count)
        torch.testing.assert_close(all_of_them.gather(1, found), all_of_them.sort(1).values[:, :count])
        assert all(len(set(row)) == count for row in found.tolist())

    def test_do_not_depend_on_tiles(self, monkeypatch):
        generator = torch.Generator().manual_seed(0)
        rows, queries = torch.randn(5000, 7, generator=generator), torch.randn(70, 7, generator=generator)
        whole = nearest_rows(queries, rows, 15)
        monkeypatch.setattr("raypurify.clusters.neighbours._PAIRS", 1 << 10)
        monkeypatch.setattr("raypurify.clusters.neighbours.QUERIES", 16)
        assert torch.equal(nearest_rows(queries, rows, 15), whole)

    def test_near_rows_far_from_the_origin_are_told_apart(self):
        rows = 1000 + torch.tensor([[0.0], [0.25], [0.5]])
        assert nearest_rows(torch.tensor([[1000.2]]), rows, 3).tolist() == [[1, 0, 2]]


@given(st.lists(st.lists(st.integers(0, 3), min_size=5, max_size=5), min_size=1, max_size=5))
def test_majority_is_the_most_frequent_and_then_the_nearest(votes):
    for row, chosen in zip(votes, majority(torch.tensor(votes), 4).tolist()):
        most = max(row.count(v) for v in row)
        assert chosen == next(v for v in row if row.count(v) == most)


class TestVote:
    def test_is_that_of_scikit_learn(self, fitted):
        strata = fitted.strata
        new = torch.from_numpy(latents(200, spread=4.0, seed=9))
        points = strata.project(new)
        peer = KNeighborsClassifier(5, algorithm="brute").fit(strata.features.numpy(), strata.labels.numpy())
        votes = np.sort(peer.predict_proba(points.numpy()), 1)
        stratum, distance = strata.vote(new)
        clear = votes[:, -1] > votes[:, -2]
        assert clear.mean() > 0.8
        np.testing.assert_array_equal(stratum[clear].numpy(), peer.predict(points.numpy())[clear])
        np.testing.assert_allclose(distance, peer.kneighbors(points.numpy())[0].mean(1), rtol=1e-4)

    def test_no_images_have_no_votes(self, fitted):
        stratum, distance = fitted.strata.vote(torch.empty(0, 12))
        assert (stratum.shape, distance.shape) == ((0,), (0,))

    def test_a_latent_of_another_length_is_refused(self, fitted):
        with pytest.raises(DataError, match=r"expected \(N, 12\)"):
            fitted.strata.vote(torch.zeros(2, 11))


class TestDistances:
    @pytest.mark.parametrize("name", ["distance", "distances"])
    def test_their_gradient_is_that_of_differences(self, fitted, name):
        point = torch.from_numpy(latents(1, seed=4)).requires_grad_()
        measured = getattr(fitted.strata, name)(point).sum()
        (gradient,) = torch.autograd.grad(measured, point)
        step = 1e-2 * gradient / gradient.norm()
        with torch.no_grad():
            after, before = (getattr(fitted.strata, name)(point + s).sum() for s in (step, -step))
        assert float(after - before) == pytest.approx(float(2e-2 * gradient.norm()), rel=2e-2)

    def test_at_a_centroid_the_gradient_is_finite(self, fitted):
        strata = fitted.strata
        point = (strata.mean + strata.centroids[:1] @ strata.components).requires_grad_()
        (gradient,) = torch.autograd.grad(strata.distances(point)[0, 0], point)
        assert gradient.isfinite().all()

    def test_the_nearest_centroid_is_the_stratum_of_a_training_row(self, fitted):
        nearest = fitted.strata.distances(torch.from_numpy(latents())).argmin(1)
        assert (nearest.numpy() == fitted.labels).mean() > 0.999


class TestFit:
    def test_components_are_those_of_scikit_learn(self, fitted):
        rows = latents()
        peer = PCA(6).fit(rows.astype(np.float64))
        ours = fitted.strata.components.numpy()
        np.testing.assert_allclose(np.abs((ours * peer.components_).sum(1)), 1, atol=1e-5)
        np.testing.assert_allclose(fitted.strata.mean, peer.mean_, rtol=1e-6)
        assert (ours[np.arange(6), np.abs(ours).argmax(1)] > 0).all()

    @given(
        cuts=st.lists(st.integers(1, 599), max_size=4, unique=True).map(sorted),
        seed=st.integers(0, 50),
    )
    @settings(max_examples=8, deadline=None)
    def test_blocks_and_the_order_of_rows_change_nothing(self, fitted, cuts, seed):
        again = fit_strata(in_blocks(latents(), cuts, np.random.default_rng(seed)), SETTINGS, seed=3)
        np.testing.assert_array_equal(again.rows, np.arange(600))
        np.testing.assert_array_equal(again.labels, fitted.labels)
        assert again.agreement == fitted.agreement
        for name, part in fitted.strata.state().items():
            torch.testing.assert_close(again.strata.state()[name], part, rtol=1e-3, atol=1e-4)

    def test_the_same_seed_gives_the_same_bytes(self, fitted):
        again = fit_strata(latents(), SETTINGS, seed=3)
        assert all(torch.equal(again.strata.state()[name], part) for name, part in fitted.strata.state().items())
        other = fit_strata(latents(), SETTINGS, seed=4)
        assert not torch.equal(other.strata.features, fitted.strata.features)

    def test_kept_features_are_those_of_their_rows(self, fitted):
        strata, rows = fitted.strata, torch.from_numpy(latents())
        assert len(strata.features) == 200
        points, labels = strata.project(rows), torch.from_numpy(fitted.labels)
        at = nearest_rows(strata.features, points, 1)[:, 0]
        torch.testing.assert_close(points[at], strata.features, rtol=1e-3, atol=1e-2)
        assert torch.equal(labels[at], strata.labels)
        # Ascending: as the rows are, and none twice.
        assert (at.diff() > 0).all()

    def test_agreement_is_measured_among_all(self):
        rows = latents(spread=3.0)
        wanted = SETTINGS.model_copy(update={"keep": 30})
        found = fit_strata(rows, wanted)
        order = np.random.default_rng((0, 1)).permutation(600)
        everything = fit_strata(rows, SETTINGS.model_copy(update={"keep": 600}))
        others = torch.from_numpy(rows[order[30:]])
        share = (found.strata.vote(others)[0] == everything.strata.vote(others)[0]).double().mean()
        assert found.agreement == pytest.approx(float(share), abs=0.01)
        assert found.agreement < 1
        assert everything.agreement == 1

    def test_few_different_latents_give_fewer_strata(self):
        found = fit_strata(np.repeat(np.eye(2, 4, dtype=np.float32), 8, 0), SETTINGS)
        assert (found.strata.count, found.strata.components.shape) == (2, (1, 4))

    @pytest.mark.parametrize(
        ("rows", "said"),
        [
            (np.ones((9, 4), np.float32), "are equal"),
            (np.full((9, 4), np.nan, np.float32), "row 0 is not finite"),
            (np.eye(4, dtype=np.float32), "lower strata.neighbours"),
            (np.ones(4, np.float32), r"expected \(N, d\)"),
        ],
    )
    def test_what_cannot_be_fitted_is_refused(self, rows, said):
        with pytest.raises(DataError, match=said):
            fit_strata(rows, SETTINGS)

    def test_more_strata_than_latents_are_refused(self):
        with pytest.raises(DataError, match="lower strata"):
            fit_strata(np.eye(5, dtype=np.float32), SETTINGS.model_copy(update={"count": 6}))


class TestState:
    def test_survives_the_way_to_disk(self, fitted):
        state = fitted.strata.state()
        state["features"] = halved(state["features"])
        assert state["features"].dtype == torch.float16
        back = Strata.from_state(state, 5)
        assert all(torch.equal(getattr(back, name), getattr(fitted.strata, name)) for name in state)
        assert back.to("cpu").vote(torch.from_numpy(latents(5)))[0].dtype == torch.int64

    def test_features_that_float16_cannot_hold_stay_as_they_are(self):
        found = fit_strata(1e6 * latents(), SETTINGS)
        assert halved(found.strata.features).dtype == torch.float32

    @pytest.mark.parametrize(
        ("name", "change", "said"),
        [
            ("mean", lambda t: t[:-1], "do not fit together"),
            ("components", lambda t: t[:0], "do not fit together"),
            ("centroids", lambda t: t[None], "do not fit together"),
            ("features", lambda t: t[1:], "do not fit together"),
            ("features", lambda t: t * torch.nan, "not finite"),
            ("features", lambda t: t.double() * 1e300, "not finite"),
            ("centroids", lambda t: t.int(), "not finite"),
            ("labels", lambda t: t + 1, "labels reach from 1 to 3"),
            ("labels", lambda t: t - 1, "labels reach from -1"),
            ("labels", lambda t: t.float(), "not whole numbers"),
            ("labels", None, "lack the tensor 'labels'"),
        ],
    )
    def test_what_a_bundle_may_not_hold_is_refused(self, fitted, name, change, said):
        state = dict(fitted.strata.state())
        tensor = state.pop(name)
        if change:
            state[name] = change(tensor)
        with pytest.raises(BundleError, match=said):
            Strata.from_state(state, 5)

    @pytest.mark.parametrize("neighbours", [0, 201])
    def test_so_are_neighbours_that_are_not_there(self, fitted, neighbours):
        with pytest.raises(BundleError, match="cannot vote"):
            Strata.from_state(fitted.strata.state(), neighbours)
