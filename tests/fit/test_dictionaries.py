"""Dictionaries of clusters: the same bytes whoever learns them, in whatever company, and whoever dies meanwhile."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raypurify.bundle import read_facts
from raypurify.cli.texts import bundle_text
from raypurify.config import CscSettings, DictionarySettings
from raypurify.csc import learn_dictionary, tikhonov_split
from raypurify.errors import DataError
from raypurify.files import read_json
from raypurify.fit.dictionaries import GLOBAL, choose_samples, learn_dictionaries, load_dictionaries
from raypurify.fit.samples import draw, fetch_samples, read_sample
from raypurify.runtime.progress import FILE, describe
from raypurify.storage import resolve
from raypurify.training.data import TRAIN

SIDE = 20
# One actor where it does not matter: starting a process takes longer than what it does here.
SETTINGS = DictionarySettings(atoms=6, size=5, images=4, actors=1)
# Half a second a cluster, so that there is a time to kill.
SLOWER = SETTINGS.model_copy(update={"passes": 120})


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, SIDE, SIDE), np.uint8)


def constant(count: int) -> np.ndarray:
    grey = np.random.default_rng(1).integers(0, 256, (count, 3, 1, 1), np.uint8)
    return np.broadcast_to(grey, (count, 3, SIDE, SIDE)).copy()


def rows_of(clusters: list[np.ndarray]) -> np.ndarray:
    """Shuffled rows, every third only: a source has rows that are in no cluster."""
    return 3 * np.random.default_rng(0).permutation(sum(map(len, clusters))) + 3


def write_prepared(folder: Path, clusters: list[np.ndarray], files: int = 2) -> np.ndarray:
    """Images of each cluster in files as ``prepare`` writes them; returns ``cluster_of_row``."""
    rows = rows_of(clusters)
    cluster_of_row = np.full(rows.max() + 3, -1)
    cluster_of_row[rows] = np.repeat(np.arange(len(clusters)), [len(images) for images in clusters])
    pixels = pa.array([image.tobytes() for images in clusters for image in images], pa.binary(3 * SIDE * SIDE))
    table = pa.table({"row": rows, "label": np.zeros(len(rows), np.int64), "image": pixels})
    table = table.take(np.random.default_rng(1).permutation(len(rows)))
    (folder / TRAIN).mkdir(parents=True)
    for number, part in enumerate(np.array_split(np.arange(len(rows)), files)):
        pq.write_table(table.take(part), folder / TRAIN / f"{number}.parquet")
    return cluster_of_row


def learned(folder: Path, prepared: Path, cluster_of_row, cluster_class, settings=SETTINGS) -> dict:
    folder.mkdir(exist_ok=True)
    arguments = (cluster_of_row, cluster_class, SIDE, CscSettings(), settings)
    return learn_dictionaries(resolve(folder), resolve(prepared), *arguments, seed=0)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != FILE}


SIX = [noise(count, count) for count in (9, 5, 4, 7, 6, 8)]


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    """Six clusters of three classes, in most more images than are sampled."""
    prepared = tmp_path_factory.mktemp("six")
    return prepared, write_prepared(prepared, SIX), [0, 0, 1, 1, 2, 2]


@pytest.fixture(scope="module")
def undisturbed(local_ray, six, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    report = learned(folder, *six, settings=SLOWER)
    assert report == {"dictionaries": 6, "borrowed": 0, "source": [str(k) for k in range(6)]}
    return contents(folder)


def test_sample_of_a_cluster_does_not_depend_on_the_others():
    of_row = np.array([0, 1, 0, 1, 0, 2, -1, 0])
    samples = choose_samples(of_row, 4, 2, seed=0)
    assert [len(s) for s in samples] == [2, 2, 1, 0]
    assert all((of_row[s] == k).all() for k, s in enumerate(samples))
    other = np.where(of_row == 1, -1, of_row)
    assert (choose_samples(other, 3, 2, seed=0)[0] == samples[0]).all()


def test_only_sampled_images_are_fetched_and_come_in_the_order_of_their_rows(local_ray, tmp_path):
    clusters = [noise(9), noise(60, 1)]
    of_row = write_prepared(tmp_path / "p", clusters, files=5)
    image_of_row = dict(zip(rows_of(clusters).tolist(), np.concatenate(clusters)))
    said: list[str] = []
    samples = choose_samples(of_row, 2, 6, seed=0)
    files = resolve(tmp_path / "p" / TRAIN).files(".parquet")
    copies = fetch_samples(resolve(tmp_path / "f"), files, samples, len(of_row), said.append)
    assert said[-1] == "images fetched from 5/5 files"
    assert sum(path.stat().st_size for path in (tmp_path / "f").iterdir()) < 20 * 3 * SIDE * SIDE
    for number, rows in enumerate(samples):
        expected = np.stack([image_of_row[row] for row in rows.tolist()])
        assert (read_sample(copies, number, SIDE) == expected).all()


def test_a_dictionary_is_learned_from_the_high_parts_of_its_sample(six, undisturbed, tmp_path):
    _, of_row, _ = six
    image_of_row = dict(zip(rows_of(SIX).tolist(), np.concatenate(SIX)))
    rows = choose_samples(of_row, 6, SLOWER.images, seed=0)[3].tolist()
    pixels = torch.from_numpy(np.stack([image_of_row[row] for row in rows]))
    _, high = tikhonov_split(pixels.float() / 255)
    (tmp_path / "00000.safetensors").write_bytes(undisturbed["00003.safetensors"])
    expected = learn_dictionary(high, atoms=6, size=5, passes=SLOWER.passes, seed=0)
    assert torch.equal(load_dictionaries(resolve(tmp_path), ["0"])[0], expected)


def test_neither_actors_nor_files_change_a_byte(six, undisturbed, tmp_path):
    _, _, classes = six
    of_row = write_prepared(tmp_path / "p", SIX, files=7)
    learned(tmp_path / "d", tmp_path / "p", of_row, classes, SLOWER.model_copy(update={"actors": None}))
    # Nothing but dictionaries stays.
    assert contents(tmp_path / "d") == undisturbed


def test_dictionaries_go_on_where_they_were_interrupted(six, undisturbed, tmp_path):
    folder = tmp_path / "d"
    (folder / "samples").mkdir(parents=True)
    (folder / "samples" / "left.arrow").write_bytes(b"half a file")
    for name in ("00001.safetensors", "00004.safetensors"):
        (folder / name).write_bytes(undisturbed[name])
    untouched = (folder / "00001.safetensors").stat().st_mtime_ns
    learned(folder, *six, settings=SLOWER)
    assert contents(folder) == undisturbed
    assert (folder / "00001.safetensors").stat().st_mtime_ns == untouched
    state, images = read_json(folder / FILE), 4 * SLOWER.passes
    assert (state["start"], state["done"], state["total"]) == (2 * images, 6 * images, 6 * images)
    assert "clusters 6/6" in describe(state)


def test_a_cluster_without_detail_uses_the_dictionary_of_the_largest_of_its_class(local_ray, tmp_path):
    one, same = noise(1, 7), np.repeat(noise(1, 8), 5, axis=0)
    of_row = write_prepared(tmp_path / "p", [constant(20), noise(5), noise(9, 1), one, constant(1), same])
    report = learned(tmp_path / "d", tmp_path / "p", of_row, [0, 0, 0, 1, 1, 1])
    # One image, or one again and again, is enough; of constant ones, twenty are as little as one.
    assert report == {"dictionaries": 6, "borrowed": 2, "source": ["2", "1", "2", "3", "5", "5"]}
    bank = load_dictionaries(resolve(tmp_path / "d"), report["source"])
    assert (bank[0] == bank[2]).all()
    assert (bank[4] == bank[5]).all()
    assert bank.flatten(2).norm(dim=2).sub(1).abs().max() < 1e-5


def test_a_cluster_of_no_class_without_detail_uses_the_dictionary_of_the_largest(local_ray, tmp_path):
    of_row = write_prepared(tmp_path / "prepared", [noise(3), constant(9), noise(5, 1)])
    report = learned(tmp_path / "d", tmp_path / "prepared", of_row, [None] * 3)
    assert report == {"dictionaries": 3, "borrowed": 1, "source": ["0", "2", "2"]}
    assert len(load_dictionaries(resolve(tmp_path / "d"), report["source"])) == 3


def test_a_class_without_detail_uses_a_global_dictionary(local_ray, tmp_path):
    of_row = write_prepared(tmp_path / "p", [constant(3), noise(9), constant(1), noise(7, 1)])
    report = learned(tmp_path / "d", tmp_path / "p", of_row, [0, 1, 2, 2])
    assert report == {"dictionaries": 4, "borrowed": 2, "source": [GLOBAL, "1", "3", "3"]}
    bank = load_dictionaries(resolve(tmp_path / "d"), report["source"])
    assert bank[0].flatten(1).norm(dim=1).sub(1).abs().max() < 1e-5
    assert not any((bank[0] == bank[k]).all() for k in (1, 3))
    state = read_json(tmp_path / "d" / FILE)
    assert state["done"] == state["total"]
    assert "clusters 5/5" in describe(state)


def test_where_the_global_sample_has_no_detail_the_largest_cluster_helps_out(local_ray, tmp_path):
    clusters = [constant(2), constant(5), constant(6)]
    _, *rows = np.split(rows_of(clusters), [2, 7])
    in_global = draw(np.concatenate([np.sort(mine) for mine in rows]), 6, (0, 3))
    for images, mine in zip(clusters[1:], rows):
        images[np.flatnonzero(~np.isin(mine, in_global))[0]] = noise(1)[0]
    of_row = write_prepared(tmp_path / "p", clusters)
    settings = SETTINGS.model_copy(update={"images": 6})
    report = learned(tmp_path / "d", tmp_path / "p", of_row, [0, 1, 1], settings)
    assert report == {"dictionaries": 3, "borrowed": 1, "source": ["2", "1", "2"]}


def test_images_without_any_detail_are_an_error(local_ray, tmp_path):
    of_row = write_prepared(tmp_path / "p", [constant(3), constant(1)])
    with pytest.raises(DataError, match="nothing to learn a dictionary from"):
        learned(tmp_path / "d", tmp_path / "p", of_row, [0, 1])


def test_settings_that_the_learner_refuses_are_not_taken_for_images_without_detail(local_ray, six, tmp_path):
    with pytest.raises(DataError, match="smaller than atoms of 30×30"):
        learned(tmp_path, *six, settings=SETTINGS.model_copy(update={"size": 30}))


def learners() -> list[int]:
    """Processes of this session's own Ray that are learning now."""

    def read(path: str) -> str:
        try:
            return Path(path).read_text()
        except OSError:
            return ""

    def below(pid: int) -> list[int]:
        children = map(int, read(f"/proc/{pid}/task/{pid}/children").split())
        return [found for child in children for found in (child, *below(child))]

    return [pid for pid in below(os.getpid()) if read(f"/proc/{pid}/cmdline").startswith("ray::Learner.learn")]


