"""The script that lays PCL beside other losses, on a handful of images."""

import json
import sys

from raypurify.training.supervision import SUPERVISION


def test_the_script_trains_attacks_goes_on_and_tells(
    benchmark, data_dir, cifar_pictures, tmp_path, monkeypatch, capsys
):
    script = benchmark("semantic_losses")
    monkeypatch.setattr(script, "split_images", lambda data, out, limit: cifar_pictures(limit))
    results = tmp_path / "results.json"
    given = ["--data", data_dir, "--out", tmp_path, "--results", results, "--depth", 8, "--epochs", 2, "--images", 8]
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


def test_every_training_has_settings(benchmark):
    script = benchmark("semantic_losses")
    made = {name: script.settings_of(name, 10, 4, ["lr=0.05"]) for name in script.TRAININGS}
    assert {(how.epochs, how.warm_up, how.lr) for how in made.values()} == {(10, 4, 0.05)}
    assert {how.semantic for how in made.values()} == {"none", "pcl", "center", "contrastive", "triplet"}
