"""A fit that is killed or interrupted goes on from where it was: the command line on a real local Ray."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pytest
import torch
import yaml

from raypurify.bundle import load_bundle
from raypurify.clusters import ClusterDistributions
from raypurify.clusters.files import load_clusters, load_labels
from raypurify.clusters.strata import fit_strata
from raypurify.errors import TrainingError
from raypurify.fit.class_latents import pieces_of, read_latents
from raypurify.fit.graphs import stage_names
from raypurify.fit.latents import PARTS
from raypurify.fit.train import NETWORK
from raypurify.nets.store import load_network
from raypurify.runtime.stages import MARKER
from raypurify.storage import resolve
from raypurify.training.checkpoint import read_checkpoint
from raypurify.training.data import TRAIN, read_part, read_pixels

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture
def command(tmp_path, small_set, small_settings):
    tree = small_settings.model_dump()
    tree["baseline"]["epochs"] = 8
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(tree))
    run_dir = tmp_path / "run"
    arguments = ["fit", "--data", small_set, "--config", tmp_path / "settings.yaml", "--run-dir", run_dir]
    return run_dir, [sys.executable, "-m", "raypurify", *map(str, arguments)]


def start_and_stop(command: list[str], ready, number: int) -> subprocess.CompletedProcess:
    """Run until ``ready()``, send the signal, and wait for the end."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    while not ready():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}


@pytest.fixture
def stl_command(tmp_path, small_set, small_stl_settings):
    tree = small_stl_settings.model_dump()
    tree["dae"]["epochs"] = 8
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(tree))
    arguments = ["fit", "--data", small_set, "--config", tmp_path / "settings.yaml", "--run-dir", tmp_path / "run"]
    return tmp_path / "run", [sys.executable, "-m", "raypurify", *map(str, arguments), "--method", "stl"]


def test_a_fit_of_stl_goes_on_after_a_kill_in_each_of_its_own_stages(stl_command, small_stl_settings):
    run_dir, arguments = stl_command
    metrics = run_dir / "dae" / "metrics.jsonl"
    stopped = start_and_stop(
        arguments, lambda: metrics.exists() and len(metrics.read_text().splitlines()) >= 4, signal.SIGKILL
    )
    assert stopped.returncode == -signal.SIGKILL
    before = metrics.read_text().splitlines()[:2]
    stopped = start_and_stop(arguments, (run_dir / "strata" / MARKER).exists, signal.SIGKILL)
    assert "dae: going on from an interrupted run" in stopped.stdout
    lines = metrics.read_text().splitlines()
    assert lines[:2] == before
    assert sorted({json.loads(line)["epoch"] for line in lines}) == list(range(8))
    again = subprocess.run(arguments, capture_output=True, text=True, env=environment(), timeout=600)
    assert again.returncode == 0, again.stderr
    assert "latents: complete, skipped" in again.stdout
    assert "strata: going on from an interrupted run" in again.stdout
    assert all((run_dir / stage).is_dir() for stage in stage_names("stl"))
    # Strata that nobody stopped are the same.
    folder = resolve(run_dir / "latents" / PARTS)
    rows, latents = read_latents([piece for c in range(3) for piece in pieces_of(folder / f"label={c}")])
    order = np.argsort(rows)
    undisturbed = fit_strata(latents[order], small_stl_settings.strata, small_stl_settings.seed)
    assert (load_labels(run_dir / "strata")[rows[order]] == undisturbed.labels).all()
    assert load_bundle(run_dir / "bundle").manifest.method == "stl"


def test_a_fit_of_region_sparse_goes_on_after_a_kill_with_the_same_dictionary(
    tmp_path, small_set, small_region_settings
):
    tree = small_region_settings.model_dump(mode="json")
    # So many that it is killed before the last of them.
    tree["patches"] |= {"images": 120, "passes": 60}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(tree))
    arguments = ["fit", "--data", small_set, "--config", tmp_path / "settings.yaml", "--run-dir"]
    command = [sys.executable, "-m", "raypurify", *map(str, arguments)]
    drawn = tmp_path / "run" / "dictionary" / "patches"
    stopped = start_and_stop(
        [*command, str(tmp_path / "run")], lambda: drawn.exists() and any(drawn.iterdir()), signal.SIGKILL
    )
    assert stopped.returncode == -signal.SIGKILL
    assert not (tmp_path / "run" / "dictionary" / "dictionary.safetensors").exists()
    for name in ("run", "undisturbed"):
        done = subprocess.run([*command, str(tmp_path / name)], capture_output=True, text=True, env=environment())
        assert done.returncode == 0, done.stderr
        assert ("dictionary: going on from an interrupted run" in done.stdout) == (name == "run")
    learned = [
        (tmp_path / name / "dictionary" / "dictionary.safetensors").read_bytes() for name in ("run", "undisturbed")
    ]
    assert learned[0] == learned[1]
    assert load_bundle(tmp_path / "run" / "bundle").manifest.method == "region_sparse"


