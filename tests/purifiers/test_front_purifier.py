"""The sparse front end as a purifier: its draws, its parts, its gradients, and what a supervised one says of itself."""

import pytest
import torch
from small_bundles import write_front_end

import raypurify
from raypurify.bundle import load_bundle, save_bundle
from raypurify.bundle.names import DECODER, DICTIONARIES
from raypurify.cli.texts import bundle_text
from raypurify.errors import BundleError, ConfigError
from raypurify.evaluation.specs import PurifierSpec
from raypurify.evaluation.subjects import make_purifier
from raypurify.methods import checked_facts, classifier_facts, classifier_of, facts_for_all
from raypurify.nets import front_strips
from raypurify.nets.front_encoder import FrontEncoder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_front_end(tmp_path_factory.mktemp("front"))


@pytest.fixture(scope="module")
def supervised(tmp_path_factory):
    return write_front_end(tmp_path_factory.mktemp("supervised"), supervised=True)


@pytest.fixture
def purifier(bundle):
    return raypurify.load(bundle)


@pytest.fixture(scope="module")
def images():
    return torch.rand(4, 3, 24, 20, generator=torch.Generator().manual_seed(0))


def test_an_image_is_decoded_from_its_code_and_the_distance_is_its_change(purifier, images):
    done = purifier.purify(images)
    code = purifier.encoder.code(images, purifier.draws(images))
    with torch.no_grad():
        expected = purifier.decoder(code, (24, 20))
    assert torch.equal(done.images, expected)
    torch.testing.assert_close(done.distance, (expected - images).square().mean((1, 2, 3)).sqrt())
    assert done.iterations.tolist() == done.cluster.tolist() == [0] * 4
    assert code.count_nonzero() > 0


def test_pixels_and_seed_decide_what_is_dropped(purifier, images):
    first = purifier.purify(images).images
    alone = torch.cat([purifier.purify(image[None]).images for image in images])
    torch.testing.assert_close(alone, first)
    twice = purifier.encoder.survivors(images[[0, 0]], purifier.draws(images[[0, 0]])).kept
    assert torch.equal(*twice)
    before = purifier.draws(images)
    assert len({*before.tolist()}) == 4
    assert purifier.random
    purifier.seed = 1
    assert purifier.settings.encoder.seed == purifier.seed == 1
    assert not (purifier.draws(images) == before).any()
    assert not torch.equal(purifier.purify(images).images, first)
    purifier.seed = 0
    assert torch.equal(purifier.purify(images).images, first)


def test_a_grid_changes_the_steps_of_the_encoder(bundle, images):
    spec = {"purifier": "bundle", "bundle": str(bundle)}
    whole = make_purifier("all", PurifierSpec(**spec, dropout=0.0, top=None, quantise=False))
    assert not whole.random
    assert torch.equal(whole.encoder.code(images), whole.encoder.project(images))
    assert make_purifier("other", PurifierSpec(**spec, seed=4)).seed == 4
    with pytest.raises(ConfigError, match=r"encoder.top is 61, of 8 atoms: give 8 at most"):
        make_purifier("many", PurifierSpec(**spec, top=61))


def test_gradients_are_those_through_what_survives(purifier, images):
    """W-NFGA with equation 3 as the identity: of x̃, the projections that are kept, through the decoder at the code."""
    x = images.clone().requires_grad_()
    weights = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((purifier.purify_differentiably(x) * weights).sum(), x)
    found = purifier.encoder.survivors(images, purifier.draws(images))
    code = purifier.encoder.quantised(found.values).requires_grad_()
    (slope,) = torch.autograd.grad((purifier.decoder(code, (24, 20)) * weights).sum(), code)
    back = torch.nn.functional.conv_transpose2d(slope * found.kept, purifier.encoder.dictionary, stride=4)
    torch.testing.assert_close(gradient, back)
    torch.testing.assert_close(purifier.purify_differentiably(images), purifier.purify(images).images)


