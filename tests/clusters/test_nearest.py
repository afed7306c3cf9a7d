"""The search that rules clusters out gives what all distances give, and its bounds are bounds."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from raypurify.clusters import ClusterDistributions
from raypurify.clusters.covariance import FORMS
from raypurify.clusters.nearest import NearestSearch

dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def low_rank(clusters=60, dim=48, rank=6, shared=0.0, spread=1.0, offset=0.0, scale=1.0, dtype=torch.float32, seed=0):
    """Clusters whose variances fall as 1/i, along axes of which a share is common; and two latents of each.

    ``spread`` is the variance of the means over that of a cluster. All moves by ``offset`` and grows by ``scale``.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    common = torch.linalg.qr(normal(dim, 2 * rank))[0] @ normal(clusters, 2 * rank, rank) / (2 * rank) ** 0.5
    own = normal(clusters, dim, rank) / dim**0.5
    axes = torch.linalg.qr(shared**0.5 * common + (1 - shared) ** 0.5 * own)[0].mT
    variances = 1 / torch.arange(1, dim + 1, dtype=torch.float64)
    deviations, rest = variances[:rank].sqrt(), variances[rank:].mean().sqrt()
    means = offset + normal(clusters, dim) * (spread * variances.sum() / dim).sqrt()
    noise = normal(2, clusters, dim) * rest
    along = normal(2, clusters, rank) * deviations - torch.einsum("krd,nkd->nkr", axes, noise)
    latents = means + noise + torch.einsum("nkr,krd->nkd", along, axes)
    parts = means * scale, axes / deviations[:, None] / scale, (1 / rest / scale).expand(clusters).contiguous()
    dist = ClusterDistributions(*(part.to(dtype) for part in parts), "low_rank")
    return dist, (scale * latents).flatten(0, 1).to(dtype)


def brute_force(dist, latents, basis=None) -> torch.Tensor:
    """Distances (N, K) in float64 by the definition of ``factors`` and ``rest``, or those in a subspace."""
    means, factors, rest = (part.double() for part in dist.state().values())
    basis = torch.eye(dist.dim, dtype=torch.float64) if basis is None else basis
    columns = []
    for mean, factor, rho in zip(means, factors, rest):
        projector = torch.linalg.pinv(factor) @ factor
        precision = factor.T @ factor + rho**2 * (torch.eye(dist.dim) - projector)
        if len(basis) < dist.dim:
            precision = torch.linalg.inv(basis @ torch.linalg.inv(precision) @ basis.T)
        offsets = (latents.double() - mean) @ basis.T
        columns.append(((offsets @ precision) * offsets).sum(1).clamp(min=0).sqrt())
    return torch.stack(columns, 1)


def assert_nearest(dist, latents, rtol=None):
    expected = brute_force(dist, latents)
    best = expected.min(1)
    index, value = dist.nearest(latents)
    rtol = rtol or (1e-5 if latents.dtype == torch.float32 else 1e-12)
    torch.testing.assert_close(value.double(), best.values, rtol=rtol, atol=1e-6)
    # Another index only where rounding decides.
    chosen = expected.gather(1, index[:, None])[:, 0]
    torch.testing.assert_close(chosen, best.values, rtol=rtol, atol=1e-6)


@pytest.fixture
def always(monkeypatch):
    """The search for however few clusters."""
    monkeypatch.setattr("raypurify.clusters.nearest._CLUSTERS", 0)
    monkeypatch.setattr("raypurify.clusters.nearest._NUMBERS", 0)


@dtypes
@pytest.mark.parametrize("spread", [0.01, 0.3, 3.0, 100.0])
@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("rank", [1, 6, 20])
def test_nearest_is_the_brute_force_minimum(rank, shared, spread, dtype, always, monkeypatch):
    dist, latents = low_rank(rank=rank, shared=shared, spread=spread, dtype=dtype)
    assert dist._search
    assert_nearest(dist, latents)
    # Far from every mean, too.
    assert_nearest(dist, 30 + latents)
    monkeypatch.setattr("raypurify.clusters.nearest._PAIRS", 420)
    monkeypatch.setattr("raypurify.clusters.nearest._GROUP", 7)
    monkeypatch.setattr("raypurify.clusters.nearest._BLOCK", 1)
    assert_nearest(dist.to(), latents)


