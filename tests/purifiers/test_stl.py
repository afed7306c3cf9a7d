"""STL: each step against its definition, on a small bundle of which nothing was trained."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_bundles import write_stl
from torch.nn import functional as F

import raypurify
from raypurify.bundle import load_bundle, save_bundle
from raypurify.bundle.names import DICTIONARIES, ENCODER, STRATA
from raypurify.clusters import fit_strata
from raypurify.csc import solve_cbpdn, tikhonov_split
from raypurify.errors import BundleError
from raypurify.purifiers.rsfp_global import GlobalRSFP
from raypurify.purifiers.stl import STL, stl_tensors


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_stl(tmp_path_factory.mktemp("stl"))


@pytest.fixture(scope="module")
def purifier(folder, photographs):
    """A purifier whose strata are of photographs: among those of noise these would all be in one."""
    bundle = load_bundle(folder)
    seen = torch.cat([photographs.flip(dims).roll(shift, 3) for dims in ((), (3,)) for shift in (0, 1, -2)])
    latents = raypurify.load(folder).latents(seen)
    strata = fit_strata(latents, bundle.settings.strata, seed=1).strata
    return STL(replace(bundle, tensors=bundle.tensors | {STRATA: strata.state()}))


@pytest.fixture(scope="module")
def out(purifier, photographs):
    return purifier.purify(photographs)


def test_the_stratum_is_that_of_most_of_the_nearest_training_codes(purifier, photographs, out):
    # Section 3.4.
    assert isinstance(purifier, STL)
    strata = purifier.strata
    points = (purifier.network.latents(photographs) - strata.mean) @ strata.components.T
    far = torch.cdist(points.double(), strata.features.double())
    for image, row in enumerate(far):
        near = row.argsort()[: strata.neighbours]
        votes = np.bincount(strata.labels[near], minlength=strata.count)
        assert votes[out.cluster[image]] == votes.max()
        assert float(out.distance[image]) == pytest.approx(float(row[near].mean()), rel=1e-4)
    assert len(out.cluster.unique()) > 1


def test_the_result_is_low_part_plus_the_code_under_the_stratums_dictionary(purifier, photographs, out):
    # Equation 2 for given filters, of the high part as the authors' code has it.
    csc = purifier.settings.csc
    low, high = tikhonov_split(photographs, lmbda=csc.tikhonov, pad=csc.pad)
    code = solve_cbpdn(purifier.dictionaries, high, csc.lmbda, rel_tol=csc.rel_tol, index=out.cluster)
    torch.testing.assert_close(out.images, (low + code.reconstruction).clamp(0, 1), atol=1e-5, rtol=0)


def test_an_image_of_another_size_is_squashed_for_the_auto_encoder_alone(purifier, photographs):
    # Section 5.1: "We first downsample images to 32×32".
    large = F.interpolate(photographs, (48, 70), mode="bilinear").clamp(0, 1)
    small = F.interpolate(large, (32, 32), mode="bilinear", antialias=True)
    done = purifier.purify(large)
    assert done.images.shape == large.shape
    stratum, distance = purifier.strata.vote(purifier.network.latents(small))
    assert torch.equal(done.cluster, stratum)
    torch.testing.assert_close(done.distance, distance, rtol=1e-3, atol=1e-4)


def test_a_given_stratum_is_the_one_that_rewrites_the_image(purifier, photographs, out):
    again = purifier.purify(photographs, cluster=out.cluster)
    torch.testing.assert_close(again.images, out.images, atol=1e-5, rtol=0)
    other = purifier.purify(photographs, cluster=((out.cluster + 1) % 3).tolist())
    assert not torch.allclose(other.images, out.images, atol=1e-3)
    # How far an image is from training images does not depend on its stratum.
    torch.testing.assert_close(other.distance, out.distance)


def test_the_distance_to_centroids_falls_along_its_gradient(purifier, photographs):
    images = photographs[:4].clone().requires_grad_()
    distance = purifier.cluster_distances(images)
    assert distance.shape == (4, 3)
    (gradient,) = torch.autograd.grad(distance[:, 0].sum(), images)
    step = 1e-3 * gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
    with torch.no_grad():
        assert (purifier.cluster_distances(images - step)[:, 0] < distance[:, 0]).all()


def test_gradients_reach_the_image(purifier, photographs):
    images = photographs[:2].clone().requires_grad_()
    done = purifier.purify_differentiably(images)
    torch.testing.assert_close(done, purifier.purify(images.detach()).images, atol=0.02, rtol=0)
    done.sum().backward()
    assert images.grad.abs().flatten(1).amax(1).gt(0).all()


def test_refinement_brings_each_image_nearer_to_what_came_in(purifier, photographs, out):
    # Figure 2: maps and filters jointly.
    settings = purifier.settings.model_copy(
        update={"csc": purifier.settings.csc.model_copy(update={"refine": 4, "lmbda": 0.05})}
    )
    plain = settings.model_copy(update={"csc": settings.csc.model_copy(update={"refine": 0})})
    change = []
    for one in (settings, plain):
        manifest = purifier.bundle.manifest.model_copy(update={"settings": one})
        change.append(STL(replace(purifier.bundle, manifest=manifest)).purify(photographs).relative_change)
    assert (change[0] < change[1]).all()


def test_one_stratum_is_one_dictionary_for_all(folder, photographs):
    """The tables' rows "STL": ``rsfp_global`` is that without the files of a bundle."""
    bundle = load_bundle(folder)
    atoms = bundle.tensors[DICTIONARIES]["atoms"][:1]
    strata = dict(bundle.tensors[STRATA])
    strata |= {"centroids": strata["centroids"][:1], "labels": torch.zeros_like(strata["labels"])}
    manifest = bundle.manifest.model_copy(update={"cluster_class": [None], "dictionary_source": ["own"]})
    tensors = bundle.tensors | {STRATA: strata, DICTIONARIES: {"atoms": atoms}}
    one = STL(replace(bundle, manifest=manifest, tensors=tensors))
    alone = GlobalRSFP(one.dictionaries[0], bundle.settings.csc)
    done = one.purify(photographs)
    assert (done.cluster == 0).all()
    torch.testing.assert_close(done.images, alone.purify(photographs).images)