def test_a_fit_of_front_end_goes_on_after_a_kill_in_each_of_its_own_stages_with_the_same_bytes(
    tmp_path, small_set, small_front_settings
):
    tree = small_front_settings.model_dump(mode="json")
    # Two files of patches, and so many steps that it is killed before the last of them.
    tree["dictionary"] |= {"images": 110, "passes": 40}
    tree["decoder"] |= {"supervised": True, "epochs": 6, "batch_size": 8, "checkpoint_steps": 2}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(tree))
    arguments = ["fit", "--data", small_set, "--config", tmp_path / "settings.yaml", "--run-dir"]
    command = [sys.executable, "-m", "raypurify", *map(str, arguments)]
    run = tmp_path / "run"
    drawn = run / "dictionary" / "patches"

    def within_an_epoch() -> bool:
        for file in run.glob("decoder/ray_train/*/checkpoint.pt"):
            # Others are on their way, or out of date and gone.
            with suppress(TrainingError):
                found = read_checkpoint(file)
                if found["epochs"] >= 2 and found["within"]["step"]:
                    return True
        return False

    for ready in (lambda: drawn.exists() and any(drawn.iterdir()), within_an_epoch):
        stopped = start_and_stop([*command, str(run)], ready, signal.SIGKILL)
        assert stopped.returncode == -signal.SIGKILL
    assert "dictionary: going on from an interrupted run" in stopped.stdout
    assert not (run / "decoder" / "network.safetensors").exists()
    for name in ("run", "undisturbed"):
        done = subprocess.run([*command, str(tmp_path / name)], capture_output=True, text=True, env=environment())
        assert done.returncode == 0, done.stderr
        assert ("decoder: going on from an interrupted run" in done.stdout) == (name == "run")
        assert ("dictionary: complete, skipped" in done.stdout) == (name == "run")
    for file in ("dictionary/dictionary.safetensors", "decoder/network.safetensors", "bundle/decoder.safetensors"):
        one, other = ((tmp_path / name / file).read_bytes() for name in ("run", "undisturbed"))
        assert one == other, file


def test_a_fit_without_the_pull_goes_on_after_a_kill_in_each_of_the_stages_that_it_alone_has(command):
    run_dir, arguments = command
    changes = ["baseline.epochs=1", "robust_first=null", "robust.init=baseline", "robust.alpha=0"]
    arguments += [part for change in changes for part in ("--set", change)] + ["--until", "robust_clusters"]
    for stage in ("robust_latents", "robust_clusters"):
        stopped = start_and_stop(arguments, (run_dir / stage / MARKER).exists, signal.SIGKILL)
        assert stopped.returncode == -signal.SIGKILL
    assert "robust_latents: going on from an interrupted run" in stopped.stdout
    again = subprocess.run(arguments, capture_output=True, text=True, env=environment(), timeout=600)
    assert again.returncode == 0, again.stderr
    assert "robust_latents: complete, skipped" in again.stdout
    assert "robust_clusters: going on from an interrupted run" in again.stdout
    # What nobody stopped would be the same.
    images = read_part(run_dir / "prepare", TRAIN)
    folder = resolve(run_dir / "robust_latents" / PARTS)
    rows, latents = read_latents([piece for c in range(3) for piece in pieces_of(folder / f"label={c}")])
    latents, order = latents[np.argsort(rows)], np.argsort(images["row"].to_numpy())
    assert (np.sort(rows) == images["row"].to_numpy()[order]).all()
    with torch.no_grad():
        pixels = torch.from_numpy(read_pixels(images, 16).copy()).float() / 255
        undisturbed = load_network(run_dir / "robust" / NETWORK).latents(pixels).numpy()[order]
    np.testing.assert_allclose(latents, undisturbed, rtol=1e-4, atol=1e-4)
    found, of_row = load_clusters(run_dir / "robust_clusters")
    assert (of_row == load_labels(run_dir / "clusters")).all()
    expected = ClusterDistributions.fit(latents, of_row[np.sort(rows)])
    torch.testing.assert_close(found.means, expected.means, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_training_goes_on_from_its_last_checkpoint(command, number):
    run_dir, arguments = command
    metrics = run_dir / "baseline" / "metrics.jsonl"
    stopped = start_and_stop(arguments, lambda: metrics.exists() and len(metrics.read_text().splitlines()) >= 4, number)
    assert stopped.returncode == (-number if number == signal.SIGKILL else 130), stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert ("the same command goes on from here" in stopped.stderr) == (number == signal.SIGINT)
    before = metrics.read_text().splitlines()[:2]
    again = subprocess.run(arguments, capture_output=True, text=True, env=environment(), timeout=600)
    assert again.returncode == 0, again.stderr
    assert "prepare: complete, skipped" in again.stdout
    assert "baseline: going on from an interrupted run" in again.stdout
    lines = metrics.read_text().splitlines()
    # The first epochs were not done again, and none is missing.
    assert lines[:2] == before
    assert sorted({json.loads(line)["epoch"] for line in lines}) == list(range(8))
    assert len(lines) <= 10
    # Two are of networks that are not pulled to the clusters.
    absent = [stage for stage in stage_names("rsfp") if not (run_dir / stage).is_dir()]
    assert absent == ["robust_latents", "robust_clusters"]
    assert load_bundle(run_dir / "bundle").manifest.name == "small"