def test_of_many_atoms_fewer_pixels_are_coded_at_a_time(purifier, monkeypatch):
    """Settings of a bundle from elsewhere may have 8192 atoms and stride 1: 64 times the memory for a pixel."""
    sizes, code = [], FrontEncoder.code

    def measured(*args):
        sizes.append((made := code(*args)).numel())
        return made

    images = torch.rand(3, 3, 120, 60)
    whole = purifier.purify(images).images
    monkeypatch.setattr(FrontEncoder, "code", measured)
    monkeypatch.setattr(front_strips, "COEFFICIENTS", 1200)
    torch.testing.assert_close(purifier.purify(images).images, whole)
    # What a strip's first and last rows of pixels see is coded beside.
    assert max(sizes) <= 1200 + 4 * 8 * 15
    assert len(sizes) > 3


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 31), (33, 10)])
def test_images_of_any_size_keep_it(purifier, height, width):
    assert purifier.purify(torch.rand(1, 3, height, width)).images.shape == (1, 3, height, width)
    assert purifier.purify(torch.rand(0, 3, height, width)).images.shape == (0, 3, height, width)


def test_only_a_supervised_one_has_a_classifier_and_it_says_for_whom_it_is(bundle, supervised, images):
    alone, together = checked_facts(bundle), checked_facts(supervised)
    assert "learned alone, to give images back" in bundle_text(alone)
    assert "learned with a ResNet-8, for which alone its images are" in bundle_text(together)
    assert classifier_facts(supervised) == together
    for asked in (classifier_of, classifier_facts):
        with pytest.raises(ConfigError, match="front_end, has no classifier; name one of rsfp or front_end that has"):
            asked(bundle)
    assert facts_for_all(bundle) == alone
    with pytest.raises(ConfigError, match="for the classifier that its decoder learned with alone; take one fitted"):
        facts_for_all(supervised)
    purifier = raypurify.load(supervised)
    assert purifier.supervised
    logits = classifier_of(supervised)(purifier.purify(images).images)
    assert logits.shape == (4, 2)
    torch.testing.assert_close(logits, purifier.classifier(purifier.purify(images).images))


def test_a_bundle_keeps_whichever_classifier_it_learned_with(tmp_path, images):
    bundle = write_front_end(tmp_path / "b0", supervised=True, classifier="efficientnet-b0")
    assert "learned with an EfficientNet-B0, for which alone its images are" in bundle_text(checked_facts(bundle))
    purifier = raypurify.load(bundle)
    logits = classifier_of(bundle)(purifier.purify(images).images)
    assert logits.shape == (4, 2)
    torch.testing.assert_close(logits, purifier.classifier(purifier.purify(images).images))


def test_tensors_that_do_not_fit_the_settings_are_refused(bundle, supervised, tmp_path):
    def spoiled(where, name, change):
        loaded = load_bundle(where)
        tensors = {file: dict(group) for file, group in loaded.tensors.items()}
        about = loaded.manifest.model_dump(exclude={"format_version", "raypurify", "files"})
        change(tensors, about)
        save_bundle(tmp_path / name, tensors, **about)
        return tmp_path / name

    def flat(tensors, about):
        tensors[DICTIONARIES]["atoms"] = tensors[DICTIONARIES]["atoms"][..., :4].clone()

    def narrow(tensors, about):
        about["settings"]["decoder"]["channels"] = [7, 4]

    def deeper(tensors, about):
        about["settings"]["decoder"]["depth"] = 998

    def another(tensors, about):
        about["settings"]["decoder"]["classifier"] = "efficientnet-b0"

    def more_classes(tensors, about):
        about["classes"] = [*about["classes"], "frog"]

    def without(tensors, about):
        tensors[DECODER] = {name: value for name, value in tensors[DECODER].items() if "classifier" not in name}

    said = {flat: r"8×4", narrow: "where the settings have", deeper: "of 8 layers", more_classes: "3 classes"}
    said[another] = r"classifier\.network\.classifier\.1\.weight"
    for change, text in (said | {without: "classifier.linear.weight"}).items():
        where = spoiled(supervised, change.__name__, change)
        for read in (raypurify.load, checked_facts):
            with pytest.raises(BundleError, match=f"do not fit the manifest: .*{text}"):
                read(where)