@pytest.mark.parametrize("product", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spread", [0.1, 1000.0])
@pytest.mark.parametrize(("offset", "scale"), [(0.0, 1.0), (100.0, 1.0), (0.0, 1e6), (0.0, 1e-6)])
@pytest.mark.parametrize("shared", [0.0, 1.0])
def test_no_bound_exceeds_the_distance(shared, offset, scale, spread, product, always):
    dist, latents = low_rank(shared=shared, offset=offset, scale=scale, spread=spread, dim=96)
    latents = torch.cat([latents, latents * 3, dist.means[::3], latents[::2] + 100 * dist.means[0]])
    search = dist._search
    search.dtype = product
    whole, inside = brute_force(dist, latents).T, brute_force(dist, latents, search.basis).T
    assert (inside <= whole * (1 + 1e-9)).all()
    assert (search._in_subspace(latents) <= inside.square()).all()
    # The bound of the offsets as float32 has them.
    lost = dist.rest[0] * torch.finfo(torch.float32).eps * latents.double().norm(dim=1)
    found = torch.stack([search._in_whole(latents - mean, k) for k, mean in enumerate(dist.means)])
    assert (found <= (whole + lost).square()).all()


def test_bounds_are_close_to_the_distance(always):
    dist, latents = low_rank(shared=1.0, dim=240, rank=10)
    squared = brute_force(dist, latents).square().T
    whole = torch.stack([dist._search._in_whole(latents - mean, k) for k, mean in enumerate(dist.means)])
    assert (whole / squared).min() > 0.999
    # A sixth of the dimensions holds a sixth of the noise, which is all of the distance to a latent's own cluster, and
    # most of what tells the clusters apart.
    inside = dist._search._in_subspace(latents) / squared
    own = torch.arange(len(latents)) % dist.clusters
    assert 0.13 < inside[own, torch.arange(len(latents))].median() < 0.18
    assert inside.median() > 0.5


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_fit(form, always):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(12), [3, 9, 40] * 4)
    latents = (rng.normal(size=(12, 24))[labels] + rng.normal(size=(len(labels), 24)) / 2).astype(np.float32)
    dist = ClusterDistributions.fit(latents, labels, form=form, rank=5)
    # A pseudo-inverse of few images has no bound; a full covariance has no rest.
    assert bool(dist._search) == (form in ("low_rank", "ridge"))
    assert_nearest(dist, torch.from_numpy(latents), rtol=1e-4)
    index, value = dist.nearest(latents)
    assert (type(index), index.dtype, value.dtype) == (np.ndarray, np.int64, np.float32)
    if form == "shrinkage":
        few = ClusterDistributions.fit(latents, np.arange(len(labels)) // 13, form=form)
        assert few._search
        assert_nearest(few, torch.from_numpy(latents))


@dtypes
def test_axes_of_less_variance_than_the_rest_and_of_lower_rank(dtype, always):
    dist, latents = low_rank(dtype=dtype)
    factors, rest = dist.factors.clone(), dist.rest.clone()
    factors[::2, 3:] *= 20
    factors[1::3, 2:] = 0
    factors[5] = 0
    rest[::7] *= 3
    assert_nearest(ClusterDistributions(dist.means, factors, rest, "low_rank"), latents)


@dtypes
@pytest.mark.parametrize("rows", [1, 2, 7, 120])
def test_the_smaller_index_wins_a_tie(rows, dtype, always):
    dist, latents = low_rank(dim=300, rank=20, dtype=dtype)
    repeated = (torch.cat([part] * 3) for part in dist.state().values())
    twice = ClusterDistributions(*repeated, dist.form)
    index, value = twice.nearest(latents[:rows])
    assert torch.equal(index, dist.nearest(latents[:rows])[0])
    torch.testing.assert_close(value, dist.nearest(latents[:rows])[1])
    at_means, zero = twice.nearest(dist.means)
    assert torch.equal(at_means, torch.arange(dist.clusters))
    assert zero.max() < 1e-5


def test_the_answer_does_not_depend_on_the_batch(always):
    dist, latents = low_rank(shared=0.5)
    index, value = dist.nearest(latents)
    alone = [dist.nearest(row[None]) for row in latents]
    assert torch.equal(index, torch.cat([found[0] for found in alone]))
    torch.testing.assert_close(value, torch.cat([found[1] for found in alone]))


@dtypes
def test_rows_that_are_not_finite_or_overflow_spoil_only_themselves(dtype, always):
    dist, latents = low_rank(dtype=dtype)
    index, value = dist.nearest(latents)
    broken = latents.clone()
    broken[3, 2], broken[9, 0], broken[10, 1], broken[11] = torch.nan, torch.inf, -torch.inf, 1e30
    found, distance = dist.nearest(broken)
    odd = torch.zeros(len(latents), dtype=torch.bool)
    odd[[3, 9, 10, 11]] = True
    assert distance[[3, 9, 10]].isnan().all()
    assert ((found >= 0) & (found < dist.clusters)).all()
    assert torch.equal(found[~odd], index[~odd])
    torch.testing.assert_close(distance[~odd], value[~odd])
    expected = dist._nearest_of_all(broken[11:12])
    torch.testing.assert_close((found[11:12], distance[11:12]), expected)
    assert dist.nearest(torch.full((2, dist.dim), torch.nan))[1].isnan().all()


def test_one_cluster_and_no_latents(always):
    dist, latents = low_rank(clusters=1)
    assert dist._search
    assert_nearest(dist, latents)
    index, value = dist.nearest(latents[:0])
    assert index.shape == value.shape == (0,)
    assert index.dtype == torch.int64


@pytest.mark.parametrize(("shared", "refined", "evaluated"), [(1.0, 0.02, 1.2), (0.5, 0.05, 1.2), (0.0, 0.2, 1.2)])
def test_most_clusters_are_ruled_out(shared, refined, evaluated):
    dist, latents = low_rank(clusters=200, dim=384, rank=8, shared=shared, spread=4.0)
    search = NearestSearch(dist.means, dist._inverse_squared, dist.factors, dist.rest, dist._squared)
    found = search(latents)
    assert found.refined < refined * len(latents) * dist.clusters
    assert found.evaluated < evaluated * len(latents)
    assert torch.equal(found.index, dist._nearest_of_all(latents)[0])


def test_what_it_is_for(monkeypatch):
    def applies(**settings):
        return bool(low_rank(**settings)[0]._search)

    assert not applies()
    monkeypatch.setattr("raypurify.clusters.nearest._NUMBERS", 0)
    assert not applies()
    monkeypatch.setattr("raypurify.clusters.nearest._CLUSTERS", 60)
    assert applies()
    assert not applies(dtype=torch.bfloat16)
    # Squares and ratios that float32 does not hold.
    assert not applies(scale=1e-18, dtype=torch.float64)
    assert not applies(scale=1e18, dtype=torch.float64)
    dist, _ = low_rank()
    for rest in (torch.where(torch.arange(60) == 7, 0, dist.rest), dist.rest * 1e4):
        assert not ClusterDistributions(dist.means, dist.factors, rest, "low_rank")._search
    assert not ClusterDistributions(dist.means * 1e18, dist.factors, dist.rest, "low_rank")._search


def test_no_second_copy_of_the_factors():
    script = """if True:
        import torch
        from raypurify.clusters import ClusterDistributions
        def peak():
            # Not getrusage: its maximum begins at that of the process this one was forked from.
            lines = open("/proc/self/status").read().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        factors = torch.empty(2000, 64, 768).normal_(std=0.01)
        state = {"means": torch.randn(2000, 768), "factors": factors, "rest": torch.ones(2000)}
        before = peak()
        dist = ClusterDistributions.from_state(state, "low_rank")
        dist.nearest(torch.randn(50, 768))
        assert dist._search
        print(peak() - before, factors.nbytes)
    """
    printed = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    more, factors = (int(number) for number in printed.split())
    assert 0 < 1024 * more < 0.5 * factors


@pytest.mark.gpu
def test_on_a_gpu_all_distances_are_taken(always):
    dist, latents = low_rank(shared=0.5)
    on_gpu = dist.to("cuda")
    assert not on_gpu._search
    index, value = on_gpu.nearest(latents.cuda())
    assert torch.equal(index.cpu(), dist.nearest(latents)[0])
    torch.testing.assert_close(value.cpu(), dist.nearest(latents)[1], rtol=1e-4, atol=1e-4)
