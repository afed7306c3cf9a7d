"""Training on Ray Train workers: the order of images is a function of seeds, and a lost worker changes no figure."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from raypurify.config import DaeSettings, TrainingSettings
from raypurify.errors import TrainingError
from raypurify.fit.feed import epoch_tables, steps_of, training_units
from raypurify.fit.train import NETWORK, train
from raypurify.nets.dae import DenoisingAutoEncoder
from raypurify.nets.store import load_network
from raypurify.storage import resolve
from raypurify.training.data import TRAIN, read_part
from raypurify.training.record import read_lines
from raypurify.training.start import drawn_network, starting_network

START = partial(starting_network, "random", {"depth": 10, "width": 1, "classes": 3, "dropout": 0.0}, 0)
SETTINGS = TrainingSettings(epochs=5, batch_size=32, lr=0.05, precision="float32", workers=2)


def rows_of(prepared: Path, epoch: int, rank: int, world: int, batch: int = 16, first: int = 0) -> list[int]:
    units = training_units(resolve(prepared))
    steps, batch = steps_of(sum(unit.rows for unit in units), batch * world, world)
    tables = list(epoch_tables(units, 16, batch, steps, epoch, 3, rank, world, first))
    assert [len(table) for table in tables] == [batch] * (steps - first)
    return [row for table in tables for row in table.column("row").to_pylist()]


def test_workers_share_an_epoch_in_an_order_that_seeds_decide(local_ray, small_run, monkeypatch):
    monkeypatch.setattr("raypurify.fit.feed.UNIT_ROWS", 20)
    prepared = small_run / "prepare"
    known = set(read_part(prepared, TRAIN, ["row"])["row"].to_pylist())
    first, second = (rows_of(prepared, 0, rank, 2) for rank in (0, 1))
    assert len(set(first) | set(second)) == len(first) + len(second) > 0.7 * len(known)
    assert set(first) | set(second) <= known
    assert rows_of(prepared, 0, 0, 2) == first
    assert rows_of(prepared, 1, 0, 2) != first
    alone = rows_of(prepared, 0, 0, 1)
    assert len(set(alone)) == len(alone) > 0.85 * len(known)
    # Mixed within a window, not read off unit by unit.
    assert np.abs(np.diff(alone)).mean() > 10
    # A resumed epoch skips the same images that were seen, whole windows unread.
    monkeypatch.setattr("raypurify.fit.feed.WINDOW_BYTES", 3 * 16**2 * 24)
    small = rows_of(prepared, 0, 0, 1)
    assert small != alone
    for steps in (1, 2, 3):
        assert rows_of(prepared, 0, 0, 1, first=steps) == small[16 * steps :]


@pytest.fixture
def trained(local_ray, small_run, tmp_path):
    rows = len(read_part(small_run / "prepare", TRAIN, ["row"]))

    def run(name: str, settings: TrainingSettings = SETTINGS):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        train(resolve(folder), resolve(small_run / "prepare"), rows, 16, START, settings, 0)
        return read_lines(folder), load_file(folder / NETWORK)

    return run


def test_a_killed_worker_changes_no_figure(trained, small_run, small_settings, tmp_path):
    """Against the baseline of the small run, which nothing has disturbed."""
    lines, network = read_lines(small_run / "baseline"), load_file(small_run / "baseline" / NETWORK)
    assert [line["workers"] for line in lines] == [2] * small_settings.baseline.epochs
    folder, killed = tmp_path / "killed", []

    def kill() -> None:
        while not read_lines(folder):
            time.sleep(0.02)
        killed.append(workers()[-1])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    again, other = trained("killed", small_settings.baseline.model_copy(update={"checkpoint_steps": 1}))
    killer.join(5)
    assert killed
    assert len(again) == len(lines)
    for line, same in zip(lines, again):
        for key in ("loss", "accuracy", "validation_accuracy"):
            assert line[key] == pytest.approx(same[key], abs=1e-4)
    for name, value in network.items():
        np.testing.assert_allclose(value.numpy(), other[name].numpy(), rtol=1e-3, atol=1e-4)


def after_a_lost_node(folder: Path, prepared: Path, nodes: int, **more) -> list[dict]:
    rows = len(read_part(prepared, TRAIN, ["row"]))
    settings = (SETTINGS.model_copy(update=more)).model_dump()
    folder.mkdir()
    (folder / "task.json").write_text(
        json.dumps({"prepared": str(prepared), "rows": rows, "settings": settings, "nodes": nodes})
    )
    script = Path(__file__).with_name("training_node_loss.py")
    subprocess.run([sys.executable, script, folder], check=True, timeout=280)
    assert json.loads((folder / "facts.json").read_text()) == {"left": nodes - 1}
    return read_lines(folder / "n")


@pytest.mark.slow
def test_a_lost_node_changes_no_figure_where_another_takes_over(small_run, tmp_path, trained):
    lines, network = trained("undisturbed")
    again = after_a_lost_node(tmp_path / "lost", small_run / "prepare", nodes=3)
    assert [line["workers"] for line in again] == [2] * SETTINGS.epochs
    for line, same in zip(lines, again):
        for key in ("loss", "accuracy", "validation_accuracy"):
            assert line[key] == pytest.approx(same[key], abs=1e-4)
    for name, value in load_file(tmp_path / "lost" / "n" / NETWORK).items():
        np.testing.assert_allclose(value.numpy(), network[name].numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_an_elastic_training_goes_on_with_the_workers_that_are_left(small_run, tmp_path):
    lines = after_a_lost_node(tmp_path / "lost", small_run / "prepare", nodes=2, min_workers=1)
    workers = [line["workers"] for line in lines]
    assert len(workers) == SETTINGS.epochs
    assert (workers[0], workers[-1]) == (2, 1)
    assert sorted(workers, reverse=True) == workers
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_a_denoiser_is_trained_by_the_same_workers(local_ray, small_run, tmp_path):
    rows = len(read_part(small_run / "prepare", TRAIN, ["row"]))
    settings = DaeSettings(epochs=3, batch_size=32, width=4, precision="float32", workers=2)
    start = partial(drawn_network, partial(DenoisingAutoEncoder, 4, 16), 0)
    report = train(resolve(tmp_path), resolve(small_run / "prepare"), rows, 16, start, settings, 0)
    lines = read_lines(tmp_path)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert {name: report[name] for name in ("epochs", "workers")} == {"epochs": 3, "workers": 2}
    assert report["validation_psnr"] == lines[-1]["validation_psnr"] > 5
    assert report["validation_loss"] == lines[-1]["validation_loss"]
    assert load_network(tmp_path / NETWORK).settings == {"width": 4, "side": 16}
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_training_that_needs_more_images_than_there_are_is_refused(trained):
    with pytest.raises(TrainingError, match="do not fill one batch of 4096 over 2 workers"):
        trained("large", SETTINGS.model_copy(update={"batch_size": 4096}))


def workers() -> list[int]:
    """Process ids of the training workers below this process."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cmdline").read_text().startswith("ray::") and "TrainWorker" in (entry / "cmdline").read_text():
                found.append(int(entry.name))
        except OSError:
            continue
    return sorted(pid for pid in found if below(pid, os.getpid()))


def below(pid: int, ancestor: int) -> bool:
    while pid > 1 and pid != ancestor:
        pid = int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
    return pid == ancestor
