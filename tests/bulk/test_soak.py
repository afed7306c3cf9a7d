"""Jobs in a loop whose workers are killed lose no image, and leave nothing in memory, among processes, or open."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.slow
@pytest.mark.timeout(460)
def test_jobs_in_a_loop_whose_workers_are_killed_leave_nothing_behind(tmp_path):
    out = tmp_path / "soak.json"
    options = ["--minutes", "3", "--every", "20", "--images", "384", "--out", str(out)]
    run = subprocess.run([sys.executable, BENCHMARKS / "soak.py", *options], capture_output=True, text=True)
    # It ends with 1 where an image is missing or differs.
    assert run.returncode == 0, run.stdout + run.stderr
    said = json.loads(out.read_text())
    before, after = said["before"], said["after"]
    assert said["jobs"] >= 3
    assert said["killed"] >= 4
    assert after["object_store_mb"] <= before["object_store_mb"] + 1
    # A node keeps idle workers, of which it may have one more now.
    assert after["processes"] <= before["processes"] + 3
    assert after["driver_files"] <= before["driver_files"] + 8
    assert after["raylet_files"] <= before["raylet_files"] + 30
    assert after["driver_mb"] <= before["driver_mb"] + 60
    assert after["raylets_mb"] <= before["raylets_mb"] + 60
