"""A purify job whose driver, actors or nodes are killed ends, run again, in the bytes of an undisturbed one."""

import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_images import encode, pixels
from bulk_kills import plan_kill, run

from raypurify.bulk.job import purify

POINTS, TARGETS = ("read", "solve", "write", "written", "renamed"), ("worker", "node", "driver")
IMAGES, RUNS = 48, 4


@pytest.fixture(scope="module")
def place(local_ray, tmp_path_factory):
    """A folder and a Parquet file of the same images, a few of them broken."""
    root = tmp_path_factory.mktemp("kills")
    images = [encode(pixels(seed=k)) for k in range(IMAGES)]
    for k in (5, 17):
        images[k] = images[k][: len(images[k]) // 2]
    (root / "folder").mkdir()
    for k, data in enumerate(images):
        (root / "folder" / f"{k:03d}.png").write_bytes(data)
    (root / "parquet").mkdir()
    table = pa.table({"id": [f"{k:03d}" for k in range(IMAGES)], "image": images, "label": np.arange(IMAGES)})
    pq.write_table(table, root / "parquet" / "images.parquet", row_group_size=16)
    return root


def undisturbed(place: Path, kind: str, bundle: str) -> Path:
    """The output of a job that nothing has disturbed, on the Ray of all tests, made for the first that asks."""
    output = place / f"{kind}-{bundle}-whole"
    if not output.exists():
        purify([str(place / kind)], str(output), bundle, sheet=0)
    return output


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def kill_and_rerun(
    place: Path, tmp_path: Path, kind: str, point: str, target: str, count: int, bundle: str = "cifar10"
) -> str:
    """What was said by the last run, the one that is done."""
    output = tmp_path / "out"
    plan, killed = plan_kill(tmp_path, str(place / kind), str(output), point, target, count)
    for _ in range(RUNS):
        code, said = run(place / kind, output, plan, bundle)
        if code == 0:
            break
    assert code == 0, said
    assert killed.exists(), "nothing was killed"
    made = files_below(output)
    assert made == files_below(undisturbed(place, kind, bundle))
    state = output / "_raypurify"
    good = pq.read_table(state / "provenance.parquet")["id"].to_pylist()
    bad = pq.read_table(state / "errors.parquet")["id"].to_pylist()
    assert len(good + bad) == len(set(good + bad)) == IMAGES
    return said


@pytest.mark.parametrize(
    ("bundle", "point", "target"),
    [
        ("cifar10", "written", "worker"),
        ("cifar10-stl", "written", "worker"),
        pytest.param("cifar10", "write", "driver", marks=pytest.mark.slow),
    ],
)
def test_a_kill_changes_nothing_and_is_in_the_log(place, tmp_path, monkeypatch, bundle, point, target):
    monkeypatch.setenv("RAYPURIFY_LOG", "json")
    said = kill_and_rerun(place, tmp_path, "folder", point, target, 2, bundle)
    told = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert {(line["run"], line["stage"]) for line in told} == {(str(tmp_path / "out"), "purify")}
    events = {line["event"]: line for line in told}
    assert {"stage_begun", "shard_committed", "stage_done"} <= events.keys()
    assert ("actor_lost" in events) == (target == "worker")
    shard = events["shard_committed"]
    assert shard["node"]
    assert shard["images"] >= shard["purified"] > 0
    assert shard["seconds"] > 0
    if target == "worker":
        assert events["actor_lost"]["shard"] in {
            line.get("shard") for line in told if line["event"] == "shard_committed"
        }


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(30))
def test_kills_everywhere_change_nothing(place, tmp_path, seed):
    kind, target, point = ("folder", "parquet")[seed % 2], TARGETS[seed // 2 % 3], POINTS[seed // 6]
    # An actor reads and writes few files of a Parquet input, and codes few batches.
    most = {"folder": 6, "parquet": 2}[kind] if point != "solve" else 1
    kill_and_rerun(place, tmp_path, kind, point, target, random.Random(seed).randint(1, most))
