"""The contract of methods, over every entry of the registry; and bundles of methods and versions that are not known."""

import json
import re
import resource
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from small_bundles import CLASSES, WRITERS

import raypurify
from raypurify.attacks.adaptive import attack_choice, cluster_scores, through_solver
from raypurify.attacks.front_end import is_front
from raypurify.attacks.joint import joint
from raypurify.attacks.pgd import PGD
from raypurify.bundle import load_bundle, save_bundle
from raypurify.bundle.manifest import MANIFEST, open_bundle
from raypurify.bundle.names import DECODER, DICTIONARIES, ENCODER, NETWORK
from raypurify.config import SECTIONS, Settings
from raypurify.errors import BundleError, ConfigError
from raypurify.evaluation.specs import KNOWS
from raypurify.evaluation.threat_model import NFGA, differentiated
from raypurify.fit.graphs import GRAPHS
from raypurify.methods import METHODS, checked_facts, classifier_of
from raypurify.purifiers import Bundled
from raypurify.purifiers.batch import purify_pixels
from raypurify.serve.known import Known

METHOD_NAMES = sorted(METHODS)
# By the file of a network: the settings that say how wide it is, and how many numbers these are.
NETWORKS = {NETWORK: ("network", "width", 1), ENCODER: ("dae", "width", 1), DECODER: ("decoder", "channels", 2)}


@pytest.fixture(scope="module", params=METHOD_NAMES)
def method(request):
    return METHODS[request.param]


@pytest.fixture(scope="module")
def bundle(method, tmp_path_factory):
    """The folder of a small bundle of the method."""
    return WRITERS[method.name](tmp_path_factory.mktemp(method.name))


@pytest.fixture(scope="module")
def purifier(bundle):
    return raypurify.load(bundle)


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 3, 40, 33, generator=torch.Generator().manual_seed(0))


def rewritten(bundle, folder, change):
    """A copy of a bundle, of which ``change`` has changed the tensors, by file and name, and what the manifest says."""
    loaded = load_bundle(bundle)
    tensors = {file: dict(group) for file, group in loaded.tensors.items()}
    about = loaded.manifest.model_dump(exclude={"format_version", "raypurify", "files"})
    change(tensors, about)
    save_bundle(folder, tensors, **about)
    return folder


def test_a_method_says_what_it_is(method):
    assert METHODS[method.name] is method
    assert DICTIONARIES in method.files
    assert len(set(method.files)) == len(method.files) > 0
    for text in (method.paper, method.cluster, method.distance):
        assert text
        assert text == " ".join(text.split())
        assert not text.endswith(".")
    assert find_spec(method.code)


def test_what_fits_a_method_and_writes_a_small_bundle_of_it_is_there(method):
    assert method.name in GRAPHS
    assert method.name in SECTIONS
    assert method.name in WRITERS
    assert Settings.model_validate({"method": method.name}).method == method.name


def test_the_purifier_of_a_bundle_is_of_its_method(method, purifier, images):
    assert isinstance(purifier, Bundled)
    assert type(purifier).__module__ == method.code
    assert purifier.bundle.manifest.method == method.name
    count = len(purifier.dictionaries)
    assert purifier.classes_of_cluster == ([CLASSES[0]] * 2 + [CLASSES[1]] if method.classes else [None] * count)
    norms = purifier.dictionaries.flatten(2).norm(dim=2)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    done = purifier.purify(images)
    assert done.images.shape == images.shape
    assert not done.flagged.any()
    chosen, distance = purifier.choose(images)
    assert torch.equal(done.cluster, chosen)
    torch.testing.assert_close(done.distance, distance)
    torch.testing.assert_close(purifier.own_distance(images, chosen), distance)
    named = [2, 0, 1] if count > 1 else [0] * 3
    given = purifier.purify(images, cluster=named)
    assert given.cluster.tolist() == named
    assert given.cluster_given
    assert isinstance(getattr(purifier.settings, purifier.tunable), BaseModel)


def test_a_purifier_is_the_same_each_time(bundle, purifier, images):
    again = raypurify.load(bundle)
    assert again.digest == purifier.digest
    for one, other in zip(again.numbers(), purifier.numbers(), strict=True):
        assert torch.equal(one, other)
    for name in ("images", "cluster", "distance", "iterations"):
        assert torch.equal(getattr(again.purify(images), name), getattr(purifier.purify(images), name))


@pytest.mark.gpu
def test_a_purifier_on_a_gpu_leaves_the_one_it_was_made_of(purifier, images):
    moved = purifier.to("cuda")
    assert {tensor.device.type for tensor in moved.numbers()} == {"cuda"}
    assert {tensor.device.type for tensor in purifier.numbers()} == {"cpu"}
    assert moved.device.type == "cuda"
    assert purifier.device.type == "cpu"
    assert type(moved) is type(purifier)
    assert moved.settings is purifier.settings
    assert moved.to("cuda") is moved
    torch.testing.assert_close(moved.purify(images).images.cpu(), purifier.purify(images).images, atol=1e-3, rtol=0)


