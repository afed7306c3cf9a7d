"""The command line on one machine, end to end on a tiny prepared folder, in processes of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from planted_images import SIDE, planted
from safetensors.torch import load_file, save_file

from raypurify.cli.app import main
from raypurify.clusters import ClusterDistributions
from raypurify.config import TrainingSettings
from raypurify.errors import ConfigError, TrainingError
from raypurify.nets import WideResNet
from raypurify.nets.store import load_network, save_network
from raypurify.training.checkpoint import read_checkpoint, write_checkpoint
from raypurify.training.data import TRAIN, VALIDATION, ImageSet
from raypurify.training.record import add_line, ended_lines, keep_lines, read_lines
from raypurify.training.single import train_network_here
from raypurify.training.start import starting_network

SETTINGS = {
    "data": {"image_size": SIDE, "validation": 20},
    "network": {"depth": 10, "width": 1},
    "baseline": {"epochs": 2, "batch_size": 32, "lr": 0.05},
    "robust": {"epochs": 12, "batch_size": 32, "lr": 0.05, "ema": 0.5, "attack": {"eps": 0.3, "steps": 1}},
}
# What is missing on a machine that only trains.
BARE = (
    "import sys\n"
    "for name in ('ray', 'numba', 'sporco', 'sklearn', 'torchvision'): sys.modules[name] = None\n"
    "from raypurify.cli.app import main\n"
    "sys.argv[1:1] = ['train']\n"
    "main()"
)


def bare(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", BARE, *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A prepared folder of 160 images, settings, a baseline that the command line trained, clusters of its latents."""
    folder = tmp_path_factory.mktemp("single")
    batch = planted(160, seed=3)
    held = np.random.default_rng(0).permutation(160)[:32]
    for part, rows in {TRAIN: np.setdiff1d(np.arange(160), held)[::-1], VALIDATION: held}.items():
        (folder / "prepare" / part).mkdir(parents=True)
        images = [batch.images[r].numpy().tobytes() for r in rows]
        columns = {"row": rows, "label": batch.labels.numpy()[rows], "image": pa.array(images, pa.binary(3 * SIDE**2))}
        pq.write_table(pa.table(columns), folder / "prepare" / part / "0.parquet")
    (folder / "settings.yaml").write_text(yaml.safe_dump(SETTINGS))
    run = bare("--config", folder / "settings.yaml", "--images", folder / "prepare", "--out", folder / "baseline")
    assert run.returncode == 0, run.stderr
    with torch.no_grad():
        latents = load_network(folder / "baseline" / "network.safetensors").latents(batch.images / 255)
    (folder / "clusters").mkdir()
    distributions = ClusterDistributions.fit(latents, batch.labels)
    save_file(distributions.state(), folder / "clusters" / "distributions.safetensors")
    (folder / "clusters" / "clusters.json").write_text(json.dumps({"form": "ridge"}))
    of_row = batch.labels.numpy().copy()
    of_row[held] = -1
    np.save(folder / "clusters" / "cluster_of_row.npy", of_row)
    return folder


def robust(place: Path, out: str | Path, *more) -> list[str]:
    arguments = ["--config", place / "settings.yaml", "--images", place / "prepare", "--clusters", place / "clusters"]
    arguments += ["--baseline", place / "baseline" / "network.safetensors", "--out", place / out, *more]
    return list(map(str, arguments))