@pytest.mark.slow
def test_a_killed_actor_loses_its_cluster_in_flight_and_nothing_else(six, undisturbed, tmp_path):
    folder, killed, kept = tmp_path / "d", [], {}

    def kill_two():
        while len(killed) < 2:
            done = sorted(folder.glob("*.safetensors"))
            busy = learners()
            if len(done) > len(killed) and busy:
                kept.update({path: path.stat().st_mtime_ns for path in done})
                os.kill(busy[0], signal.SIGKILL)
                killed.append(busy[0])
            time.sleep(0.01)

    threading.Thread(target=kill_two, daemon=True).start()
    learned(folder, *six, settings=SLOWER.model_copy(update={"actors": 2}))
    assert len(set(killed)) == 2
    assert contents(folder) == undisturbed
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())
    state = read_json(folder / FILE)
    assert state["done"] == state["total"]


def lose_nodes(count: int, six, tmp_path: Path, settings: DictionarySettings) -> dict:
    """Learn where all but the first node are lost, one after another; "nodes_told" is how many the log tells of."""
    prepared, of_row, classes = six
    np.save(tmp_path / "of_row.npy", of_row)
    task = {"nodes": count, "prepared": str(prepared), "classes": classes, "side": SIDE, "settings": dict(settings)}
    (tmp_path / "task.json").write_text(json.dumps(task))
    script = Path(__file__).with_name("node_loss.py")
    # Ray knows of a lost node after 3 s instead of 15.
    soon = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}
    run = subprocess.run(
        [sys.executable, script, tmp_path], capture_output=True, text=True, timeout=600, env=os.environ | soon
    )
    assert run.returncode == 0, run.stderr
    told = run.stderr.count('"event": "node_lost"')
    return json.loads((tmp_path / "facts.json").read_text()) | {"nodes_told": told}


