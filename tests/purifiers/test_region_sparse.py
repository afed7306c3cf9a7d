"""RegionSparse: its object region, its codes, its background, its ablations."""

from dataclasses import replace

import pytest
import torch
from small_bundles import write_region_sparse

import raypurify
from raypurify.attacks.adaptive import attack_choice
from raypurify.attacks.pgd import PGD
from raypurify.bundle import load_bundle, save_bundle
from raypurify.bundle.names import DICTIONARIES
from raypurify.errors import BundleError, ConfigError, DataError
from raypurify.evaluation.specs import PurifierSpec
from raypurify.evaluation.subjects import make_purifier
from raypurify.evaluation.threat_model import differentiated
from raypurify.methods import checked_facts
from raypurify.patches.coding import rewrite_patches
from raypurify.purifiers import Bilateral, RegionSparse
from raypurify.purifiers.batch import purify_pixels
from raypurify.purifiers.localisation import inside, object_boxes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_region_sparse(tmp_path_factory.mktemp("region"))


@pytest.fixture(scope="module")
def purifier(folder):
    return raypurify.load(folder)


@pytest.fixture(scope="module")
def scene():
    """A photograph-like image of 40×56 with a striped object in 16..36 × 8..28."""
    generator = torch.Generator().manual_seed(0)
    image = 0.3 + 0.02 * torch.randn(1, 3, 40, 56, generator=generator)
    image[..., 8:28, 16:36] += 0.5 * ((torch.arange(20) // 2) % 2)
    return image.clamp(0, 1)


def changed(bundle, **settings):
    """The purifier of a bundle with other settings."""
    manifest = bundle.manifest.model_copy(update={"settings": bundle.settings.model_copy(update=settings)})
    return RegionSparse(replace(bundle, manifest=manifest))


def test_the_object_is_coded_and_the_rest_filtered(purifier, scene):
    # Equation 19, with θ of 1 and 0.
    how, done = purifier.settings.region, purifier.purify(scene)
    box = object_boxes(scene, 9).boxes
    assert torch.equal(done.region, box)
    left, top, right, bottom = box[0].tolist()
    coded = rewrite_patches([scene[0, :, top:bottom, left:right]], purifier.dictionaries[0], how.nonzeros, how.stride)
    torch.testing.assert_close(
        done.images[0, :, top:bottom, left:right], coded.images[0].float().clamp(0, 1), atol=1e-6, rtol=0
    )
    filtered = Bilateral(how.radius, how.sigma_space, how.sigma_colour).transform(scene)
    outside = ~inside(box, 40, 56).expand_as(scene)
    assert outside.any()
    torch.testing.assert_close(done.images[outside], filtered.clamp(0, 1)[outside])
    assert float(done.distance[0]) == pytest.approx(float(coded.residual[0]))
    assert done.iterations.tolist() == [how.nonzeros]


def test_more_atoms_bring_the_object_nearer_to_what_came_in(purifier, scene):
    bundle = purifier.bundle
    nearer = [changed(bundle, region=bundle.settings.region.model_copy(update={"nonzeros": k})) for k in (1, 3, 8)]
    distances = [float(one.purify(scene).distance[0]) for one in nearer]
    assert distances == sorted(distances, reverse=True)


def test_without_the_backgrounds_filter_it_stays_as_it_was(purifier, scene):
    plain, left_out = purifier.purify(scene), changed(purifier.bundle, ablations=("noBS",)).purify(scene)
    within = inside(plain.region, 40, 56).expand_as(scene)
    assert torch.equal(left_out.images[~within], scene[~within])
    assert torch.equal(left_out.images[within], plain.images[within])


def test_without_equation_17_patches_are_coded_as_they_are(purifier, scene):
    done = changed(purifier.bundle, ablations=("noPN",)).purify(scene)
    left, top, right, bottom = done.region[0].tolist()
    how = purifier.settings.region
    crop = scene[0, :, top:bottom, left:right]
    coded = rewrite_patches([crop], purifier.dictionaries[0], how.nonzeros, how.stride, normalise=False)
    torch.testing.assert_close(
        done.images[0, :, top:bottom, left:right], coded.images[0].float().clamp(0, 1), atol=1e-6, rtol=0
    )
    assert not torch.allclose(done.images, purifier.purify(scene).images, atol=1e-2)


def test_an_image_of_one_colour_is_left_as_it_is_and_coded_whole(purifier):
    done = purifier.purify(torch.full((1, 3, 20, 30), 0.6))
    assert done.region.tolist() == [[0, 0, 30, 20]]
    torch.testing.assert_close(done.images, torch.full((1, 3, 20, 30), 0.6))
    assert done.distance.tolist() == [0.0]
    assert done.iterations.tolist() == [0]


def test_the_gradient_goes_through_object_and_background(purifier, scene):
    images = scene.clone().requires_grad_()
    done = purifier.purify_differentiably(images)
    torch.testing.assert_close(done, purifier.purify(scene).images)
    weights = torch.rand(scene.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((weights * done).sum(), images)
    within = inside(object_boxes(scene, 9).boxes, 40, 56).expand_as(scene)
    assert gradient[within].abs().sum() > 0
    assert gradient[~within].abs().sum() > 0
    # So small a step changes neither box nor atoms.
    step = 1e-4 * gradient / gradient.abs().max()
    with torch.no_grad():
        rise = (weights * (purifier.purify_differentiably((scene + step).clamp(0, 1)) - done)).double().sum()
    assert float(rise) == pytest.approx(float((gradient * step).double().sum()), rel=0.05)


def test_there_is_no_choice_to_attack(purifier, scene):
    assert differentiated("choice", purifier) == differentiated("joint", purifier) == "solver"
    with pytest.raises(ConfigError, match=r"region_sparse has one cluster, .* attack through the solver"):
        attack_choice(PGD(eps=0.1), purifier, scene)


def test_provenance_holds_the_box_and_its_share(purifier, scene):
    pixels = (scene[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    [(_, facts)] = purify_pixels(purifier, [pixels])
    left, top, right, bottom = facts["region"]
    assert facts["region_share"] == pytest.approx((right - left) * (bottom - top) / (40 * 56))
    assert 0.1 < facts["region_share"] < 0.5
    assert (facts["cluster"], facts["class"]) == (0, None)


def test_a_grid_changes_what_is_done_to_images_alone(folder):
    made = make_purifier("mine", PurifierSpec(purifier="bundle", bundle=str(folder), nonzeros=5))
    assert made.settings.region.nonzeros == 5
    for wrong in ({"atoms": 9}, {"nonzeros": 0}, {"nonzeros": 500}, {"stride": 9}, {"lmbda": 0.1}):
        with pytest.raises(ConfigError, match=r"purifier 'mine': .*mend its settings"):
            make_purifier("mine", PurifierSpec(purifier="bundle", bundle=str(folder), **wrong))


@pytest.mark.parametrize(
    ("atoms", "said"),
    [
        (torch.rand(2, 8, 3, 8, 8), r"not \(1, M, 3, b, b\)"),
        (torch.rand(1, 8, 3, 8, 5), r"not \(1, M, 3, b, b\)"),
        (torch.rand(1, 2, 3, 8, 8), r"region\.nonzeros is 3"),
        (torch.rand(1, 8, 3, 1, 1), r"region\.stride is 2"),
    ],
)
def test_tensors_that_do_not_fit_the_settings_are_refused(folder, atoms, said):
    bundle = load_bundle(folder)
    with pytest.raises(BundleError, match=said):
        RegionSparse(replace(bundle, tensors={DICTIONARIES: {"atoms": atoms}}))


@pytest.mark.parametrize("shape", [(1, 4000, 3, 8, 8), (1, 8, 3, 9, 9)])
def test_a_bundle_of_more_or_larger_atoms_than_its_settings_have_is_refused(folder, tmp_path, shape):
    """A small file of very many small atoms would take the square of their number."""
    bundle = load_bundle(folder)
    about = bundle.manifest.model_dump(exclude={"format_version", "raypurify", "files"})
    save_bundle(tmp_path, {DICTIONARIES: {"atoms": torch.ones(shape).half()}}, **about)
    said = rf"{shape[1]} atoms of {shape[-1]}², where the settings have 8 of 8²"
    for read in (raypurify.load, checked_facts):
        with pytest.raises(BundleError, match=said):
            read(tmp_path)


def test_what_is_as_small_as_one_patch_is_coded_too(purifier):
    """Equation 17 makes zeros of one patch alone, which would bring a perturbation back as it was."""
    side = purifier.dictionaries.shape[-1]
    assert purifier.min_size == side + 1
    noise = torch.rand(1, 3, side + 1, side + 1, generator=torch.Generator().manual_seed(0))
    done = purifier.purify(noise)
    assert done.distance[0] > 0.1
    assert (done.images - noise).abs().amax() > 0.05
    with pytest.raises(DataError, match=f"{side + 1}"):
        purifier.purify(noise[..., :side, :side])