def figures(folder: Path) -> list[dict]:
    """The metrics less what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in lines]


def test_the_baseline_is_trained_without_ray(place):
    out = place / "baseline"
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert load_network(out / "network.safetensors").settings["classes"] == 2
    assert [line["epoch"] for line in figures(out)] == [0, 1]
    assert set(figures(out)[0]) == {"epoch", "loss", "accuracy", "validation_accuracy", "device"}


def test_a_killed_robust_training_goes_on_to_the_same_network(place, capsys):
    whole = bare(*robust(place, "whole", "--every", 2))
    assert whole.returncode == 0, whole.stderr
    assert set(figures(place / "whole")[0]) >= {"distance", "validation_pgd_accuracy", "validation_pgd_distance"}

    arguments = robust(place, "killed", "--every", 2)
    command = [sys.executable, "-m", "raypurify", "train", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    checkpoint = place / "killed" / "checkpoint.pt"
    while not checkpoint.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = read_checkpoint(checkpoint)["epochs"]
    assert 0 < done < 12
    assert train(arguments) == 0
    assert f"going on after epoch {done}" in capsys.readouterr().out
    assert figures(place / "killed") == figures(place / "whole")
    one, other = (place / name / "network.safetensors" for name in ("whole", "killed"))
    assert one.read_bytes() == other.read_bytes()


def train(arguments) -> int:
    """Run the command in this process; its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["raypurify", "train", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
    return left.value.code or 0


def complaint(capsys, arguments) -> str:
    assert train(arguments) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    return err


def complaint_of_usage(capsys, arguments) -> str:
    assert train(arguments) == 2
    return capsys.readouterr().err


def test_rows_of_table_one_can_be_set(place, tmp_path):
    """PGD adversarial training from random weights, then semantic training from its weights, then from TRADES's."""
    few = ["--set", "robust.epochs=1"]
    for loss in ("ce", "trades"):
        arguments = [place / "settings.yaml", "--images", place / "prepare", "--out", tmp_path / loss, "--robust"]
        changes = ["--set", "robust.alpha=0", "--set", "robust.init=random", "--set", f"robust.loss={loss}"]
        assert train(["--config", *map(str, arguments), *changes, *few]) == 0
        init = f"robust.init={tmp_path / loss}/network.safetensors"
        assert train(robust(place, tmp_path / f"rst-{loss}", "--set", init, *few)) == 0
        assert "distance" not in figures(tmp_path / loss)[0]
        assert "distance" in figures(tmp_path / f"rst-{loss}")[0]


def test_a_semantic_loss_of_classes_is_a_setting_and_leaves_its_centres(place, tmp_path, capsys):
    changes = ["--set", "robust.semantic=pcl", "--set", "robust.branches=[2]", "--set", "robust.epochs=1"]
    assert train(robust(place, tmp_path / "out", *changes)) == 0
    assert "pcl" in capsys.readouterr().out
    assert set(figures(tmp_path / "out")[0]) >= {"pcl", "pcl_group2", "loss_group2", "validation_distance"}
    held = load_file(tmp_path / "out" / "supervision.safetensors")
    assert {name: tuple(value.shape) for name, value in held.items() if "centres" in name} == {
        "losses.group2.centres": (2, 512),
        "losses.latents.centres": (2, 64),
    }
    names = load_file(tmp_path / "out" / "network.safetensors")
    assert set(names) == set(WideResNet(10, 1, 2).state_dict())
    assert train(robust(place, tmp_path / "out", *changes)) == 0
    assert "going on after epoch 1" in capsys.readouterr().out


def test_npz_images_are_split_by_a_seeded_choice(place, tmp_path):
    batch = planted(120, seed=3)
    files = [tmp_path / f"{i}.npz" for i in range(3)]
    for i, file in enumerate(files):
        np.savez(file, images=batch.images[40 * i :][:40].numpy(), labels=batch.labels[40 * i :][:40].numpy())
    few = ["--set", "data.limit=64", "--set", "baseline.epochs=1"]
    # As a shell's * gives them, and by an option each.
    given = {"star": ["--images", *files], "each": [part for file in files for part in ("--images", file)]}
    for name, images in given.items():
        assert train(["--config", place / "settings.yaml", "--out", tmp_path / name, *few, *images]) == 0
        assert len(figures(tmp_path / name)) == 1
    one, other = ((tmp_path / name / "network.safetensors").read_bytes() for name in given)
    assert one == other


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--set", "robust.loss=hinge"], "robust.loss"),
        (["--set", "robust.init=nowhere"], "give baseline, random, first or the path"),
        (["--set", "robust.init=/no/network.safetensors"], "there is no network at /no/network.safetensors"),
        (["--set", "network.width=2", "--set", "robust.init=random"], "the clusters have 64 features, the network 128"),
        (["--set", "network.depth=16"], "depth 10, not 16"),
        (["--set", "robust.loss=trades", "--set", "robust.attack.random_start=false"], "needs attack.random_start"),
        (["--set", "robust.batch_size=4096"], "do not fill one batch of 4096"),
        (["--set", "robust.semantic=hinge"], "robust.semantic"),
        (["--set", "robust.semantic=pcl", "--set", "robust.branches=[4]"], "the network has no group4"),
        (["--clusters", "/no/clusters"], "cannot read the clusters in /no/clusters"),
        (["--images", "/no/images"], "cannot read images from /no/images"),
        (["--config", "/no/settings.yaml"], "/no/settings.yaml"),
    ],
)
def test_what_cannot_be_done_is_one_line(place, tmp_path, capsys, more, message):
    assert message in complaint(capsys, robust(place, tmp_path / "out", *more))


def test_settings_that_need_more_are_refused(place, tmp_path, capsys):
    arguments = ["--config", place / "settings.yaml", "--images", place / "prepare", "--out", tmp_path / "out"]
    arguments = list(map(str, arguments))
    assert "robust.init is baseline, but no such network" in complaint(capsys, [*arguments, "--robust"])
    assert "alpha" in complaint(capsys, [*arguments, "--robust", "--set", "robust.init=random"])
    assert "--baseline is what" in complaint(capsys, [*arguments, "--baseline", "x"])
    arguments[3] = str(place / "prepare" / TRAIN)
    assert "too few to hold out 500" in complaint(capsys, [*arguments, "--set", "data.validation=500"])
    assert "every" in complaint_of_usage(capsys, [*arguments, "--every", "0"])


