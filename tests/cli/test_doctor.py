"""``raypurify doctor`` says what is there, and names what is broken without stopping at it."""

import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import raypurify
from raypurify.bundle import shipped_bundles
from raypurify.cli import doctor
from raypurify.cli.app import app
from raypurify.cli.doctor import agreement, machine
from raypurify.cli.doctor.findings import find
from raypurify.version import __version__

MACHINE = ["packages", "devices", "bundles", "sparse coding", "disk"]
CLUSTER = ["ray", "versions", "GPUs", "disks", "access", "clocks"]


@pytest.fixture
def findings(local_ray):
    return lambda: {finding.name: finding for finding in doctor.examine()}


def test_a_machine_that_passes_the_tests_is_well(findings):
    found = findings()
    assert list(found) == MACHINE + CLUSTER
    assert [finding.name for finding in found.values() if finding.state != "ok"] == []
    assert f"raypurify {__version__}" in found["packages"].text
    assert f"torch {torch.__version__}" in found["packages"].text
    assert all(name in found["bundles"].text for name in shipped_bundles())
    assert "1 node, " in found["ray"].text


def test_what_is_broken_is_named_and_the_rest_is_looked_at(findings, monkeypatch):
    version = metadata.version

    def without_numba(name):
        if name in ("numba", "scikit-image"):
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", without_numba)
    monkeypatch.setattr(machine, "LEAST_DISK", 1 << 60)
    monkeypatch.setattr(agreement, "LEAST_DISK", 1 << 60)
    found = findings()
    assert {name for name, finding in found.items() if not finding.ok} == {"packages", "disk", "disks"}
    assert found["packages"].text == "missing: numba; pip install raypurify again"
    assert "set RAY_TMPDIR" in found["disk"].text
    assert found["disks"].text.endswith("free some, or start that node with --temp-dir")


def test_a_missing_extra_is_no_failure(monkeypatch):
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: version("no-such-package" if name == "PyWavelets" else name))
    found = find("packages", machine.MACHINE["packages"])
    assert found.ok
    assert "without the extra [evaluation]: PyWavelets" in found.text
    assert len(found.text) < 500


def test_storage_and_bundle_are_options_and_a_fault_is_an_exit_code(local_ray, tmp_path):
    (tmp_path / "file").touch()
    good, bad = tmp_path / "run", tmp_path / "file" / "run"
    run = CliRunner().invoke(app, ["doctor", "--run-dir", str(good), "--storage", str(bad), "--bundle", "cifar10"])
    assert run.exit_code == 1
    lines = [line for line in run.output.splitlines() if " ok " not in line]
    assert len(lines) == 1, run.output
    assert lines[0].startswith(f"storage       FAIL this process cannot write {bad} (")
    assert f"storage       ok   {good}: written, read and deleted by 1 node and from here" in run.output
    assert "bundle        ok   cifar10 " in run.output
    assert os.listdir(tmp_path) == ["file"]


HERE = {"python": "3.11.9", "ray": "2.60.0", "torch": "2.10.0+cpu", "raypurify": "1.0"}


