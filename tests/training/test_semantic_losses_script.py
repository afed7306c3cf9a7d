"""The script that lays PCL beside other losses, on a handful of images."""

import json
import sys

import pytest
import torch

from raypurify.nets.places import places_of
from raypurify.training.supervision import SUPERVISION


def test_the_script_trains_attacks_goes_on_and_tells(
    benchmark, data_dir, cifar_pictures, tmp_path, monkeypatch, capsys
):
    script = benchmark("semantic_losses")
    monkeypatch.setattr(script, "split_images", lambda data, out, limit: cifar_pictures(limit))
    results = tmp_path / "results.json"
    given = [
        "--data",
        data_dir,
        "--out",
        tmp_path,
        "--results",
        results,
        "--network",
        "resnet-8",
        "--epochs",
        2,
        "--images",
        8,
    ]
    given += ["--batch-size", 4, "--test-images", 4, "--seeds", 1, "--attacks", "clean", "FGSM", "CW 0.1"]
    given += ["--only", "softmax", "pcl + FGSM"]
    monkeypatch.setitem(script.ATTACKS, "CW 0.1", ("cw", script.ATTACKS["CW 0.1"][1] | {"steps": 2}))
    monkeypatch.setattr(sys, "argv", ["semantic_losses.py", *map(str, given)])
    script.main()
    facts = json.loads(results.read_text())
    assert facts["command"].startswith("python benchmarks/semantic_losses.py --data DIR --out RUN --results RESULTS")
    (plain,), (held,) = facts["trainings"].values()
    assert list(plain["accuracy"]) == ["clean", "FGSM", "CW 0.1"]
    assert list(held["accuracy"]) == ["clean", "FGSM", "FGSM, knows centres", "CW 0.1"]
    assert (tmp_path / "pcl-+-FGSM" / "0" / SUPERVISION).exists()
    capsys.readouterr()
    script.main()
    assert "FGSM" not in capsys.readouterr().out.replace("pcl + FGSM, seed 0: going on", "")
    assert json.loads(results.read_text())["trainings"] == facts["trainings"]
    monkeypatch.setattr(sys, "argv", ["semantic_losses.py", "--table", "--results", str(results)])
    script.main()
    assert "| pcl + FGSM | 1 | " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("network", "branch_dims", "lr"),
    [("resnet-20", {2: 512, 3: 512}, 0.1), ("resnet-110", {2: 512, 3: 0}, 0.02), ("cnn-6", {3: 0, 4: 0}, 0.005)],
)
def test_every_training_has_settings(benchmark, network, branch_dims, lr):
    script = benchmark("semantic_losses")
    made = {name: script.settings_of(name, network, 10, 4, ["momentum=0.5"]) for name in script.TRAININGS}
    assert {(how.epochs, how.warm_up, how.lr, how.momentum) for how in made.values()} == {(10, 4, lr, 0.5)}
    assert {how.semantic for how in made.values()} == {"none", "pcl", "center", "contrastive", "triplet"}
    # The paper's layers 3, 4 and 5.
    assert (made["pcl"].branch_dims, made["pcl"].latents) == (branch_dims, True)
    assert (made["softmax"].branch_dims, made["softmax"].alpha) == ({}, 0)
    held = {layer: (how.branch_dims, how.latents) for layer in (4, 5) if (how := made[f"pcl at layer {layer}"])}
    latents = 4 if network == "resnet-20" else 5
    assert held.pop(latents) == ({}, True)
    assert held == {9 - latents: ({max(branch_dims): branch_dims[max(branch_dims)]}, False)}


@pytest.mark.parametrize("network", ["resnet-8", "resnet-110", "cnn-6"])
def test_networks_have_the_places_of_every_training(benchmark, network):
    script = benchmark("semantic_losses")
    with torch.device("meta"):
        made = script.NETWORKS[network].make()
    groups = len(places_of(made).groups)
    assert all(
        max(script.settings_of(name, network, 10, 4, []).branches, default=0) <= groups for name in script.TRAININGS
    )
