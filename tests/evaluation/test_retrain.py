"""A classifier retrained on purified images, and a grid whose attacker takes it for what it was before."""

import csv
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from raypurify.cli.texts import status_facts
from raypurify.errors import ConfigError, DataError, TrainingError
from raypurify.evaluation.digests import classifier_digest
from raypurify.evaluation.grid import load_grid
from raypurify.evaluation.retrain import STAGES, retrain
from raypurify.evaluation.run import evaluate
from raypurify.evaluation.subjects import make_classifier
from raypurify.purifiers import JPEG
from raypurify.runtime.stages import MARKER
from raypurify.training.data import TRAIN, VALIDATION, read_part, read_pixels
from raypurify.training.noise import with_noise
from raypurify.training.record import read_lines

TRAINED, HELD_OUT, NOISE = 192, 64, (0.0, 0.04)


@pytest.fixture(scope="module")
def tree(data_file):
    test = str(data_file("cifar10/test.parquet"))
    return {
        "images": {"paths": test, "limit": 12},
        "classifiers": {"net": {"kind": "cifar-resnet", "path": str(data_file("cifar10-resnet/resnet20-12fca82f.th"))}},
        "attacks": {"clean": {"attack": "clean"}, "FGSM": {"attack": "fgsm", "eps": 0.02}},
        "purifiers": {"none": {"purifier": "none"}, "JPEG": {"purifier": "jpeg", "quality": 60}},
        "examples": 0,
        "retraining": {
            "paths": test,
            "limit": TRAINED,
            "validation": HELD_OUT,
            "noise": list(NOISE),
            "training": {"epochs": 2, "batch_size": 32, "lr": 0.02, "precision": "float32", "workers": 1},
        },
    }