def test_settings_of_another_method_are_refused(place, tmp_path, capsys):
    settings = tmp_path / "stl.yaml"
    settings.write_text(yaml.safe_dump({"method": "stl", "data": SETTINGS["data"], "dae": {"epochs": 1}}))
    arguments = ["--config", str(settings), "--images", str(place / "prepare"), "--out", str(tmp_path / "out")]
    assert "of the method stl, and here the networks of rsfp are trained" in complaint(capsys, arguments)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_training_or_a_damaged_checkpoint_is_refused(place, tmp_path, capsys):
    arguments = ["--config", place / "settings.yaml", "--images", place / "prepare", "--out", tmp_path / "out"]
    arguments = [*map(str, arguments), "--set", "baseline.epochs=1"]
    assert train(arguments) == 0
    made = (tmp_path / "out" / "network.safetensors").read_bytes()
    assert train(arguments) == 0
    assert (tmp_path / "out" / "network.safetensors").read_bytes() == made
    assert len(figures(tmp_path / "out")) == 1
    assert "training of other settings" in complaint(capsys, [*arguments, "--set", "baseline.lr=0.01"])
    others = ["--held-out", str(place / "prepare" / TRAIN)]
    assert "training of other images" in complaint(capsys, [*arguments, *others])
    (tmp_path / "out" / "checkpoint.pt").write_bytes(b"no checkpoint")
    assert "cannot read the checkpoint" in complaint(capsys, arguments)


def test_an_init_of_another_architecture_is_refused(tmp_path):
    save_network(tmp_path / "network.safetensors", WideResNet(10, 2, 3))
    with pytest.raises(ConfigError, match="width 2, not 1, classes 3, not 2"):
        starting_network(
            str(tmp_path / "network.safetensors"), {"depth": 10, "width": 1, "classes": 2, "dropout": 0.0}, seed=0
        )


def test_a_start_keeps_weights_and_takes_the_dropout_asked_for(tmp_path):
    network = WideResNet(10, 1, 2)
    save_network(tmp_path / "network.safetensors", network)
    architecture = {"depth": 10, "width": 1, "classes": 2, "dropout": 0.3}
    started = starting_network("baseline", architecture, seed=0, baseline=tmp_path / "network.safetensors")
    assert all(torch.equal(value, started.state_dict()[name]) for name, value in network.state_dict().items())
    assert started.settings["dropout"] == 0.3
    drawn = [starting_network("random", architecture, seed=seed).head.weight for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_lines_of_epochs_done_again_count_once(tmp_path):
    for epoch in (0, 1, 2, 1):
        add_line(tmp_path, epoch, {"loss": 1 / 3 + epoch, "note": "x"})
    assert [line["epoch"] for line in read_lines(tmp_path)] == [0, 1, 2]
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "lo')
    keep_lines(tmp_path, 2)
    add_line(tmp_path, 2, {"loss": 0.5})
    assert [line["loss"] for line in read_lines(tmp_path)] == [0.33333, 1.33333, 0.5]


def test_a_checkpoint_is_whole_or_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    write_checkpoint(path, {"epochs": 1})

    def broken(tree, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(path, {"epochs": 2})
    assert read_checkpoint(path) == {"epochs": 1}
    assert os.path.getsize(path) > 100


@pytest.mark.parametrize("held", [None, b"[]", b"{", b"\xff"])
def test_a_damaged_identity_says_what_can_be_done(tmp_path, held):
    (tmp_path / "checkpoint.pt").write_bytes(b"")
    if held is not None:
        (tmp_path / "training.json").write_bytes(held)
    batch = planted(32, seed=0)
    images = ImageSet(np.arange(32), batch.labels.numpy(), batch.images.numpy())
    settings = TrainingSettings(epochs=1, batch_size=16)
    with pytest.raises(TrainingError, match=rf"training\.json is .*: delete {tmp_path}/checkpoint\.pt to train from"):
        train_network_here(tmp_path, WideResNet(10, 1, 2), images, images, settings, architecture={})


@pytest.mark.parametrize("held", [None, b"", b"garbage", b"[1]\n3\n{}\n", b"\xff\n"])
def test_metrics_without_a_line_are_named_at_the_end(tmp_path, held):
    if held is not None:
        (tmp_path / "metrics.jsonl").write_bytes(held)
    assert read_lines(tmp_path) == []
    with pytest.raises(TrainingError, match=rf"metrics\.jsonl is missing or damaged.*delete the folder {tmp_path}"):
        ended_lines(tmp_path)


@pytest.mark.parametrize("held", [b"", b"garbage", b"PK\x03\x04xx", [1], {"epochs": "x"}, {"epochs": 1, "x": object}])
def test_a_damaged_checkpoint_is_named_without_advice_to_load_it_unsafely(tmp_path, held):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(held) if isinstance(held, bytes) else torch.save(held, path)
    with pytest.raises(TrainingError, match=r"cannot read the checkpoint .*; remove it to train") as refused:
        read_checkpoint(path)
    assert "weights_only" not in str(refused.value)
    with pytest.raises(TrainingError, match="remove the folder RUN/robust to train"):
        read_checkpoint(path, "RUN/robust")
