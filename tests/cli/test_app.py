"""The command line as a user meets it: exit codes, one clear line for what cannot work, help with an example."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
import typer
from bad_images import encode, pixels
from typer.testing import CliRunner

from raypurify.bundle import read_facts
from raypurify.cli.app import app, main
from raypurify.errors import ConfigError
from raypurify.fit.graphs import GRAPHS, stage_names

BUNDLE = resources.files("raypurify.bundles") / "cifar10"


def raypurify(*arguments: object, **env: str) -> subprocess.CompletedProcess:
    base = {k: v for k, v in os.environ.items() if k not in ("RAYPURIFY_TOKEN", "RAY_ADDRESS")}
    command = [sys.executable, "-m", "raypurify", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=base | env, timeout=200)


# What each command exits with, and whether it prints a result and shows progress.
COMMANDS = {
    "demo": ("0 1 2 130", True, True),
    "purify": ("0 1 2 130", True, True),
    "retry-failed": ("0 1 2 130", True, True),
    "fit": ("0 2 130", True, True),
    "settings": ("0 2 130", True, False),
    "train": ("0 2 130", True, True),
    "evaluate": ("0 2 130", True, True),
    "retrain": ("0 2 130", True, True),
    "serve": ("0 2 130", False, False),
    "inspect": ("0 2 130", True, False),
    "adjust": ("0 2 130", True, False),
    "status": ("0 2 130", True, False),
    "doctor": ("0 1 2 130", True, False),
}


def test_all_commands_are_known_here():
    assert list(typer.main.get_command(app).commands) == list(COMMANDS)


def test_fit_says_the_stages_and_the_presets_of_each_method(tmp_path):
    said = " ".join(re.sub(r"[│|]", " ", CliRunner().invoke(app, ["fit", "--help"]).output).split())
    for method in GRAPHS:
        assert f"f {method}: {', '.join(stage_names(method))}" in said
    given = ["fit", "--data", str(tmp_path), "--run-dir", str(tmp_path / "run"), "--method", "stl"]
    with pytest.raises(ConfigError, match="those of stl are cifar10-stl, imagenet10-stl, tiny-stl"):
        CliRunner().invoke(app, [*given, "--preset", "tiny"], catch_exceptions=False)
    with pytest.raises(ConfigError, match="no stage clusters; use one of prepare, dae, latents, strata, dictionaries"):
        CliRunner().invoke(app, [*given, "--preset", "tiny-stl", "--until", "clusters"], catch_exceptions=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_exit_codes_an_example_and_what_all_commands_have(command):
    run = CliRunner().invoke(app, [command, "--help"])
    assert run.exit_code == 0
    before, _, example = run.output.partition("Example:")
    assert f"raypurify {command}" in example
    options, _, codes = before.partition("Exit codes:")
    shown, result, progress = COMMANDS[command]
    assert re.findall(r"(?:^|; )(\d+) ", " ".join(codes.split())) == shown.split()
    assert ("--json" in options, "--quiet" in options) == (result, progress)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "--data", "x", "--preset", "huge", "--run-dir", "r"], "unknown preset 'huge': choose one of"),
        (["fit", "--data", "/no/data", "--preset", "tiny", "--run-dir", "r"], "/no/data: no such file"),
        (["fit", "--data", "x", "--run-dir", "r"], "--preset"),
        (["fit", "--data", "x", "--preset", "tiny", "--run-dir", "r", "--set", "csc.x=1"], "csc.x"),
        (["purify", "/no/images", "out"], "/no/images: no such file"),
        (["purify", ".", "out"], "holds no image, Parquet file, tar or array file"),
        (["purify", ".", "out", "--sheet", "-1"], "--sheet"),
        (["purify", "in", "file/out"], "file/out"),
        (["purify", "in", "out", "--bundle", "cifar11"], "the shipped bundles are: cifar10"),
        (["purify", "in", "out", "--format", "gif"], "gif"),
        (["inspect", "/no/bundle"], "no bundle at"),
        (["status", "in"], "neither the run directory of fit or retrain nor the output of purify"),
        (["retrain", "/no/grid", "--classifier", "a", "--purifier", "b", "--run-dir", "r"], "cannot read the grid"),
        (["serve"], "RAYPURIFY_TOKEN"),
        (["train", "--config", "c", "--images", "", "--out", "o"], "an empty value of --images, as a variable"),
        (["evaluate", "grid", "--out="], "an empty value of --out=, as a variable"),
        (["purify", "in", ""], "an empty value, as a variable that is not set leaves it"),
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


def test_a_file_without_a_token_is_named(tmp_path):
    (tmp_path / "tokens").write_text("\n \n")
    done = CliRunner().invoke(app, ["serve", "--token-file", str(tmp_path / "tokens")])
    assert done.exit_code == 2
    assert "holds no token" in done.output


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


@pytest.fixture
def said(monkeypatch, capsys):
    """What a command says with ``--json``, called in this process: one line, nothing beside it on standard output."""

    def call(*arguments: object, code: int = 0) -> dict:
        monkeypatch.setattr("raypurify.cli.outcome._FACTS", {})
        monkeypatch.setattr("sys.argv", ["raypurify", *map(str, arguments), "--json"])
        with pytest.raises(SystemExit) as ended:
            main()
        (line,) = capsys.readouterr().out.splitlines()
        told = json.loads(line)
        assert list(told)[:3] == ["command", "exit", "seconds"]
        assert (told["command"], told["exit"], ended.value.code) == (arguments[0], code, code)
        return told

    return call


def test_json_is_all_of_standard_output(said, tmp_path):
    inspected = said("inspect", "cifar10")
    assert inspected["classes"][:2] == ["airplane", "automobile"]
    assert inspected["digest"] == read_facts("cifar10").digest
    (tmp_path / "prepare").mkdir()
    (tmp_path / "prepare" / "stage.json").write_text(json.dumps({"state": "complete", "seconds": 1.0}))
    state = said("status", tmp_path)
    assert (state["kind"], state["complete"]) == ("fit", False)
    assert state["stages"][:2] == [
        {"name": "prepare", "state": "complete", "text": "1 s"},
        {"name": "baseline", "state": "waiting", "text": ""},
    ]
    adjusted = said("adjust", "cifar10", tmp_path / "b", "--set", "csc.lmbda=0.3")
    assert adjusted["bundle"] == str(tmp_path / "b")
    assert adjusted["digest"] == read_facts(tmp_path / "b").digest
    assert "perhaps csc.lmbda" in said("adjust", "cifar10", tmp_path / "c", "--set", "csc.lamda=1", code=2)["error"]
    assert "unknown preset 'huge'" in said("fit", "--data", "x", "--preset", "huge", "--run-dir", "r", code=2)["error"]
    assert "--no-such-option" in said("purify", "--no-such-option", code=2)["error"]
    assert "give --preset" in said("fit", "--data", "x", "--run-dir", "r", code=2)["error"]


def test_what_nobody_foresaw_is_no_partial_success(said, monkeypatch):
    def fail(folder):
        raise RuntimeError("a bug")

    monkeypatch.setattr("raypurify.cli.texts.status_facts", fail)
    assert said("status", "x", code=2)["error"] == "RuntimeError: a bug"


@pytest.mark.parametrize(
    ("words", "offered"),
    [("raypurify re", {"retrain", "retry-failed"}), ("raypurify status --j", {"--json"})],
)
def test_shells_complete_commands_and_options(words, offered):
    given = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    code = "import sys; sys.argv[:] = ['raypurify']; from raypurify.cli.app import main; main()"
    environment = os.environ | given | {"_RAYPURIFY_COMPLETE": "complete_bash"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert set(run.stdout.split()) == offered, run.stderr


def test_purify_says_where_things_are_and_exits_1_for_a_bad_image(said, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good.png").write_bytes(encode(pixels()))
    (tmp_path / "in" / "bad.png").write_bytes(b"no image")
    run = raypurify("purify", tmp_path / "in", tmp_path / "out", "--json", "--quiet")
    assert run.returncode == 1, run.stderr
    told = json.loads(run.stdout)
    assert {name: told[name] for name in ("command", "exit", "output", "images", "purified", "failed", "damaged")} == {
        "command": "purify",
        "exit": 1,
        "output": str(tmp_path / "out"),
        "images": 2,
        "purified": 1,
        "failed": 1,
        "damaged": 0,
    }
    # The summary, and no line of progress before it.
    assert run.stderr.startswith("purified:   1 of 2 images")
    assert "1 not-an-image" in run.stderr
    for name in ("good.png", "_raypurify/provenance.parquet", "_raypurify/errors.parquet", "_raypurify/sheet.png"):
        assert (tmp_path / "out" / name).is_file()
    status = raypurify("status", tmp_path / "out")
    assert status.returncode == 0
    assert "complete: 1/1 shards, 2/2 images, 1 failed" in status.stdout
    state = said("status", tmp_path / "out")
    assert (state["kind"], state["complete"], state["images"], state["failed"]) == ("purify", True, 2, 1)


def test_the_package_runs_as_a_module():
    run = raypurify("--help")
    assert run.returncode == 0
    assert run.stdout.startswith("Usage: python -m raypurify ")
    assert all(command in run.stdout for command in ("fit", "purify", "status"))
    assert raypurify().returncode == 2


def test_an_interrupt_is_said_in_one_line(monkeypatch, capsys, tmp_path):
    def interrupt(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr("raypurify.cli.texts.status_facts", interrupt)
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


@pytest.mark.parametrize(
    "held", ["[1]", "3", "{", '{"state": "complete"}', '{"state": "complete", "seconds": "x"}', "{}"]
)
def test_a_damaged_marker_is_named_with_what_to_do(said, tmp_path, held):
    (tmp_path / "prepare").mkdir()
    (tmp_path / "prepare" / "stage.json").write_text(held)
    error = said("status", tmp_path, code=2)["error"]
    assert error.startswith(f"{tmp_path}/prepare/stage.json is damaged: ")
    assert f"delete the folder {tmp_path}/prepare" in error


@pytest.mark.parametrize("held", ["[1]", "3", "{", '{"method": ["stl"]}'])
def test_a_damaged_name_of_the_method_is_named_with_what_to_do(said, tmp_path, held):
    (tmp_path / "fit.json").write_text(held)
    error = said("status", tmp_path, code=2)["error"]
    assert error.startswith(f"{tmp_path}/fit.json is damaged: ")
    assert "rsfp, stl" in error


@pytest.mark.parametrize("held", ["[1]", "{", '{"done": "x"}'])
def test_progress_of_another_form_is_left_out(said, tmp_path, held):
    (tmp_path / "prepare").mkdir()
    (tmp_path / "prepare" / "stage.json").write_text('{"state": "running"}')
    (tmp_path / "prepare" / "progress.json").write_text(held)
    assert said("status", tmp_path)["stages"][0] == {"name": "prepare", "state": "running", "text": ""}


def test_a_record_of_another_form_is_named(said, tmp_path):
    (tmp_path / "_raypurify").mkdir()
    (tmp_path / "_raypurify" / "job.json").write_text('{"format_version": 1, "source": [], "settings": {}}')
    assert "_raypurify/job.json: is damaged" in said("status", tmp_path, code=2)["error"]


@pytest.mark.parametrize("part", [{"training_data": {}}, {"measured": {}}, {"measured": {"set": "x", "clean": 3}}])
def test_a_manifest_that_lacks_what_is_told_of_is_named(said, tmp_path, part):
    shutil.copytree(BUNDLE.parent / "cifar10-region", tmp_path / "b")
    manifest = tmp_path / "b" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | part))
    error = said("inspect", tmp_path / "b", code=2)["error"]
    assert error.startswith(f"bundle {tmp_path}/b: manifest.json is of another form")
    assert "download the bundle again" in error