@pytest.fixture(scope="module")
def run(tree, local_ray, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("retrained") / "run"
    return run_dir, retrain(load_grid(tree), "net", "JPEG", run_dir)


def test_the_classifier_has_moved_and_its_record_is_there(run, tree):
    run_dir, weights = run
    before, after = make_classifier(load_grid(tree).classifiers["net"]).state_dict(), load_file(weights)
    assert set(before) == set(after)
    assert not torch.equal(before["conv1.weight"], after["conv1.weight"])
    lines = read_lines(weights.parent)
    assert [set(line) >= {"loss", "validation_accuracy", "workers"} for line in lines] == [True, True]
    assert lines[-1]["validation_accuracy"] > 0.6
    assert [(one["name"], one["state"]) for one in status_facts(str(run_dir))["stages"]] == [
        (s, "complete") for s in STAGES
    ]


def test_it_was_trained_on_what_the_purifier_leaves_of_noisy_images(run):
    run_dir, _ = run
    sizes = []
    for part, count in ((TRAIN, TRAINED), (VALIDATION, HELD_OUT)):
        before, after = (read_part(run_dir / stage, part) for stage in ("images", "purified"))
        assert len(before) == count
        for name in ("row", "id", "label"):
            assert before[name].to_pylist() == after[name].to_pylist()
        clean, rows = read_pixels(before, 32), before["row"].to_pylist()
        noisy = np.stack([with_noise(image, NOISE, 0, row) for image, row in zip(clean, rows)])
        expected = JPEG(quality=60).purify(torch.from_numpy(noisy)).images.numpy()
        np.testing.assert_allclose(read_pixels(after, 32) / 255, expected, atol=0.51 / 255)
        change = np.linalg.norm((noisy - clean / np.float32(255)).reshape(count, -1), axis=1)
        sizes += (change / np.linalg.norm((clean / 255).reshape(count, -1), axis=1)).round(2).tolist()
    # Clipping at white or black takes a little of the noise.
    assert all(size == 0 or 0.03 <= size <= 0.04 for size in sizes)
    assert 0.3 < np.mean(np.array(sizes) == 0) < 0.7


def test_the_same_command_again_does_nothing_and_an_interrupted_one_goes_on(run, tree, capsys, tmp_path):
    run_dir, weights = run
    assert retrain(load_grid(tree), "net", "JPEG", run_dir) == weights
    assert capsys.readouterr().out.count("complete, skipped") == len(STAGES)
    again = tmp_path / "run"
    shutil.copytree(run_dir, again)
    marker = json.loads((again / "purified" / MARKER).read_text())
    (again / "purified" / MARKER).write_text(json.dumps(marker | {"state": "running"}))
    lost = sorted((again / "purified" / TRAIN).glob("*.parquet"))[0]
    before = lost.read_bytes()
    lost.unlink()
    retrain(load_grid(tree), "net", "JPEG", again)
    assert "purified: going on from an interrupted run" in capsys.readouterr().out
    assert lost.read_bytes() == before
    assert pq.read_metadata(lost).num_rows


def test_an_attacker_who_takes_it_for_the_one_before_shares_its_attacks(run, tree, tmp_path):
    _, weights = run
    net = tree["classifiers"]["net"]
    classifiers = {
        "net": net,
        "unknown": {**net, "retrained": str(weights), "attacked_as": "net"},
        "known": {**net, "retrained": str(weights)},
    }
    evaluate(load_grid({**tree, "classifiers": classifiers}), tmp_path / "out")
    assert len(list((tmp_path / "out" / "adversarial").iterdir())) == 2
    assert len(list((tmp_path / "out" / "cells").iterdir())) == 3 * 2 * 2
    with (tmp_path / "out" / "cells.csv").open(encoding="utf-8") as file:
        found = {(row["classifier"], row["attack"], row["purifier"]): row for row in csv.DictReader(file)}
    assert found["net", "FGSM", "none"]["dissimilarity"] == found["unknown", "FGSM", "none"]["dissimilarity"]
    assert found["net", "FGSM", "none"]["dissimilarity"] != found["known", "FGSM", "none"]["dissimilarity"]
    assert float(found["known", "FGSM", "none"]["accuracy"]) <= float(found["unknown", "FGSM", "none"]["accuracy"])


@pytest.mark.slow
def test_a_robust_network_stays_one_by_adversarial_training(data_file, tree, local_ray, tmp_path):
    attack = {"norm": "linf", "eps": 0.03, "steps": 2}
    training = {"epochs": 1, "batch_size": 32, "lr": 0.001, "loss": "trades", "alpha": 0, "attack": attack}
    robust = {"kind": "bundle", "path": "imagenet10"}
    how = {**tree["retraining"], "limit": 64, "validation": 32, "training": training}
    grid = load_grid({**tree, "classifiers": {"robust": robust}, "retraining": how})
    weights = retrain(grid, "robust", "JPEG", tmp_path / "run")
    (line,) = read_lines(weights.parent)
    assert 0 <= line["validation_pgd_accuracy"] <= line["validation_accuracy"]
    made = {**tree, "classifiers": {"net": {**robust, "retrained": str(weights)}}}
    assert make_classifier(load_grid(made).classifiers["net"])(torch.rand(1, 3, 32, 32)).shape == (1, 10)
    for wrong, said in (({"alpha": 0.1}, "training.alpha weighs distances"), ({"init": "first"}, "leave it out")):
        with pytest.raises(ConfigError, match=said):
            load_grid({**tree, "retraining": {**how, "training": {**training, **wrong}}})


def test_what_cannot_be_trained_is_refused_by_name(tree, data_file, tmp_path, run):
    grid = load_grid(tree)
    with pytest.raises(ConfigError, match="'other' is none of the classifiers of the grid: net"):
        retrain(grid, "other", "JPEG", tmp_path / "run")
    with pytest.raises(ConfigError, match="'other' is none of the purifiers of the grid: none, JPEG"):
        retrain(grid, "net", "other", tmp_path / "run")
    with pytest.raises(ConfigError, match="the grid has no part retraining"):
        retrain(load_grid({**tree, "retraining": None}), "net", "JPEG", tmp_path / "run")
    few = {**tree["classifiers"]["net"], "outputs": [0, 1, 2]}
    with pytest.raises(DataError, match="net tells 3 classes apart, the images have 10"):
        retrain(load_grid({**tree, "classifiers": {"net": few}}), "net", "JPEG", tmp_path / "run")


def test_weights_that_do_not_fit_are_named(run, tree, data_file, tmp_path):
    _, weights = run
    lost = {**tree["classifiers"]["net"], "retrained": str(tmp_path / "no.safetensors")}
    spec = load_grid({**tree, "classifiers": {"net": lost}}).classifiers["net"]
    with pytest.raises(ConfigError, match=r"no retrained weights at .*no\.safetensors: raypurify retrain makes them"):
        classifier_digest(spec)
    other = {"kind": "bundle", "path": "cifar10", "retrained": str(weights)}
    with pytest.raises(TrainingError, match=r"cannot read weights from .*network\.safetensors"):
        make_classifier(load_grid({**tree, "classifiers": {"net": other}}).classifiers["net"])
    with pytest.raises(ConfigError, match="attacked as 'net', which is no other one here"):
        load_grid({**tree, "classifiers": {"net": {**tree["classifiers"]["net"], "attacked_as": "net"}}})
