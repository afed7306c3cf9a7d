"""The points at which the kill tests kill are reached by what the package does, and a lost one is said at once."""

import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from bulk_kills import HERE, KILL_POINTS, plan_kill

KILLING = runpy.run_path(str(KILL_POINTS / "sitecustomize.py"))
START = """
import sys
from raypurify.containers.ledger import scratch
from raypurify.storage import resolve
source, output = map(resolve, sys.argv[1:3])
"""
READ = "(source / 'a.png').read()\n"
WRITE = "(output / 'a.png').write(b'1234', scratch(output))\n"
LOAD = "import raypurify, torch\npurifier = raypurify.load('cifar10')\n"
CODE = {"read": READ, "solve": f"{LOAD}{READ}purifier.purify(torch.rand(9, 3, 32, 32))\n"}


def ended(package: Path, plan: Path, code: str, *arguments: str) -> subprocess.CompletedProcess:
    """A process with a kill plan, such as Ray starts: it knows its raylet."""
    paths = os.pathsep.join((str(KILL_POINTS), str(package)))
    environment = os.environ | {"PYTHONPATH": paths, "KILL_PLAN": str(plan), "RAY_RAYLET_PID": "1"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("point", KILLING["POINTS"])
def test_every_point_is_reached(tmp_path, point):
    source, output = str(tmp_path / "in"), str(tmp_path / "out")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"1234")
    if point in ("put", "stored"):
        source, output = "memory://in", "memory://out"
    plan, killed = plan_kill(tmp_path, source, output, point, "worker", count=1)
    run = ended(HERE.parents[1], plan, START + CODE.get(point, WRITE), source, output, "default_worker.py")
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert killed.exists()
    assert not list(tmp_path.glob("out/a.png")) or point == "renamed"


def test_a_function_that_was_renamed_ends_every_process_by_name(tmp_path):
    *folders, module, function = KILLING["WATCHED"]["solve"].split(".")
    package = tmp_path.joinpath(*folders)
    package.mkdir(parents=True)
    (tmp_path / "raypurify" / "__init__.py").write_text("")
    (tmp_path / "raypurify" / "storage.py").write_text("class Place:\n    def put(self):\n        pass\n")
    (package / f"{module}.py").write_text(f"from raypurify.csc import {function} as solve\n")
    plan, _ = plan_kill(tmp_path, "in", str(tmp_path / "out"), "read", "worker", count=1)
    run = ended(tmp_path, plan, "print('went on')")
    assert (run.returncode, run.stdout) == (KILLING["UNWATCHED"], "")
    for name in KILLING["WATCHED"].values():
        assert name in run.stderr


def test_an_unknown_point_ends_every_process(tmp_path):
    plan, _ = plan_kill(tmp_path, "in", str(tmp_path / "out"), "sleep", "worker", count=1)
    run = ended(HERE.parents[1], plan, "print('went on')")
    assert (run.returncode, run.stdout) == (KILLING["UNWATCHED"], "")
    assert "no point 'sleep', only read" in run.stderr