def test_every_tensor_of_a_bundle_is_watched(method, purifier):
    """``serve.known`` finds out what changes in memory by ``numbers``: nothing that is loaded may be left out."""
    tensors = purifier.bundle.tensors
    kept = sum(tensor.numel() for group in tensors.values() for tensor in group.values())
    assert sum(tensor.numel() for tensor in purifier.numbers()) == kept


def test_facts_need_no_torch_and_are_those_of_the_tensors(method, bundle, purifier):
    code = (
        "import sys\nfrom raypurify.methods import checked_facts\nfrom raypurify.cli.texts import bundle_text\n"
        f"facts = checked_facts({str(bundle)!r})\nprint(bundle_text(facts))\nassert 'torch' not in sys.modules\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    facts = checked_facts(bundle)
    assert facts == purifier.bundle.facts
    assert set(facts.shapes) == set(method.files)
    assert f"{method.name}: {method.paper}" in run.stdout
    assert "of 8 atoms of 8×8" in run.stdout
    for label, line in method.lines(facts).items():
        assert f"{label:13} {line}" in run.stdout.splitlines()


@pytest.mark.parametrize("read", [raypurify.load, checked_facts])
def test_a_missing_file_is_named(method, bundle, tmp_path, read):
    for name in method.files:

        def without(tensors, about, name=name):
            del tensors[name]

        where = rewritten(bundle, tmp_path / name, without)
        with pytest.raises(BundleError, match=rf"does not list {name}, which the method {method.name} needs; fit or"):
            read(where)


@pytest.mark.parametrize("read", [raypurify.load, checked_facts])
def test_counts_that_do_not_go_together_are_refused(method, bundle, tmp_path, read):
    def more_clusters(tensors, about):
        about["cluster_class"] = about["cluster_class"] * 2
        about["dictionary_source"] = about["dictionary_source"] * 2

    def more_dictionaries(tensors, about):
        tensors[DICTIONARIES]["atoms"] = tensors[DICTIONARIES]["atoms"].repeat(2, 1, 1, 1, 1)

    def only_dictionaries_and_manifest(tensors, about):
        more_clusters(tensors, about)
        more_dictionaries(tensors, about)

    def of_other_classes(tensors, about):
        about["cluster_class"] = [None if method.classes else 0] * len(about["cluster_class"])

    def grey_atoms(tensors, about):
        tensors[DICTIONARIES]["atoms"] = tensors[DICTIONARIES]["atoms"][:, :, :1].clone()

    def no_atoms(tensors, about):
        tensors[DICTIONARIES] = {"molecules": tensors[DICTIONARIES]["atoms"]}

    def another_file(tensors, about):
        tensors["notes.safetensors"] = {"note": torch.zeros(1)}

    damages = (
        more_clusters,
        more_dictionaries,
        only_dictionaries_and_manifest,
        of_other_classes,
        grey_atoms,
        no_atoms,
        another_file,
    )
    for damage in damages:
        where = rewritten(bundle, tmp_path / damage.__name__, damage)
        with pytest.raises(BundleError, match=r"do not fit the manifest: .*fit the bundle again|does not know; fit or"):
            read(where)


def network_of(method):
    """The file of the method's network; a method without one has no use for the test."""
    files = [name for name in method.files if name in NETWORKS]
    if not files:
        pytest.skip(f"a bundle of {method.name} has no network")
    return files[0]


def test_a_network_of_another_width_is_refused(method, bundle, tmp_path):
    """By the shapes of its tensors, or when it is assembled: never by a traceback."""
    file = network_of(method)

    def wider(tensors, about):
        tensors[file] = {
            name: torch.cat([value, value]) if value.ndim else value for name, value in tensors[file].items()
        }

    with pytest.raises(BundleError, match="do not fit the manifest"):
        raypurify.load(rewritten(bundle, tmp_path / "wide", wider))


@pytest.mark.parametrize("width", [1 << 16, 1 << 62])
def test_a_network_takes_no_memory_that_its_file_does_not(method, bundle, tmp_path, width):
    section, name, value = NETWORKS[network_of(method)]

    def far_wider(tensors, about):
        # Of more channels no settings of a decoder are.
        about["settings"][section][name] = [min(width, 8192)] * value if value > 1 else width

    where = rewritten(bundle, tmp_path / "far", far_wider)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BundleError, match="do not fit the manifest"):
        raypurify.load(where)
    # In KiB; one layer of the settings' would have 2³⁵ numbers or more.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20


