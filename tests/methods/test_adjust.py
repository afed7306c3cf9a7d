"""Bundles with other settings of how images are rewritten: for every method, what may change and what stays."""

import pytest
import torch
from small_bundles import WRITERS

import raypurify
from raypurify.bundle import read_facts
from raypurify.bundle.manifest import MANIFEST
from raypurify.cli.texts import bundle_text
from raypurify.errors import BundleError, ConfigError, SinkError
from raypurify.methods import METHODS, checked_facts
from raypurify.methods.adjust import adjust

# By the section of a method that says how images are rewritten: a setting that changes what comes of an image.
CHANGES = {"csc": ("lmbda", 0.5), "region": ("nonzeros", 1), "encoder": ("top", 1)}
APART = ["rsfp", "stl"]


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=sorted(METHODS))
def bundle(request, tmp_path):
    return WRITERS[request.param](tmp_path / "small")


def test_distances_are_apart_from_the_settings_where_a_method_says_so(bundle, images):
    purifier = raypurify.load(bundle)
    name, value = CHANGES[purifier.tunable]
    changed = purifier.with_settings(**{name: value})
    assert getattr(getattr(changed.settings, changed.tunable), name) == value
    before, after = purifier.purify(images), changed.purify(images)
    assert not torch.equal(before.images, after.images)
    assert torch.equal(before.distance, after.distance) == purifier.distance_is_apart
    assert torch.equal(purifier.purify(images).images, before.images)


@pytest.mark.parametrize("name", APART)
def test_an_adjusted_bundle_does_what_the_purifier_with_these_settings_does(name, images, tmp_path):
    bundle = WRITERS[name](tmp_path / "small")
    digest = adjust(bundle, tmp_path / "a/stronger", ["csc.lmbda=0.5", "csc.refit=true"])
    made, before = raypurify.load(tmp_path / "a/stronger"), raypurify.load(bundle)
    assert made.digest == digest != before.digest
    assert made.bundle.manifest.name == "stronger"
    assert made.bundle.manifest.files == before.bundle.manifest.files
    assert made.bundle.manifest.calibration == before.bundle.manifest.calibration
    wanted = before.with_settings(lmbda=0.5, refit=True).purify(images)
    assert torch.equal(made.purify(images).images, wanted.images)
    text = bundle_text(checked_facts(tmp_path / "a/stronger"))
    assert f"adjusted from {before.bundle.manifest.name}, digest {before.digest[:16]}" in text


def test_figures_of_images_that_were_rewritten_are_not_those_of_an_adjusted_bundle(tmp_path):
    assert read_facts("cifar10-stl").manifest.measured.keys() == {"set", "clean", "purified"}
    adjust("cifar10-stl", tmp_path / "one", ["csc.lmbda=0.4"])
    adjust(tmp_path / "one", tmp_path / "two", ["csc.refit=true"])
    found = read_facts(tmp_path / "two").manifest
    assert found.measured.keys() == {"set", "clean"}
    assert found.training["adjusted"]["from"] == "cifar10-stl"
    assert (found.settings.csc.lmbda, found.settings.csc.refit) == (0.4, True)


def test_a_method_whose_distances_depend_on_the_settings_takes_a_fit(bundle, tmp_path):
    purifier = raypurify.load(bundle)
    if purifier.distance_is_apart:
        assert purifier.bundle.manifest.method in APART
        return
    name, value = CHANGES[purifier.tunable]
    with pytest.raises(ConfigError, match="raypurify fit --set finds them together"):
        adjust(bundle, tmp_path / "out", [f"{purifier.tunable}.{name}={value}"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([], "nothing is to change: give settings of csc"),
        (["csc={}"], "nothing is to change"),
        (["csc=3"], "nothing is to change"),
        (["csc.lamda=1"], r"perhaps csc\.lmbda is meant"),
        (["csc.lmbda=-1"], r"csc\.lmbda: .*greater than or equal to 0; mend"),
        (["csc.lmbda=true"], "true is a truth value"),
        (["lmbda=1"], "lmbda cannot change once a bundle is fitted"),
        (["csc.lmbda=1", "dictionaries.atoms=8"], "dictionaries cannot change once"),
        (["csc.lmbda=0.2"], "these are the settings of cifar10-stl already"),
        (["csc.lmbda"], "is not of the form"),
        (["csc..lmbda=1"], "is not of the form"),
        (["csc={1: 2}"], r"csc\.1: there is no such setting"),
        (["csc.self=1"], r"csc\.self: there is no such setting"),
    ],
)
def test_other_settings_are_refused_and_nothing_is_written(changes, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        adjust("cifar10-stl", tmp_path / "out", changes)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_a_file_of_that_name_is_left_alone_and_a_begun_one_is_gone_on_with(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/dictionaries.safetensors").write_bytes(b"mine")
    with pytest.raises(SinkError, match=r"holds dictionaries\.safetensors of something else: name another folder"):
        adjust("cifar10-stl", tmp_path / "out", ["csc.lmbda=0.4"])
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["dictionaries.safetensors"]
    adjust("cifar10-stl", tmp_path / "begun", ["csc.lmbda=0.4"])
    (tmp_path / "begun" / MANIFEST).unlink()
    adjust("cifar10-stl", tmp_path / "begun", ["csc.lmbda=0.4"])
    assert raypurify.load(tmp_path / "begun").settings.csc.lmbda == 0.4


def test_places_that_hold_a_bundle_or_cannot_be_written_are_refused(tmp_path):
    adjust("cifar10-stl", tmp_path / "out", ["csc.lmbda=0.4"])
    before = (tmp_path / "out" / MANIFEST).read_bytes()
    with pytest.raises(SinkError, match="holds a bundle: name another folder"):
        adjust("cifar10-stl", tmp_path / "out", ["csc.lmbda=0.5"])
    assert (tmp_path / "out" / MANIFEST).read_bytes() == before
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file/below", "", "nowhere://bucket/b"):
        with pytest.raises(SinkError, match=r"cannot be written: .*; check the path"):
            adjust("cifar10-stl", place, ["csc.lmbda=0.5"])
    with pytest.raises(BundleError, match="no bundle at 'nowhere'"):
        adjust("nowhere", tmp_path / "other", ["csc.lmbda=0.5"])
