"""The job scripts under ``ray job submit``, on a Ray head of its own with a dashboard and a token."""

import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pyarrow.parquet as pq
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
RAY = [sys.executable, "-m", "ray.scripts.scripts"]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A Ray head with token authentication; ends when the process that started it is told to."""
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    port, dashboard = free_port(), free_port()
    log = (tmp_path_factory.mktemp("head") / "log").open("w")
    command = [*RAY, "start", "--head", "--block", f"--port={port}", "--num-cpus=4", "--disable-usage-stats"]
    command += ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    # Another Ray on this machine, as other tests have, holds the default port of the agent that starts jobs.
    command += [f"--dashboard-agent-listen-port={free_port()}"]
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{dashboard}"
    request = urllib.request.Request(
        f"{address}/api/jobs/", headers={"Authorization": f"Bearer {environment['RAY_AUTH_TOKEN']}"}
    )
    for _ in range(240):
        try:
            urllib.request.urlopen(request, timeout=2)
            break
        except OSError:
            assert process.poll() is None, Path(log.name).read_text()
            time.sleep(0.5)
    yield address, environment
    process.terminate()
    process.wait(60)


def submit(head, *arguments: object) -> subprocess.CompletedProcess:
    address, environment = head
    command = [
        *RAY,
        "job",
        "submit",
        "--address",
        address,
        "--working-dir",
        ".",
        "--",
        sys.executable,
        *map(str, arguments),
    ]
    for _ in range(20):
        run = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=280)
        # A head answers before its job agent does.
        if "No available agent" not in run.stderr:
            return run
        time.sleep(3)
    raise AssertionError(run.stderr)


def test_purify_runs_as_a_job(head, tmp_path):
    run = submit(head, "jobs/purify.py", REPOSITORY / "examples" / "cifar10" / "clean", tmp_path / "out", "--sheet", 0)
    assert run.returncode == 0, run.stdout + run.stderr
    count = len(list((REPOSITORY / "examples" / "cifar10" / "clean").glob("*.png")))
    assert f"{count} of {count} images" in run.stdout
    assert pq.read_table(tmp_path / "out" / "_raypurify" / "provenance.parquet").num_rows == count


def test_a_job_that_cannot_work_fails_with_one_line(head, tmp_path):
    run = submit(head, "jobs/fit.py", "--data", "/no/data", "--preset", "tiny", "--run-dir", tmp_path / "run")
    assert run.returncode != 0
    assert "raypurify: /no/data: no such file or folder" in run.stdout + run.stderr
    assert "Traceback" not in run.stdout
