"""Classes estimated apart and put together are what one estimate of all of them is."""

import numpy as np
import pytest

from raypurify.clusters.blocks import Block
from raypurify.clusters.class_clusters import cluster_class, estimate_class, sum_class
from raypurify.clusters.covariance import FORMS
from raypurify.clusters.estimates import assemble, common_spectrum, estimate_rows
from raypurify.clusters.fit import fit_distributions
from raypurify.clusters.scatter import merge_scatters
from raypurify.config import ClusterSettings
from raypurify.errors import DataError

RANK = 4


def clusters_of_classes() -> list[list[np.ndarray]]:
    """Two classes: clusters of many rows and few, of one, and of rows that are all equal."""
    rng = np.random.default_rng(0)
    return [
        [rng.normal(size=(40, 6)), np.full((1, 6), 5.0)],
        [rng.normal(size=(5, 6)) + 9, np.full((7, 6), -3.0), rng.normal(size=(20, 6)) * 3],
    ]


@pytest.mark.parametrize("form", FORMS)
def test_classes_apart_are_the_classes_together(form):
    of_class = clusters_of_classes()
    clusters = [rows for of_cluster in of_class for rows in of_cluster]
    sizes = np.array(list(map(len, clusters)))
    expected = fit_distributions(np.concatenate(clusters), np.repeat(np.arange(5), sizes), form, RANK)
    estimates = [estimate_rows(of_cluster, form, RANK) for of_cluster in of_class]
    common = None
    if any(one.singular.any() for one in estimates):
        assert form in ("shrinkage", "low_rank")
        labels = [np.repeat(np.arange(len(own)), list(map(len, own))) for own in of_class]
        sums = [sum_class(np.concatenate(own), label) for own, label in zip(of_class, labels)]
        within, total = (merge_scatters(one) for one in zip(*sums))
        common = common_spectrum(within, lambda: total, form, RANK)
    axes = expected["factors"].shape[1]
    state = assemble(estimates, sizes, axes, common, form, np.float64)
    for name, part in state.items():
        np.testing.assert_allclose(part, expected[name], rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("form", FORMS)
def test_a_class_in_blocks_has_the_estimates_of_one_in_memory(form):
    rng = np.random.default_rng(1)
    latents = (rng.normal(size=(3, 6))[np.arange(400) % 3] * 9 + rng.normal(size=(400, 6))).astype(np.float32)
    found = {}
    for cuts in ((), (1, 130)):
        blocks = [Block(latents[part], part) for part in np.split(np.arange(400), cuts)]
        settings = ClusterSettings(k_max=4, form=form, rank=RANK)
        whole = None if cuts else blocks[0]
        found[cuts] = cluster_class(lambda look, of=blocks: map(look, of), whole, 400, settings, seed=0)
    one, many = found.values()
    assert (one.labels == many.labels).all()
    assert one.curve == many.curve
    np.testing.assert_allclose(many.estimates.means, one.estimates.means, rtol=1e-6, atol=1e-9)
    grams = [np.einsum("kri,krj->kij", part.estimates.factors, part.estimates.factors) for part in (one, many)]
    np.testing.assert_allclose(*grams, rtol=1e-5, atol=1e-6)
    again = sum_class(latents, one.labels)
    np.testing.assert_allclose(many.sums.within.second, again.within.second, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(many.sums.total.second, again.total.second, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("cuts", [(), (5, 20)], ids=["in memory", "in blocks"])
def test_clusters_that_are_known_are_refused_for_other_images_and_for_latents_that_are_not_finite(cuts):
    latents = np.random.default_rng(2).normal(size=(60, 4)).astype(np.float32)
    rows, labels, settings = 3 * np.arange(60), np.arange(60, dtype=np.int32) % 2, ClusterSettings()

    def estimate(numbers: np.ndarray, found: np.ndarray):
        blocks = [Block(found[part], numbers[part]) for part in np.split(np.arange(len(found)), cuts)]
        return estimate_class(lambda look: map(look, blocks), None if cuts else blocks[0], rows, labels, settings)

    assert estimate(rows, latents)[0].means.shape == (2, 4)
    remedy = "different images; remove the run's folders of both and fit again, or choose another run directory"
    with pytest.raises(DataError, match=f"row 4 has latents but no cluster: .* {remedy}"):
        estimate(np.where(rows == 3, 4, rows), latents)
    with pytest.raises(DataError, match=f"of 60 rows with a cluster only 40 have latents: .* {remedy}"):
        estimate(rows[:40], latents[:40])
    latents[7], latents[9] = np.nan, np.inf
    with pytest.raises(DataError, match="the latent of row 21 is not finite"):
        estimate(rows, latents)


def test_equal_rows_have_no_covariance_in_common():
    sums = sum_class(np.ones((6, 3)), np.array([0, 0, 0, 1, 1, 1]))
    with pytest.raises(DataError, match="too few different rows"):
        common_spectrum(sums.within, lambda: sums.total, "shrinkage", RANK)
