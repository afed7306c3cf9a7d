"""The whole fit of the method front_end on a local Ray, its decoder alone and with a classifier."""

import shutil
from functools import partial

import pytest
import torch
from small_fits import check_flag, chosen_images, report

from raypurify.bundle import load_bundle
from raypurify.bundle.names import DECODER, DICTIONARIES
from raypurify.cli.texts import bundle_text, status_facts
from raypurify.fit.graphs import stage_names
from raypurify.fit.patches import DRAWN, FOUND, learn_patches, load_dictionary
from raypurify.fit.run import fit
from raypurify.methods import checked_facts, classifier_of
from raypurify.nets.front_end import DefendedClassifier, FrontEnd
from raypurify.nets.store import load_network
from raypurify.patches.dictionary import draw_patches, learn_atoms
from raypurify.storage import resolve
from raypurify.training.patches import learned_dictionary, random_patches

SIDE = 16


@pytest.fixture(scope="module")
def run(local_ray, small_set, small_front_settings, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("small-front-run")
    fit([str(small_set)], small_front_settings, run_dir)
    return run_dir


def test_every_stage_completes_and_status_tells_them(run):
    assert stage_names("front_end") == ("prepare", "dictionary", "decoder", "calibrate")
    facts = status_facts(str(run))
    assert (facts["method"], facts["complete"]) == ("front_end", True)
    assert report(run, "dictionary") == {"images": 20, "patches": 300, "atoms": 30}
    assert {"epochs", "loss", "validation_loss", "validation_psnr"} <= {*report(run, "decoder")}


def test_the_dictionary_is_of_patches_as_they_are(run, small_front_settings):
    how, seed = small_front_settings.dictionary, small_front_settings.seed
    images, chosen = chosen_images(run, SIDE, 20, seed)
    patches = torch.cat([draw_patches(image, 4, 15, (seed, int(row)), False) for image, row in zip(images, chosen)])
    expected = learn_atoms(patches, 30, 1.0, 1, seed, lambda count: None, batch=5)
    assert torch.equal(load_dictionary(resolve(run / "dictionary")).flatten(1), expected)
    assert how.batch == 5


def test_a_dictionary_that_was_stopped_goes_on_from_the_patches_it_has(run, small_front_settings, tmp_path):
    """As a kill leaves it: some parts are drawn and none is learned from. What is there is not drawn again."""
    how = small_front_settings.dictionary.model_copy(update={"images": 100})
    source, seed = (resolve(run / "prepare"), 145, SIDE, how), small_front_settings.seed
    drawn_from = partial(random_patches, settings=how, seed=seed)
    learned_from = partial(learned_dictionary, settings=how, seed=seed, batch=how.batch)

    def stopped(*given, **heard):
        raise KeyError("stopped")

    folder, whole = resolve(tmp_path / "stopped"), resolve(tmp_path / "whole")
    with pytest.raises(KeyError, match="stopped"):
        learn_patches(folder, *source, seed, drawn_from, stopped)
    parts = sorted((tmp_path / "stopped" / DRAWN).iterdir())
    assert len(parts) == 2
    parts[1].unlink()
    before = parts[0].stat().st_mtime_ns

    def learned_of_the_first(patches, **heard):
        assert parts[0].stat().st_mtime_ns == before
        return learned_from(patches, **heard)

    reports = [
        learn_patches(folder, *source, seed, drawn_from, learned_of_the_first),
        learn_patches(whole, *source, seed, drawn_from, learned_from),
    ]
    assert reports[0] == reports[1] == {"images": 100, "patches": 1500, "atoms": 30}
    assert (folder / FOUND).read() == (whole / FOUND).read()
    assert not (tmp_path / "stopped" / DRAWN).exists()


def test_the_bundle_is_what_was_trained_and_says_what_it_measured(run, small_front_settings):
    bundle = load_bundle(run / "bundle")
    manifest, measured = bundle.manifest, bundle.manifest.measured
    assert (manifest.method, manifest.cluster_class) == ("front_end", [None])
    assert manifest.settings == small_front_settings
    assert manifest.training == {"dictionary": report(run, "dictionary"), "decoder": report(run, "decoder")}
    network = load_network(run / "decoder" / "network.safetensors", FrontEnd)
    assert torch.equal(bundle.tensors[DICTIONARIES]["atoms"][0], network.encoder.dictionary.half())
    for name, value in network.decoder.state_dict().items():
        assert torch.equal(bundle.tensors[DECODER][f"decoder.{name}"], value.half())
    assert measured["clean"]["images"] == report(run, "prepare")["validation"]
    assert 5 < measured["purified"]["psnr"] < 60
    assert "30 atoms of 4×4, from 20 images, 15 patches of each" in bundle_text(checked_facts(run / "bundle"))


def test_the_flag_is_calibrated_on_the_distances_that_purify_gives(run):
    check_flag(run, SIDE)


def test_a_classifier_costs_the_decoder_and_another_draw_the_calibration(
    run, small_set, small_front_settings, tmp_path, capsys
):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    drawn = small_front_settings.encoder.model_copy(update={"seed": 1})
    fit([str(small_set)], small_front_settings.model_copy(update={"encoder": drawn}), copy)
    assert capsys.readouterr().out.count("complete, skipped") == 3
    together = small_front_settings.decoder.model_copy(update={"supervised": True})
    fit([str(small_set)], small_front_settings.model_copy(update={"decoder": together}), copy)
    assert capsys.readouterr().out.count("complete, skipped") == 2
    assert {"loss", "validation_accuracy"} <= {*report(copy, "decoder")}
    network = load_network(copy / "decoder" / "network.safetensors", DefendedClassifier).half().float()
    classifier = classifier_of(copy / "bundle")
    images = torch.rand(2, 3, SIDE, SIDE)
    torch.testing.assert_close(classifier(images), network.classifier(images), atol=1e-3, rtol=1e-3)
