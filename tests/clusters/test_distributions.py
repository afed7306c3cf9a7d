import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf

from raypurify.clusters import ClusterDistributions
from raypurify.clusters.covariance import FORMS
from raypurify.errors import BundleError, ConfigError, DataError

every_form = pytest.mark.parametrize("form", FORMS)


def clusters(sizes, dim: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Anisotropic Gaussian clusters of the given sizes, in shuffled order."""
    rng = np.random.default_rng(seed)
    latents = np.concatenate(
        [
            3 * rng.normal(size=dim) + rng.normal(size=(n, dim)) @ (rng.normal(size=(dim, dim)) / np.sqrt(dim))
            for n in sizes
        ]
    )
    labels = np.repeat(np.arange(len(sizes)), sizes)
    order = rng.permutation(len(labels))
    return latents[order].astype(np.float32), labels[order]


def sample_covariance(members: np.ndarray) -> np.ndarray:
    centred = members.astype(np.float64) - members.mean(0, dtype=np.float64)
    return centred.T @ centred / len(members)


def pseudo_inverse(members: np.ndarray) -> np.ndarray:
    cut = max(members.shape) * np.finfo(float).eps
    return np.linalg.pinv(sample_covariance(members), rcond=cut, hermitian=True)


def inverse_ledoit_wolf(members: np.ndarray) -> np.ndarray:
    return np.linalg.inv(ledoit_wolf(members.astype(np.float64))[0])


def mahalanobis(latents, means, precisions) -> np.ndarray:
    offsets = latents.astype(np.float64)[:, None] - np.asarray(means)[None]
    return np.sqrt(np.einsum("nki,kij,nkj->nk", offsets, np.asarray(precisions), offsets).clip(0))


def reference(latents, labels, precision) -> np.ndarray:
    members = [latents[labels == k] for k in range(labels.max() + 1)]
    return mahalanobis(latents, [m.mean(0, dtype=np.float64) for m in members], [precision(m) for m in members])


@pytest.mark.parametrize(
    ("sizes", "dim"),
    [((50, 80, 30), 6), ((5, 9, 40), 12), ((3, 3), 20)],
    ids=["full rank", "mixed", "rank deficient"],
)
class TestAgainstDenseFloat64:
    def test_pinv_is_the_moore_penrose_inverse_of_the_covariance(self, sizes, dim):
        latents, labels = clusters(sizes, dim)
        expected = reference(latents, labels, pseudo_inverse)
        found = ClusterDistributions.fit(latents, labels, form="pinv").distance(latents)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)

    def test_shrinkage_is_scikit_learns_ledoit_wolf(self, sizes, dim):
        latents, labels = clusters(sizes, dim)
        expected = reference(latents, labels, inverse_ledoit_wolf)
        found = ClusterDistributions.fit(latents, labels, form="shrinkage").distance(latents)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("rank", [1, 4, 99])
    def test_low_rank_keeps_leading_axes_and_averages_the_rest(self, sizes, dim, rank):
        def precision(members):
            variances, axes = np.linalg.eigh(ledoit_wolf(members.astype(np.float64))[0])
            keep = min(rank, dim)
            if keep < dim:
                variances[: dim - keep] = variances[: dim - keep].mean()
            return axes @ np.diag(1 / variances) @ axes.T

        latents, labels = clusters(sizes, dim)
        dist = ClusterDistributions.fit(latents, labels, form="low_rank", rank=rank)
        np.testing.assert_allclose(dist.distance(latents), reference(latents, labels, precision), rtol=1e-4, atol=1e-4)
        assert dist.factors.shape[1] <= rank

    @pytest.mark.parametrize("rank", [4, 99])
    def test_ridge_gives_all_clusters_one_size_and_mixes_in_identity(self, sizes, dim, rank):
        latents, labels = clusters(sizes, dim)
        members = [latents[labels == k] for k in range(len(sizes))]
        size = sum(len(m) * np.trace(sample_covariance(m)) for m in members) / len(latents) / dim

        def precision(members):
            variances, axes = np.linalg.eigh(ledoit_wolf(members.astype(np.float64))[0])
            if rank < dim:
                variances[: dim - rank] = variances[: dim - rank].mean()
            flat = size * (0.25 * variances / variances.mean() + 0.75)
            return axes @ np.diag(1 / flat) @ axes.T

        dist = ClusterDistributions.fit(latents, labels, form="ridge", rank=rank)
        np.testing.assert_allclose(dist.distance(latents), reference(latents, labels, precision), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sizes", [(60, 40, 1), (60, 40, 2), (1,) * 9])
def test_ridge_of_tiny_clusters_is_a_ball(sizes):
    latents, labels = clusters(sizes, 5)
    dist = ClusterDistributions.fit(latents, labels)
    assert dist.form == "ridge"
    last = len(sizes) - 1
    assert not dist.factors[last].any()
    radius = np.linalg.norm(latents - latents[labels == last].mean(0), axis=1)
    np.testing.assert_allclose(dist.distance(latents)[:, last], dist.rest[last] * radius, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(dist.nearest(latents)[0][labels == last], last)


@pytest.mark.parametrize("n", [10, 100, 1000])
@pytest.mark.parametrize("dim", [1, 7, 50])
def test_ledoit_wolf_covariance_equals_scikit_learns(n, dim):
    from raypurify.clusters.covariance import moments, shrink

    rng = np.random.default_rng(n + dim)
    rows = rng.normal(size=(n, dim)) * rng.exponential(size=dim) + 2
    axes, variances, rest = shrink(moments(rows))
    covariance = axes.T @ np.diag(variances) @ axes + rest * (np.eye(dim) - axes.T @ axes)
    np.testing.assert_allclose(covariance, ledoit_wolf(rows)[0], rtol=1e-9, atol=1e-12)


def test_distance_is_not_squared():
    # Two points at ±2 on one axis: variance 4, so 1 unit away along it is half a standard deviation.
    dist = ClusterDistributions.fit(np.array([[-2.0], [2.0]]), np.array([0, 0]), form="pinv")
    np.testing.assert_allclose(dist.distance(np.array([[1.0], [6.0]])), [[0.5], [3.0]])


def test_pinv_ignores_directions_without_variance():
    rng = np.random.default_rng(0)
    latents = np.zeros((30, 5), dtype=np.float32)
    latents[:, :2] = rng.normal(size=(30, 2))
    latents[:, 2] = 3 * latents[:, 0] - latents[:, 1]
    dist = ClusterDistributions.fit(latents, np.zeros(30, int), form="pinv")
    assert np.linalg.matrix_rank(dist.factors[0].numpy()) == 2
    # Away from the cluster along dead features 3 and 4 only: no distance, as the formula says.
    np.testing.assert_allclose(dist.distance(latents.mean(0, keepdims=True) + [[0, 0, 0, 7, -9]]), 0, atol=1e-3)


def test_pinv_of_one_image_is_zero_everywhere_and_wins_every_search():
    latents, labels = clusters((40, 1), 5)
    dist = ClusterDistributions.fit(latents, labels, form="pinv")
    np.testing.assert_array_equal(dist.distance(latents)[:, 1], 0)
    np.testing.assert_array_equal(dist.nearest(latents)[0], 1)


@every_form
def test_rounding_of_identical_images_is_not_taken_for_variance(form):
    latents, labels = clusters((40, 6), 5)
    # One image six times, whose latents differ by the last bit of float32, as those of two batches may.
    latents[labels == 1] = np.float32(1000.1)
    up = np.random.default_rng(0).random((6, 5)) < 0.5
    latents[labels == 1] = np.where(up, np.nextafter(np.float32(1000.1), np.float32(2000)), latents[labels == 1])
    dist = ClusterDistributions.fit(latents, labels, form=form)
    assert np.isfinite(dist.distance(latents)).all()
    assert dist.factors.abs().max() < 1e3


@pytest.mark.parametrize("size", [1, 2])
def test_shrinkage_of_tiny_clusters_takes_the_pooled_covariance(size):
    latents, labels = clusters((60, 40, size), 5)
    dist = ClusterDistributions.fit(latents, labels, form="shrinkage")
    means = np.stack([latents[labels == k].mean(0, dtype=np.float64) for k in range(3)])
    pooled = np.linalg.inv(ledoit_wolf(latents - means[labels], assume_centered=True)[0])
    precisions = [inverse_ledoit_wolf(latents[labels == 0]), inverse_ledoit_wolf(latents[labels == 1]), pooled]
    np.testing.assert_allclose(dist.distance(latents), mahalanobis(latents, means, precisions), rtol=1e-4, atol=1e-4)
    # A tiny cluster wins what is close to it, not everything.
    index, _ = dist.nearest(latents)
    assert (index[labels == 2] == 2).all()
    assert (index[labels != 2] != 2).mean() > 0.9


def test_shrinkage_of_one_image_clusters_only_takes_the_covariance_of_all():
    latents, _ = clusters((8,), 3)
    dist = ClusterDistributions.fit(latents, np.arange(8), form="shrinkage")
    precision = inverse_ledoit_wolf(latents)
    np.testing.assert_allclose(
        dist.distance(latents), mahalanobis(latents, latents, [precision] * 8), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_array_equal(dist.nearest(latents)[0], np.arange(8))


@pytest.mark.parametrize("form", ["shrinkage", "low_rank", "ridge"])
def test_nothing_to_estimate_from_is_refused(form):
    with pytest.raises(DataError, match="too few different rows"):
        ClusterDistributions.fit(np.ones((4, 3)), np.array([0, 0, 1, 1]), form=form)


@every_form
def test_nearest_is_the_brute_force_minimum(form, monkeypatch):
    latents, labels = clusters((30, 8, 50, 20, 3), 10)
    dist = ClusterDistributions.fit(latents, labels, form=form, rank=4)
    distances = dist.distance(latents)
    index, value = dist.nearest(latents)
    assert index.dtype == np.int64
    assert value.dtype == np.float32
    np.testing.assert_array_equal(index, distances.argmin(1))
    np.testing.assert_array_equal(value, distances.min(1))
    # Blocks of one cluster and a few rows change the bookkeeping, not the answer.
    monkeypatch.setattr("raypurify.clusters.distributions._BLOCK", 1)
    monkeypatch.setattr("raypurify.clusters.distributions._ROWS", 7)
    np.testing.assert_array_equal(dist.nearest(latents)[0], index)
    np.testing.assert_allclose(dist.nearest(latents)[1], value, rtol=1e-5)
    # float32 sums in another order, over inverse standard deviations that span four decades.
    np.testing.assert_allclose(dist.distance(latents), distances, rtol=1e-3, atol=1e-4)


@every_form
def test_own_distance_is_a_column_of_distance(form):
    latents, labels = clusters((30, 8, 50, 20, 3), 10)
    dist = ClusterDistributions.fit(latents, labels, form=form, rank=4)
    distances = dist.distance(torch.from_numpy(latents))
    for index in (torch.from_numpy(labels), torch.full((len(labels),), 2), torch.arange(len(labels)) % 5):
        own = dist.own_distance(torch.from_numpy(latents), index)
        torch.testing.assert_close(own, distances[torch.arange(len(labels)), index], rtol=1e-4, atol=1e-5)


@every_form
def test_own_distance_gradient_equals_finite_differences(form):
    latents, labels = clusters((30, 8, 50), 6)
    dist = ClusterDistributions.fit(latents, labels, form=form, rank=3).to(dtype=torch.float64)
    rows = torch.from_numpy(latents[:12]).double().requires_grad_()
    index = torch.from_numpy(labels[:12])
    assert torch.autograd.gradcheck(lambda r: dist.own_distance(r, index), rows)


@every_form
def test_own_distance_gradient_is_finite_at_and_near_the_mean(form):
    latents, labels = clusters((30, 8, 50), 6)
    dist = ClusterDistributions.fit(latents, labels, form=form, rank=3)
    index = torch.tensor([0, 1, 2, 0])
    rows = dist.means[index].clone()
    rows[3, 0] += 1e-6
    rows.requires_grad_()
    distance = dist.own_distance(rows, index)
    assert (distance[:3] == 0).all()
    distance.sum().backward()
    assert rows.grad[:3].abs().max() == 0
    assert rows.grad.isfinite().all()
    # |∇MD| is at most the largest inverse standard deviation.
    largest = max(torch.linalg.matrix_norm(dist.factors, ord=2).max(), dist.rest.max())
    assert rows.grad[3].norm() <= largest * 1.001


def test_own_distance_pulls_latents_to_their_cluster():
    latents, labels = clusters((30, 50), 6)
    dist = ClusterDistributions.fit(latents, labels)
    rows, index = torch.from_numpy(latents).requires_grad_(), torch.from_numpy(labels)
    before = dist.own_distance(rows, index)
    (gradient,) = torch.autograd.grad(before.sum(), rows)
    after = dist.own_distance(rows.detach() - 1e-3 * gradient, index)
    assert (after < before).all()


def test_own_distance_under_autocast_stays_float32():
    latents, labels = clusters((30, 50), 6)
    dist = ClusterDistributions.fit(latents, labels)
    rows, index = torch.from_numpy(latents), torch.from_numpy(labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = dist.own_distance(rows, index)
        all_found = dist.distance(rows)
    assert torch.equal(found, dist.own_distance(rows, index))
    assert torch.equal(all_found, dist.distance(rows))


def test_a_small_remainder_keeps_its_digits():
    # A latent that lies on the axes of a cluster of few images: its distance to them must not drown in the remainder's.
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(200, 200)))[0][:, :20]
    latents = (50 + 100 * rng.normal(size=(2000, 20)) @ axes.T + 0.05 * rng.normal(size=(2000, 200))).astype(np.float32)
    labels = np.zeros(2000, int)
    dist = ClusterDistributions.fit(latents, labels, form="low_rank", rank=20)
    variances, vectors = np.linalg.eigh(ledoit_wolf(latents.astype(np.float64))[0])
    variances[:180] = variances[:180].mean()
    precision = vectors @ np.diag(1 / variances) @ vectors.T
    expected = mahalanobis(latents, [latents.mean(0, dtype=np.float64)], [precision])
    np.testing.assert_allclose(dist.distance(latents), expected, rtol=1e-3)


@every_form
def test_torch_and_numpy_agree_and_keep_their_kind(form):
    latents, labels = clusters((30, 8), 6)
    ours = ClusterDistributions.fit(torch.from_numpy(latents), torch.from_numpy(labels), form=form)
    theirs = ClusterDistributions.fit(latents, labels, form=form)
    assert isinstance(ours.distance(torch.from_numpy(latents)), torch.Tensor)
    assert isinstance(theirs.distance(latents), np.ndarray)
    np.testing.assert_array_equal(ours.distance(torch.from_numpy(latents)).numpy(), theirs.distance(latents))
    assert theirs.distance(latents).dtype == np.float32
    index, value = ours.nearest(torch.from_numpy(latents))
    assert (index.dtype, value.dtype) == (torch.int64, torch.float32)
    assert (ours.clusters, ours.dim) == (2, 6)
    np.testing.assert_allclose(ours.means[1].numpy(), latents[labels == 1].mean(0), atol=1e-5)


@every_form
def test_state_survives_safetensors(form, tmp_path):
    from safetensors.torch import load_file, save_file

    latents, labels = clusters((30, 8, 4), 6)
    dist = ClusterDistributions.fit(latents, labels, form=form, rank=3)
    save_file(dist.state(), tmp_path / "clusters.safetensors")
    again = ClusterDistributions.from_state(load_file(tmp_path / "clusters.safetensors"), form=form)
    np.testing.assert_array_equal(again.distance(latents), dist.distance(latents))
    assert again.form == form


def test_broken_states_are_refused():
    state = ClusterDistributions.fit(*clusters((30, 8), 6)).state()
    with pytest.raises(BundleError, match="'rest'"):
        ClusterDistributions.from_state({name: state[name] for name in ("means", "factors")}, form="shrinkage")
    with pytest.raises(BundleError, match=r"means \(2, 5\)"):
        ClusterDistributions.from_state(state | {"means": state["means"][:, :5]}, form="shrinkage")
    with pytest.raises(BundleError, match="'factors' holds values"):
        ClusterDistributions.from_state(state | {"factors": state["factors"] * torch.nan}, form="shrinkage")
    with pytest.raises(BundleError, match="'dense'"):
        ClusterDistributions.from_state(state, form="dense")


def test_nothing_in_nothing_out():
    dist = ClusterDistributions.fit(*clusters((30, 8), 6))
    nothing = torch.zeros(0, 6)
    assert dist.distance(nothing).shape == (0, 2)
    assert dist.nearest(nothing)[0].shape == (0,)
    assert dist.own_distance(nothing, torch.zeros(0, dtype=torch.int64)).shape == (0,)


def test_a_latent_that_is_not_finite_spoils_only_its_own_row():
    latents, labels = clusters((30, 8), 6)
    dist = ClusterDistributions.fit(latents, labels)
    index, value = dist.nearest(latents)
    broken = latents.copy()
    broken[3, 2] = np.nan
    broken_index, broken_value = dist.nearest(broken)
    others = np.arange(len(latents)) != 3
    assert np.isnan(broken_value[3])
    assert 0 <= broken_index[3] < 2
    np.testing.assert_array_equal(broken_index[others], index[others])
    np.testing.assert_array_equal(broken_value[others], value[others])


def test_bad_input_is_named():
    latents, labels = clusters((30, 8), 6)
    with pytest.raises(DataError, match=r"cluster 1 is empty \(labels reach 2\)"):
        ClusterDistributions.fit(latents, labels * 2)
    with pytest.raises(DataError, match="cluster 2 is empty"):
        ClusterDistributions.fit(latents, np.where(labels == 1, 2**60, np.arange(38) % 2))
    with pytest.raises(DataError, match="label -1"):
        ClusterDistributions.fit(latents, labels - 1)
    with pytest.raises(DataError, match=r"labels have shape \(37,\)"):
        ClusterDistributions.fit(latents, labels[1:])
    with pytest.raises(DataError, match="float64"):
        ClusterDistributions.fit(latents, labels.astype(float))
    with pytest.raises(DataError, match="row 5 is not finite"):
        ClusterDistributions.fit(np.where(np.arange(38)[:, None] == 5, np.inf, latents), labels)
    with pytest.raises(DataError, match="nothing to cluster"):
        ClusterDistributions.fit(latents[:0], labels[:0])
    with pytest.raises(ConfigError, match="'full'"):
        ClusterDistributions.fit(latents, labels, form="full")
    with pytest.raises(ConfigError, match="rank=0"):
        ClusterDistributions.fit(latents, labels, form="low_rank", rank=0)
    dist = ClusterDistributions.fit(latents, labels)
    with pytest.raises(DataError, match=r"shape \(38, 5\): expected \(N, 6\)"):
        dist.distance(latents[:, :5])
    with pytest.raises(DataError, match=r"index spans \[0, 2\]: there are 2 clusters"):
        dist.own_distance(torch.from_numpy(latents), torch.arange(38) % 3)
    with pytest.raises(DataError, match=r"index has shape \(3,\)"):
        dist.own_distance(torch.from_numpy(latents), torch.arange(3))


@pytest.mark.gpu
@every_form
def test_the_gpu_agrees_with_the_cpu(form):
    latents, labels = clusters((300, 8, 50), 64)
    dist = ClusterDistributions.fit(latents, labels, form=form, rank=16)
    rows, index = torch.from_numpy(latents), torch.from_numpy(labels)
    on_gpu = dist.to("cuda")
    torch.testing.assert_close(on_gpu.distance(rows.cuda()).cpu(), dist.distance(rows), rtol=1e-4, atol=1e-4)
    own = on_gpu.own_distance(rows.cuda(), index.cuda()).cpu()
    torch.testing.assert_close(own, dist.own_distance(rows, index), rtol=1e-4, atol=1e-4)
