"""The command line as a user meets it: exit codes, one clear line for what cannot work, help with an example."""

import json
import os
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
from bad_images import encode, pixels

from raypurify.cli.app import main

BUNDLE = resources.files("raypurify.bundles") / "cifar10"


def raypurify(*arguments: object, **env: str) -> subprocess.CompletedProcess:
    base = {k: v for k, v in os.environ.items() if k not in ("RAYPURIFY_TOKEN", "RAY_ADDRESS")}
    command = [sys.executable, "-m", "raypurify", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=base | env, timeout=200)


@pytest.mark.parametrize(
    "command", ["fit", "train", "purify", "evaluate", "retrain", "serve", "inspect", "status", "doctor"]
)
def test_help_has_an_example(command):
    run = raypurify(command, "--help")
    assert run.returncode == 0
    assert f"raypurify {command}" in run.stdout.partition("Example:")[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "--data", "x", "--preset", "huge", "--run-dir", "r"], "unknown preset 'huge': choose one of"),
        (["fit", "--data", "/no/data", "--preset", "tiny", "--run-dir", "r"], "/no/data: no such file"),
        (["fit", "--data", "x", "--run-dir", "r"], "--preset"),
        (["fit", "--data", "x", "--preset", "tiny", "--run-dir", "r", "--set", "csc.x=1"], "csc.x"),
        (["purify", "/no/images", "out"], "/no/images: no such file"),
        (["purify", ".", "out"], "holds no image, Parquet file or tar"),
        (["purify", ".", "out", "--sheet", "-1"], "--sheet"),
        (["purify", "in", "file/out"], "file/out"),
        (["purify", "in", "out", "--bundle", "cifar11"], "the shipped bundles are: cifar10"),
        (["purify", "in", "out", "--format", "gif"], "gif"),
        (["inspect", "/no/bundle"], "no bundle at"),
        (["status", "in"], "neither the run directory of fit or retrain nor the output of purify"),
        (["retrain", "/no/grid", "--classifier", "a", "--purifier", "b", "--run-dir", "r"], "cannot read the grid"),
        (["serve"], "RAYPURIFY_TOKEN"),
        (["nonsense"], "nonsense"),
    ],
)
def test_what_cannot_work_is_one_line_and_exit_code_2(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    if "in" in arguments:
        Path("in").mkdir()
        Path("in/a.png").write_bytes(encode(pixels()))
        Path("file").write_text("")
    run = raypurify(*arguments)
    assert run.returncode == 2, run.stdout + run.stderr
    assert message in " ".join(run.stderr.split())
    assert "Traceback" not in run.stderr
    assert not run.stdout


def test_a_damaged_bundle_is_one_line_and_exit_code_2(tmp_path):
    shutil.copytree(BUNDLE, tmp_path / "b")
    with (tmp_path / "b" / "network.safetensors").open("ab") as file:
        file.write(b"x")
    run = raypurify("inspect", tmp_path / "b")
    assert run.returncode == 2
    assert "network.safetensors does not have the digest" in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_inspect_tells_what_the_bundle_is():
    run = raypurify("inspect", "cifar10")
    assert run.returncode == 0
    for word in ("WRN-", "clusters", "airplane", "Tikhonov", "baseline_attacked_purified"):
        assert word in run.stdout
    manifest = json.loads(raypurify("inspect", "cifar10", "--json").stdout)
    assert manifest["classes"][:2] == ["airplane", "automobile"]


def test_purify_says_where_things_are_and_exits_1_for_a_bad_image(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good.png").write_bytes(encode(pixels()))
    (tmp_path / "in" / "bad.png").write_bytes(b"no image")
    run = raypurify("purify", tmp_path / "in", tmp_path / "out")
    assert run.returncode == 1, run.stderr
    assert "1 of 2 images" in run.stdout
    assert "1 not-an-image" in run.stdout
    assert "Traceback" not in run.stderr
    for name in ("good.png", "_raypurify/provenance.parquet", "_raypurify/errors.parquet", "_raypurify/sheet.png"):
        assert (tmp_path / "out" / name).is_file()
    status = raypurify("status", tmp_path / "out")
    assert status.returncode == 0
    assert "complete: 1/1 shards, 2/2 images, 1 failed" in status.stdout


def test_the_package_runs_as_a_module():
    run = raypurify("--help")
    assert run.returncode == 0
    assert run.stdout.startswith("Usage: python -m raypurify ")
    assert all(command in run.stdout for command in ("fit", "purify", "status"))
    assert raypurify().returncode == 2


def test_an_interrupt_is_said_in_one_line(monkeypatch, capsys, tmp_path):
    def interrupt(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr("raypurify.cli.texts.status_text", interrupt)
    monkeypatch.setattr("sys.argv", ["raypurify", "status", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert capsys.readouterr().err.strip() == "raypurify: interrupted; the same command goes on from here"


@pytest.mark.parametrize("command", ["status", "inspect"])
def test_who_only_asks_waits_for_neither_torch_nor_ray(command, tmp_path):
    asked = {"status": tmp_path, "inspect": "cifar10"}[command]
    (tmp_path / "prepare").mkdir()
    (tmp_path / "prepare" / "stage.json").write_text(json.dumps({"state": "complete", "seconds": 1.0}))
    code = (
        "import sys\n"
        "for name in ('torch', 'ray', 'scipy', 'numba', 'sklearn', 'matplotlib'):\n"
        "    sys.modules[name] = None\n"
        "from raypurify.cli.app import main\n"
        "main()\n"
    )
    run = subprocess.run([sys.executable, "-c", code, command, str(asked)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith({"status": "prepare       complete", "inspect": "bundle        "}[command])