def test_a_depth_that_no_network_has_names_the_bundle(method, bundle, tmp_path):
    if network_of(method) != NETWORK:
        pytest.skip(f"the network of {method.name} has one depth")

    where = rewritten(bundle, tmp_path / "odd", lambda tensors, about: None)
    manifest = json.loads((where / "manifest.json").read_text("utf-8"))
    manifest["settings"]["network"]["depth"] = 12
    (where / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(BundleError, match=r"odd.*settings\.network\.depth"):
        raypurify.load(where)


def test_values_that_cannot_purify_are_refused_and_name_the_bundle(method, bundle, tmp_path):
    """A distance of NaN is above no threshold: an image would pass as one that was looked at."""
    floats = {
        (file, name)
        for file, group in load_bundle(bundle).tensors.items()
        for name, tensor in group.items()
        if tensor.is_floating_point()
    }
    last = dict(sorted(floats))
    assert set(last) == set(method.files)
    for file, name in last.items():

        def broken(tensors, about, file=file, name=name):
            tensors[file][name] = torch.full_like(tensors[file][name], float("nan"))

        where = rewritten(bundle, tmp_path / file, broken)
        with pytest.raises(BundleError, match=f"bundle {re.escape(str(where))}: .*not finite"):
            raypurify.load(where)

    def empty(tensors, about):
        tensors[DICTIONARIES]["atoms"] = tensors[DICTIONARIES]["atoms"][:, :0].clone()

    with pytest.raises(BundleError, match="hold no atoms; fit the bundle again"):
        raypurify.load(rewritten(bundle, tmp_path / "empty", empty))


def test_provenance_and_the_known_image_are_of_any_method(method, purifier, bundle):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    [(_, facts)] = purify_pixels(purifier, [pixels])
    assert (facts["class"] in CLASSES) if method.classes else facts["class"] is None
    assert facts["bundle"] == open_bundle(bundle).digest
    assert Known(purifier).problem() is None


def test_attackers_of_any_method(method, purifier, images):
    x = images.clone().requires_grad_()
    scores = cluster_scores(purifier)(x)
    count = len(purifier.dictionaries)
    assert scores.shape == (3, count)
    (gradient,) = torch.autograd.grad(scores.sum(), x)
    assert gradient.isfinite().all()
    assert gradient.abs().amax() > 0

    def classifier(images):
        return images.mean((2, 3))[:, :2]

    (gradient,) = torch.autograd.grad(through_solver(classifier, purifier)(x).sum(), x)
    assert gradient.abs().amax() > 0
    if count > 1:
        attacked = attack_choice(PGD(eps=0.1, steps=2), purifier, images)
        assert attacked.shape == images.shape
    lacking = {*(() if method.classes else ("joint",)), *(() if count > 1 else ("choice",))}
    # The solver of a sparse front end is its encoder, which others have not.
    of_others, solver = ({"solver"}, "nfga") if is_front(purifier) else ({*NFGA}, "solver")
    said = [differentiated(knows, purifier) for knows in KNOWS]
    assert said == [solver if knows in lacking | of_others else knows for knows in KNOWS]
    if method.classes:
        joint(classifier, purifier)(x)
    else:
        with pytest.raises(ConfigError, match=f"those of the method {method.name} are of none: attack"):
            joint(classifier, purifier)


def test_classifiers_are_of_methods_that_have_one(method, bundle, purifier, images):
    if not method.classifier or not method.classifies(purifier.bundle.manifest):
        said = f"of the method {method.name}, has no classifier; name one of rsfp or front_end that has"
        with pytest.raises(ConfigError, match=said):
            classifier_of(bundle)
    else:
        assert classifier_of(bundle)(images[:, :, :32, :32]).shape == (3, len(CLASSES))
    # By which a grid knows what its cells hang on.
    assert bool(method.classifier_code) == bool(method.classifier)
    assert not method.classifier_code or find_spec(method.classifier_code)


def test_a_method_that_is_not_known_is_named_with_the_remedy(bundle, tmp_path):
    where = rewritten(bundle, tmp_path / "new", lambda tensors, about: about.update(method="magic"))
    manifest = json.loads((where / MANIFEST).read_text())
    # As such a bundle would have it: nor are its settings known.
    manifest["settings"] = {"method": "magic", "wands": {"count": 3}}
    (where / MANIFEST).write_text(json.dumps(manifest))
    for read in (raypurify.load, checked_facts, classifier_of):
        with pytest.raises(
            BundleError,
            match=r"of the method 'magic', and this raypurify knows rsfp, stl, region_sparse, front_end; install the",
        ):
            read(where)


def test_a_method_other_than_that_of_the_settings_is_refused(tmp_path):
    bundle = WRITERS["rsfp"](tmp_path / "old")
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["settings"] = {"method": "stl"}
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="the method is rsfp, that of the settings stl"):
        raypurify.load(bundle)


def test_a_bundle_of_format_version_1_is_read_as_before(tmp_path, images):
    """Version 1, of RSFP alone, named no method."""
    bundle = WRITERS["rsfp"](tmp_path)
    new = raypurify.load(bundle)
    manifest = json.loads((bundle / MANIFEST).read_text())
    assert (manifest.pop("method"), manifest["format_version"]) == ("rsfp", 2)
    (bundle / MANIFEST).write_text(json.dumps(manifest | {"format_version": 1}, indent=1))
    old = raypurify.load(bundle)
    assert old.bundle.manifest == new.bundle.manifest.model_copy(update={"format_version": 1})
    assert old.digest != new.digest
    assert torch.equal(old.purify(images).images, new.purify(images).images)
