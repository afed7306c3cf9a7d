"""Bulk work through the endpoint on a cluster of three nodes, each a raylet of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.mark.slow
def test_a_job_grows_the_endpoint_until_every_node_works(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for n in range(1500):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(images / f"{n:04}.png")
    script = Path(__file__).with_name("serve_nodes.py")
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    run = subprocess.run(
        [sys.executable, str(script), str(images), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        env=environment,
        timeout=280,
    )
    assert run.returncode == 0, run.stderr
    # Ray has its own words among those lines.
    (line,) = (line for line in run.stdout.splitlines() if line.startswith("{"))
    found = json.loads(line)
    assert found["images"] == 1500
    # One replica at first; at the end one on each node, all of which have worked.
    assert found["replicas"][0][1] == 1
    assert len(found["busy_s"]) == 3, found
    assert min(found["busy_s"].values()) > 0, found
