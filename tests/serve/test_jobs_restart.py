"""A job whose supervisor is killed, and then everything there is: started again, the endpoint ends it by itself."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from bad_images import encode, pixels
from free_ports import free_port

from serve.endpoint import TOKEN
from serve.test_jobs import files_below

httpx = pytest.importorskip("httpx")
IMAGES = 320


def parents() -> dict[int, int]:
    """The parent of every process."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            found[int(stat.parent.name)] = int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])
        except OSError:
            continue
    return found


def below(pid: int) -> list[int]:
    """The processes that a process has started, and those that these have."""
    up, found = parents(), []
    for one in up:
        above = one
        while above in up and above != pid:
            above = up[above]
        if above == pid and one != pid:
            found.append(one)
    return found


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def drivers(output: Path) -> set[int]:
    """The processes that do the job of an output."""
    return {pid for pid in parents() if "jobs.leash" in (text := command_of(pid)) and f" {output}" in text}


class Endpoint:
    """A running ``raypurify serve``."""

    def __init__(self, bundle, root):
        self.port = free_port()
        words = ["serve", "--bundle", bundle, "--port", self.port, "--job-root", root, "--max-replicas", 1]
        environment = {
            name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_MODE")
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "raypurify", *map(str, words)],
            env=environment | {"RAYPURIFY_TOKEN": TOKEN},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        line = self.process.stdout.readline()
        assert "raypurify serves" in line
        headers = {"Authorization": f"Bearer {TOKEN}"}
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=60)

    def wait_for(self, id, reached, seconds=400):
        until = time.monotonic() + seconds
        while True:
            answer = self.client.get(f"/v1/jobs/{id}")
            # While nobody sees to jobs that is said.
            view = answer.json() if answer.status_code == 200 else {"done": 0, "ended": None, "refused": answer.text}
            if answer.status_code == 200 and reached(view):
                return view
            assert answer.status_code in (200, 503), answer.text
            assert time.monotonic() < until, str(view)
            time.sleep(0.3)

    def supervisor(self) -> int:
        (pid,) = (pid for pid in below(self.process.pid) if "ServeReplica:raypurify:Jobs" in command_of(pid))
        return pid

    def kill(self):
        for pid in (*below(self.process.pid), self.process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_job_survives_its_supervisor_and_the_head(bundle, tmp_path):
    root, rng = tmp_path / "root", np.random.default_rng(0)
    (root / "in").mkdir(parents=True)
    for n in range(IMAGES):
        noisy = (pixels(64, 64, n) + rng.normal(0, 30, (64, 64, 3))).clip(0, 255).astype(np.uint8)
        (root / "in" / f"{n:03d}.png").write_bytes(encode(noisy))
    output = root / "out"
    endpoint = Endpoint(bundle, root)
    try:
        asked = {"input": str(root / "in"), "output": str(output), "options": {"sheet": 0}}
        id = endpoint.client.post("/v1/jobs", json=asked).json()["id"]
        seen = endpoint.wait_for(id, lambda view: view["done"] > 0 or view["ended"])
        assert seen["state"] == "running", seen
        before = drivers(output)

        os.kill(endpoint.supervisor(), signal.SIGKILL)
        time.sleep(1)
        seen = endpoint.wait_for(id, lambda view: view["state"] == "running" and not before & drivers(output))
        assert len(drivers(output)) == 1
        seen = endpoint.wait_for(id, lambda view: view["done"] > seen["done"] or view["ended"])
        assert seen["state"] == "running", seen
    finally:
        endpoint.kill()
    until = time.monotonic() + 90
    while drivers(output):
        assert time.monotonic() < until, "a driver outlived everything"
        time.sleep(0.2)
    committed = len(list((output / "_raypurify" / "provenance").iterdir()))

    endpoint = Endpoint(bundle, root)
    try:
        done = endpoint.wait_for(id, lambda view: view["ended"])
        assert (done["state"], done["purified"]) == ("done", IMAGES), done
        # It was asked for by nobody, and went on where it was.
        assert committed > 0
    finally:
        endpoint.process.send_signal(signal.SIGTERM)
        endpoint.process.wait(120)
    whole = [
        sys.executable,
        "-m",
        "raypurify",
        "purify",
        root / "in",
        root / "whole",
        "--bundle",
        bundle,
        "--sheet",
        "0",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    subprocess.run([*map(str, whole)], check=True, capture_output=True, env=environment)
    assert files_below(output) == files_below(root / "whole")
