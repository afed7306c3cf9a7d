import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans as SklearnKMeans

from raypurify.clusters import fit_kmeans
from raypurify.errors import ConfigError, DataError


def blobs(k: int = 4, n: int = 60, dim: int = 8, spread: float = 0.3, seed: int = 0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(k, dim)) * 4
    labels = np.repeat(np.arange(k), n)
    return (centres[labels] + spread * rng.normal(size=(k * n, dim))).astype(np.float32), labels


def wcss(latents, km) -> float:
    return float(((latents.astype(np.float64) - km.centroids[km.labels]) ** 2).sum())


@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_recovers_planted_clusters(init):
    latents, labels = blobs()
    km = fit_kmeans(latents, 4, init=init, n_init=10)
    pairs = set(zip(km.labels.tolist(), labels.tolist()))
    assert len(pairs) == 4
    np.testing.assert_allclose(wcss(latents, km), km.inertia, rtol=1e-5)
    for cluster in range(4):
        np.testing.assert_allclose(km.centroids[cluster], latents[km.labels == cluster].mean(0), atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_same_start_as_scikit_learn_gives_the_same_clusters(dtype):
    latents = np.random.default_rng(1).normal(size=(500, 16)).astype(dtype)
    start = latents[:7]
    peer = SklearnKMeans(7, init=start, n_init=1, algorithm="lloyd", tol=1e-4, max_iter=300).fit(latents)
    km = fit_kmeans(latents, 7, init=start)
    np.testing.assert_array_equal(km.labels, peer.labels_)
    np.testing.assert_allclose(km.centroids, peer.cluster_centers_, rtol=1e-5, atol=1e-6)
    assert km.inertia == pytest.approx(peer.inertia_)
    assert km.centroids.dtype == dtype


def test_every_row_is_with_its_nearest_centroid():
    latents, _ = blobs(k=6, spread=2.0)
    km = fit_kmeans(latents, 6)
    distances = ((latents[:, None] - km.centroids[None]) ** 2).sum(2)
    np.testing.assert_array_equal(distances.argmin(1), km.labels)


def test_more_starts_and_seeds():
    latents = np.random.default_rng(2).normal(size=(300, 5)).astype(np.float32)
    one, many = fit_kmeans(latents, 12, n_init=1, seed=3), fit_kmeans(latents, 12, n_init=20, seed=3)
    assert many.inertia <= one.inertia
    again = fit_kmeans(latents, 12, n_init=1, seed=3)
    np.testing.assert_array_equal(one.labels, again.labels)
    np.testing.assert_array_equal(one.centroids, again.centroids)


def test_torch_in_torch_out():
    latents, _ = blobs()
    ours, theirs = fit_kmeans(torch.from_numpy(latents), 4), fit_kmeans(latents, 4)
    assert isinstance(ours.centroids, torch.Tensor)
    assert ours.labels.dtype == torch.int64
    np.testing.assert_array_equal(ours.labels.numpy(), theirs.labels)
    np.testing.assert_array_equal(ours.centroids.numpy(), theirs.centroids)
    assert isinstance(theirs.centroids, np.ndarray)
    assert isinstance(theirs.inertia, float)
    started = fit_kmeans(torch.from_numpy(latents).bfloat16(), 4, init=ours.centroids)
    assert started.centroids.dtype == torch.float32


def test_one_cluster_is_the_mean():
    latents, _ = blobs()
    km = fit_kmeans(latents, 1)
    np.testing.assert_allclose(km.centroids[0], latents.mean(0), atol=1e-5)
    assert km.inertia == pytest.approx(((latents - latents.mean(0)) ** 2).sum(), rel=1e-4)


def test_as_many_clusters_as_rows():
    latents = np.random.default_rng(4).normal(size=(5, 3)).astype(np.float32)
    km = fit_kmeans(latents, 5)
    assert sorted(km.labels.tolist()) == [0, 1, 2, 3, 4]
    assert km.inertia == pytest.approx(0, abs=1e-6)


def test_fewer_distinct_rows_than_clusters_leave_no_cluster_empty(recwarn):
    latents = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    km = fit_kmeans(latents, 8)
    assert km.centroids.shape == (3, 3)
    assert sorted(np.bincount(km.labels).tolist()) == [4, 4, 4]
    np.testing.assert_array_equal(km.centroids[km.labels], latents)
    assert km.inertia == pytest.approx(0, abs=1e-12)
    assert not len(recwarn)


def test_bad_input_is_named():
    latents, _ = blobs()
    broken = latents.copy()
    broken[17, 3], broken[40] = np.nan, np.inf
    with pytest.raises(DataError, match=r"row 17 is not finite \(2 such rows of 240\)"):
        fit_kmeans(broken, 3)
    with pytest.raises(DataError, match="k=241 clusters asked of 240 latents"):
        fit_kmeans(latents, 241)
    with pytest.raises(DataError, match=r"shape \(0, 8\): there is nothing"):
        fit_kmeans(latents[:0], 1)
    with pytest.raises(DataError, match=r"shape \(8,\)"):
        fit_kmeans(latents[0], 1)
    with pytest.raises(DataError, match=r"init has shape \(3, 8\): expected \(4, 8\)"):
        fit_kmeans(latents, 4, init=latents[:3])
    with pytest.raises(DataError, match="not finite"):
        fit_kmeans(latents, 2, init=np.full((2, 8), np.nan))
    with pytest.raises(ConfigError, match="k=0"):
        fit_kmeans(latents, 0)
    with pytest.raises(ConfigError, match="init='kmeans'"):
        fit_kmeans(latents, 2, init="kmeans")
