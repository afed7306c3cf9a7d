"""Dictionaries beside k-means: what is handed over when, how both end, and that nothing of it changes a byte."""

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from raypurify.clusters.blocks import Block
from raypurify.clusters.class_clusters import cluster_class
from raypurify.clusters.files import class_path, write_class
from raypurify.config import ClusterSettings, DictionarySettings
from raypurify.errors import SinkError
from raypurify.fit import dictionaries
from raypurify.fit.overlap import Found, Handover, OtherEnded, side_by_side
from raypurify.runtime.resources import Resources
from raypurify.storage import resolve


def handed_over(folder: Path, images: int, classes: int) -> Handover:
    """The handover of classes of two clusters each, with all their files; rows 0, 1, … by class."""
    rng = np.random.default_rng(0)
    for c in range(classes):
        block = Block(rng.normal(size=(images, 4)).astype(np.float32), np.arange(images) + c * images, keep=True)
        found = cluster_class(lambda look, block=block: [look(block)], block, images, ClusterSettings(k=2), 0)
        write_class(class_path(resolve(folder), c), found)
    handover = Handover()
    handover.begin(resolve(folder), images * classes, [images] * classes, [1] * classes)
    return handover


def test_clusters_are_known_when_all_classes_before_are_clustered_and_come_in_few_groups(tmp_path, monkeypatch):
    monkeypatch.setattr("raypurify.fit.overlap.PAYS", 0)
    handover, complete = handed_over(tmp_path, 6, 8), Found(np.arange(48) // 3, [c // 2 for c in range(16)])
    groups = handover.groups(lambda: True)
    # The first group is a quarter of the images, in the order of classes.
    waiting = threading.Thread(target=lambda: heard.append(next(groups)), daemon=True)
    heard: list[Found] = []
    waiting.start()
    handover.clustered([1, 2, 7])
    waiting.join(0.2)
    assert not heard
    handover.clustered([0])
    waiting.join(5)
    assert (heard[0].owner, heard[0].more) == ([0, 0, 1, 1, 2, 2], True)
    assert (heard[0].of_row[:18] // 2 == np.arange(18) // 6).all()
    assert (heard[0].of_row[18:] == -1).all()
    handover.clustered([3, 4])
    assert next(groups).owner == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    handover.clustered([5, 6])
    handover.complete(complete)
    assert next(groups) is complete
    assert not list(groups)


def test_learners_do_not_start_where_k_means_soon_ends(tmp_path):
    handover, complete = handed_over(tmp_path, 6, 4), Found(np.arange(24) // 3, [c // 2 for c in range(8)])
    heard: list[Found] = []
    waiting = threading.Thread(target=lambda: heard.extend(handover.groups(lambda: True)), daemon=True)
    handover.clustered([0])
    handover._begun -= 4  # of 16 seconds in all
    waiting.start()
    waiting.join(0.3)
    assert 12 <= handover.left() < 15
    handover.complete(complete)
    waiting.join(5)
    assert heard == [complete]


def test_k_means_keeps_half_of_the_cpus_as_long_as_it_has_tasks_for_them(monkeypatch):
    def learners(cpus: int, tasks: int, gpus: int = 0, **settings) -> int:
        monkeypatch.setattr(dictionaries, "cluster_resources", lambda: Resources(cpus, gpus, 1))
        return dictionaries._room(DictionarySettings(**settings), tasks).learners

    assert [learners(cpus, tasks=100) for cpus in (1, 2, 3, 8)] == [0, 1, 1, 4]
    assert [learners(8, tasks) for tasks in (3, 1, 0)] == [5, 7, 7]
    assert [learners(1, tasks) for tasks in (1, 0)] == [0, 1]
    assert learners(8, tasks=100, actors=2) == 2
    assert learners(1, tasks=100, gpus=1) == dictionaries.GPU_LEARNERS


def test_the_error_of_the_one_that_failed_ends_both(tmp_path):
    handover, stopped = handed_over(tmp_path, 6, 4), []

    def until_stopped() -> None:
        try:
            list(handover.groups(lambda: False))
        except OtherEnded as error:
            stopped.append(error)
            raise

    def fail() -> None:
        raise SinkError("disk full")

    for pair in ((until_stopped, fail), (fail, until_stopped)):
        handover._stopped = False
        with pytest.raises(SinkError, match="disk full"):
            side_by_side(*pair, handover)
    assert len(stopped) == 2

    def interrupted() -> None:
        raise KeyboardInterrupt

    handover._stopped = False
    with pytest.raises(KeyboardInterrupt):
        side_by_side(interrupted, until_stopped, handover)
    assert len(stopped) == 3


def stages(folder: Path) -> dict[str, bytes]:
    """What two stages leave to others."""
    files = [*(folder / "clusters").glob("*.*"), *(folder / "dictionaries").glob("*.safetensors")]
    return {p.name: p.read_bytes() for p in files if p.name not in ("stage.json", "progress.json")}


def test_one_cpu_is_enough(small_run, small_settings, tmp_path):
    for stage in ("prepare", "latents"):
        shutil.copytree(small_run / stage, tmp_path / stage)
    task = {
        "rows": len(np.load(small_run / "clusters" / "cluster_of_row.npy")),
        "settings": small_settings.model_dump(),
    }
    (tmp_path / "task.json").write_text(json.dumps(task))
    script = Path(__file__).with_name("one_cpu.py")
    subprocess.run([sys.executable, script, tmp_path], check=True, timeout=120)
    assert stages(tmp_path) == stages(small_run)
