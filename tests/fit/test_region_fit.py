"""The whole fit of the method region_sparse on a local Ray: its dictionary, its bundle, and what a kill leaves."""

import json
import shutil

import pytest
import torch
from small_fits import check_flag, chosen_images, report

from raypurify.bundle import load_bundle
from raypurify.bundle.names import DICTIONARIES
from raypurify.cli.texts import bundle_text, status_facts
from raypurify.fit import patches
from raypurify.fit.graphs import stage_names
from raypurify.fit.patches import DRAWN, FOUND, PICTURE, load_dictionary
from raypurify.fit.region_sparse import learn_dictionary
from raypurify.fit.run import fit
from raypurify.methods import checked_facts
from raypurify.patches.dictionary import cosine_atoms
from raypurify.storage import resolve
from raypurify.training.patches import benign_patches, patch_dictionary

ROWS, SIDE = 145, 16


@pytest.fixture(scope="module")
def run(local_ray, small_set, small_region_settings, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("small-region-run")
    fit([str(small_set)], small_region_settings, run_dir)
    return run_dir


@pytest.fixture
def learn(run, small_region_settings):
    """Does the stage dictionary in a folder."""

    def learn(folder, ablations=()):
        settings = small_region_settings.model_copy(update={"ablations": ablations})
        return learn_dictionary(resolve(folder), resolve(run / "prepare"), ROWS, settings)

    return learn


def test_every_stage_completes_and_status_tells_them(run):
    assert stage_names("region_sparse") == ("prepare", "dictionary", "calibrate")
    facts = status_facts(str(run))
    assert (facts["method"], facts["complete"]) == ("region_sparse", True)
    assert [one["state"] for one in facts["stages"]] == ["complete"] * 3
    assert (run / "dictionary" / PICTURE).read_bytes().startswith(b"\x89PNG")
    progress = json.loads((run / "dictionary" / "progress.json").read_text())
    assert progress["done"] == progress["total"] == 2 * 20 * 15
    assert sorted(path.name for path in (run / "dictionary").iterdir() if path.is_dir()) == []


def test_the_dictionary_is_learned_from_a_seeded_choice_of_training_images(run, small_region_settings):
    how, seed = small_region_settings.patches, small_region_settings.seed
    images, chosen = chosen_images(run, SIDE, 20, seed)
    drawn = benign_patches(images, chosen, how, (), seed)
    expected = patch_dictionary(drawn, how, (), seed, lambda count: None)
    assert torch.equal(load_dictionary(resolve(run / "dictionary")), expected)
    assert report(run, "dictionary") == {"images": 20, "patches": 300, "atoms": 12}


def test_a_stage_that_was_killed_ends_with_the_same_bytes(run, learn, tmp_path, monkeypatch):
    def dies(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(patches, "PART", 8)
    monkeypatch.setattr(patches, "write_dictionary", dies)
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path)
    files = sorted((tmp_path / DRAWN).iterdir())
    assert len(files) == 3
    # Of two files one is as the kill left it, and is not drawn again.
    kept = files[0].read_bytes()
    files[1].unlink()
    stamp = files[0].stat().st_mtime_ns
    monkeypatch.undo()
    monkeypatch.setattr(patches, "PART", 8)
    seen = []
    remove = type(resolve(tmp_path)).delete_folder

    def removing(place):
        if place.name == DRAWN:
            seen.append((files[0].read_bytes() == kept, files[0].stat().st_mtime_ns == stamp))
        remove(place)

    monkeypatch.setattr(type(resolve(tmp_path)), "delete_folder", removing)
    learn(tmp_path)
    assert seen == [(True, True)]
    assert (tmp_path / FOUND).read_bytes() == (run / "dictionary" / FOUND).read_bytes()


def test_without_training_the_atoms_are_cosines(learn, tmp_path):
    assert learn(tmp_path, ("noTR",))["atoms"] == 75
    assert torch.equal(load_dictionary(resolve(tmp_path)), cosine_atoms(5))


def test_the_bundle_is_loadable_and_says_what_it_measured(run, small_region_settings):
    bundle = load_bundle(run / "bundle")
    manifest, measured = bundle.manifest, bundle.manifest.measured
    assert (manifest.method, manifest.cluster_class) == ("region_sparse", [None])
    assert manifest.settings == small_region_settings
    assert manifest.training == {"dictionary": report(run, "dictionary")}
    assert bundle.tensors[DICTIONARIES]["atoms"].shape == (1, 12, 3, 5, 5)
    assert measured["clean"]["images"] == report(run, "prepare")["validation"]
    assert measured["purified"]["images"] == 12
    assert 0 < measured["purified"]["region_share"] <= 1
    assert 10 < measured["purified"]["psnr"] < 60
    assert "largest_share" not in measured["clean"]
    text = bundle_text(checked_facts(run / "bundle"))
    assert all(part in text for part in ("region_sparse", "3 atoms a patch", "from 20 images, 15 patches of each"))


def test_the_flag_is_calibrated_on_the_distances_that_purify_gives(run):
    check_flag(run, SIDE)


def test_another_filter_costs_the_calibration_alone(run, small_set, small_region_settings, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    fit([str(small_set)], small_region_settings, copy)
    assert capsys.readouterr().out.count("complete, skipped") == 3
    fit([str(small_set)], small_region_settings.model_copy(update={"ablations": ("noBS",)}), copy)
    assert capsys.readouterr().out.count("complete, skipped") == 2
