"""Bulk work through the endpoint on a cluster of three nodes, each a raylet of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raypurify.bulk.job import purify


def write_images(folder: Path, count: int) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for n in range(count):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(folder / f"{n:04}.png")
    return folder


def on_nodes(*arguments: Path | str) -> dict:
    script = Path(__file__).with_name("serve_nodes.py")
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    run = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=280,
    )
    assert run.returncode == 0, run.stderr
    # Ray has its own words among those lines.
    (line,) = (line for line in run.stdout.splitlines() if line.startswith("{"))
    return json.loads(line)


@pytest.mark.slow
def test_a_node_that_is_lost_in_the_middle_changes_nothing(tmp_path, local_ray):
    images = write_images(tmp_path / "images", 400)
    found = on_nodes(images, tmp_path / "out", "3", "kill")
    assert found["images"] == 400
    # It was there, with its replica, and is not any more.
    counts = [count for _, count in found["replicas"]]
    assert max(counts) == 3, found
    purify([str(images)], str(tmp_path / "alone"), "cifar10", sheet=0)
    names = [path.name for path in images.iterdir()]
    assert all((tmp_path / "out" / n).read_bytes() == (tmp_path / "alone" / n).read_bytes() for n in names)
    for table in ("provenance", "errors"):
        one, other = (tmp_path / out / "_raypurify" / f"{table}.parquet" for out in ("out", "alone"))
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_a_job_grows_the_endpoint_until_every_node_works(tmp_path):
    found = on_nodes(write_images(tmp_path / "images", 1500), tmp_path / "out")
    assert found["images"] == 1500
    # One replica at first; at the end one on each node, all of which have worked.
    assert found["replicas"][0][1] == 1
    assert len(found["busy_s"]) == 3, found
    assert min(found["busy_s"].values()) > 0, found