def test_a_bundle_keeps_what_the_purifier_needs(purifier, photographs, out, tmp_path):
    tensors = stl_tensors(purifier.network, purifier.strata, purifier.dictionaries)
    assert tensors[STRATA]["features"].dtype == torch.float16
    save_bundle(
        tmp_path, tensors, **purifier.bundle.manifest.model_dump(exclude={"format_version", "raypurify", "files"})
    )
    again = raypurify.load(tmp_path).purify(photographs)
    assert torch.equal(again.cluster, out.cluster)
    torch.testing.assert_close(again.images, out.images, atol=1e-3, rtol=0)
    torch.testing.assert_close(again.distance, out.distance, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize(
    ("file", "name", "change", "said"),
    [
        (STRATA, "mean", lambda t: t[:-1], "do not fit together"),
        (STRATA, "labels", lambda t: t + 7, "labels reach from"),
        (STRATA, "centroids", lambda t: t * torch.nan, "not finite"),
        (ENCODER, "encoder.0.0.0.weight", lambda t: t[:-1], "size mismatch"),
        (DICTIONARIES, "atoms", lambda t: t[:2], "2 dictionaries"),
    ],
)
def test_tensors_that_do_not_go_together_are_refused(folder, file, name, change, said):
    bundle = load_bundle(folder)
    tensors = {key: dict(group) for key, group in bundle.tensors.items()}
    tensors[file][name] = change(tensors[file][name])
    with pytest.raises(BundleError, match=said):
        STL(replace(bundle, tensors=tensors))


def test_batches_change_nothing(purifier, photographs, out):
    alone = [purifier.purify(photographs[i : i + 1]) for i in range(4)]
    assert torch.equal(torch.cat([one.cluster for one in alone]), out.cluster[:4])
    torch.testing.assert_close(torch.cat([one.images for one in alone]), out.images[:4], atol=1e-5, rtol=0)