@pytest.mark.parametrize(
    ("check", "state", "text"),
    [
        (lambda: agreement.versions(HERE, {"a": HERE, "b": HERE | {"torch": "2.10.0+cu130"}}), "ok", "on 2 nodes"),
        (
            lambda: agreement.versions(HERE, {"a": HERE, "b": HERE | {"ray": "2.59.0", "raypurify": None}}),
            "FAIL",
            "b has ray 2.59.0, no raypurify, not ray 2.60.0, raypurify 1.0 as here; install the same on all nodes",
        ),
        (lambda: agreement.gpus({"a": 0, "b": 2}, {"a": 0, "b": 2}), "ok", "torch sees the 2 that Ray counts"),
        (
            lambda: agreement.gpus({"a": 1, "b": 2}, {"a": 1, "b": 1}),
            "FAIL",
            "of GPUs on b Ray counts 2 and torch sees 1",
        ),
        (lambda: agreement.disks({"a": ("/tmp", 5 << 30), "b": ("/tmp", 9 << 30)}), "ok", "5 GiB free at least"),
        (
            lambda: agreement.disks({"a": ("/tmp", 1 << 30), "b": ("/tmp", 9 << 30)}),
            "FAIL",
            "a has 1.0 GiB free in /tmp",
        ),
        (lambda: agreement.clocks({"a": (0.01, 0.001), "b": (-1.9, 0.001)}), "ok", "within 1.901 s"),
        (lambda: agreement.clocks({"a": (0.0, 0.1), "b": (-2.4, 0.1)}), "FAIL", "b is 2.4 s behind this machine"),
        (lambda: agreement.clocks({"a": (30.0, 0.1), "b": (0.0, 0.1)}), "FAIL", "a is 30.0 s ahead of this machine"),
        # A slow answer proves nothing.
        (lambda: agreement.clocks({"a": (4.0, 3.0)}), "ok", "within 7.000 s"),
        (lambda: agreement.access({"a": True}, ["10.0.0.1"], "10.0.0.1:8265"), "ok", "Ray asks for a token, dashboard"),
        (lambda: agreement.access({"a": False}, ["127.0.0.1"], ""), "ok", "listens on loopback alone"),
        (lambda: agreement.access({"a": False}, ["127.0.0.1"], "10.0.0.1:8265"), "warn", "dashboard at 10.0.0.1:8265"),
        (
            lambda: agreement.access({"a": True, "b": False}, ["10.0.0.1", "10.0.0.2"], ""),
            "warn",
            "1 node of 2 ask for no token and listen beyond loopback: who reaches their ports can run code there; "
            "start every node with RAY_AUTH_MODE=token",
        ),
    ],
)
def test_what_nodes_say_is_compared(check, state, text):
    found = find("check", check)
    assert found.state == state
    assert text in found.text


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, store):
    """What ``doctor`` finds on a cluster: all well, a node unlike the others, a silent node; and the nodes' IDs."""
    place = tmp_path_factory.mktemp("doctor")
    package = Path(raypurify.__file__).parent
    other = place / "other" / "raypurify"
    for folder in (place / "here", place / "there", other):
        folder.mkdir(parents=True)
    for part in package.iterdir():
        (other / part.name).symlink_to(part)
    (other / "version.py").unlink()
    (other / "version.py").write_text('__version__ = "9.9"\n')
    for name, bundle in (("here", "cifar10"), ("there", "imagenet10")):
        shutil.copytree(package / "bundles" / bundle, place / name / "bundle")
    (place / "there" / "file").touch()
    environment = os.environ | {"PYTHONPATH": str(package.parent)}
    script = Path(__file__).with_name("doctor_nodes.py")
    command = [sys.executable, str(script), str(place), store.uri("doctor/run", "test-key:test-hush")]
    run = subprocess.run(command, env=environment, cwd=place, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
    assert not (place / "new").exists()
    return json.loads((place / "findings.json").read_text())


def failures(found):
    return {name: text for name, state, text in found if state == "FAIL"}


def test_nodes_that_agree_are_well(cluster, store):
    found = cluster["well"]
    assert [name for name, *_ in found] == [*CLUSTER, "bundle", "storage", "storage"]
    assert failures(found) == {}
    texts = [text for *_, text in found]
    assert texts[0].startswith("2 nodes, 2 CPUs, 0 GPUs")
    assert f"raypurify {__version__} on 2 nodes" in texts[1]
    assert texts[-3].endswith("the same on 2 nodes")
    assert all("written, read and deleted by 2 nodes" in text for text in texts[-2:])
    # What was written is gone, and no secret is shown.
    assert [name for name in store.objects("doctor") if "raypurify" in name] == []
    assert "test-hush" not in json.dumps(cluster)


def test_a_node_unlike_the_others_is_named(cluster):
    found, third = cluster["unlike"], cluster["names"]["third"]
    wrong = failures(found)
    assert set(wrong) == {"versions", "GPUs", "bundle", "storage"}
    assert f"({third}) has raypurify 9.9, not raypurify {__version__} as here" in wrong["versions"]
    assert f"({third}) Ray counts 1 and torch sees 0: install the build of torch" in wrong["GPUs"]
    assert f"({third}) has another, " in wrong["bundle"]
    assert "copy one /proc/self/cwd/bundle to all nodes" in wrong["bundle"]
    own, unwritable, shared = [(state, text) for name, state, text in found if name == "storage"]
    assert own[0] == unwritable[0] == "FAIL"
    assert "/proc/self/cwd/run is not shared, " in own[1]
    assert f"({third}) and this process do not see what the other writes: mount one folder" in own[1]
    assert f"({third}) cannot write /proc/self/cwd/file/run (" in unwritable[1]
    assert shared[0] == "ok"
    # One fault each, of that node alone.
    assert all(text.count("(") <= 2 for text in (wrong["versions"], wrong["GPUs"], wrong["bundle"], own[1]))


def test_a_silent_node_is_named_and_not_waited_for(cluster):
    found, second = cluster["silent"], cluster["names"]["second"]
    wrong = failures(found)
    assert f"({second}) gives no answer within 15 s: " in wrong["ray"]
    assert set(wrong) == {"ray"}
    assert found[-1][:2] == ["storage", "ok"]
    assert "by 1 node " in found[-1][2]