def test_a_lost_node_loses_its_clusters_in_flight_and_nothing_else(six, undisturbed, tmp_path):
    # Two learners on three CPUs: when the second node is lost, there is room for one.
    facts = lose_nodes(1, six, tmp_path, SLOWER.model_copy(update={"actors": None}))
    # The log tells of a node when Ray knows that it is gone, which may be after the end.
    assert facts.pop("nodes_told") <= 1
    assert facts == {"lost": 1, "in_time": True, "kept": True}
    assert contents(tmp_path / "d") == undisturbed


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_node_after_node_is_lost(local_ray, six, tmp_path):
    settings = SLOWER.model_copy(update={"passes": 1200, "actors": None})
    facts = lose_nodes(3, six, tmp_path, settings)
    assert facts == {"lost": 3, "in_time": True, "kept": True, "nodes_told": 3}
    learned(tmp_path / "again", *six, settings=settings)
    assert contents(tmp_path / "d") == contents(tmp_path / "again")


def test_inspect_says_how_many_clusters_have_no_dictionary_of_their_own():
    facts = read_facts("cifar10")
    assert "another's" not in bundle_text(facts)
    source = ["1", *facts.manifest.dictionary_source[1:-1], GLOBAL]
    manifest = facts.manifest.model_copy(update={"dictionary_source": source})
    assert "; 2 of 30 clusters use another's dictionary" in bundle_text(replace(facts, manifest=manifest))
