"""A job over several inputs, patterns and links: as the command line takes them, and as a retry repeats it."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from raypurify.bulk.job import retry
from raypurify.cli.app import app

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples" / "cifar10").rglob("*.png"))


@pytest.fixture
def inputs(tmp_path, monkeypatch) -> Path:
    """Two images, one of them bad, and a stray archive in ``a``, one image in ``b``, one behind the link ``c/d``."""
    for name, file in zip(("a/1.png", "a/2.png", "b/3.png", "e/4.png"), EXAMPLES):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(file.read_bytes())
    (tmp_path / "a/2.png").write_bytes(bytes(len(EXAMPLES[1].read_bytes())))
    (tmp_path / "a/old.tar").write_bytes(b"any")
    (tmp_path / "c").mkdir()
    os.symlink("../e", tmp_path / "c/d")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_job_of_several_inputs_is_repeated_by_a_retry_from_elsewhere(local_ray, inputs, monkeypatch):
    command = ["purify", "a", "{b,c}/**", "out", "--kind", "images", "--follow-links", "--sheet", "0"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1, done.output
    assert "purified:   3 of 4 images" in done.output
    assert "ignored:    1 .tar files (--kind images)" in done.output
    job = json.loads((inputs / "out/_raypurify/job.json").read_text())
    assert job["source"]["uris"] == ["a", "{b,c}/**"]
    assert {name: job["arguments"][name] for name in ("inputs", "kind", "follow_links")} == {
        "inputs": [str(inputs / "a"), str(inputs / "{b,c}/**")],
        "kind": "images",
        "follow_links": True,
    }
    (inputs / "a/2.png").write_bytes(EXAMPLES[1].read_bytes())
    monkeypatch.chdir("/")
    mended = retry(str(inputs / "out"))
    assert (mended.written, mended.failed) == (4, 0)
    assert sorted(str(p.relative_to(inputs / "out")) for p in (inputs / "out").rglob("[0-9].png")) == [
        "a/1.png",
        "a/2.png",
        "b/3.png",
        "c/d/4.png",
    ]


def test_a_dry_run_takes_the_same_choices_and_a_single_name_is_no_input_and_output(inputs):
    run = CliRunner().invoke(app, ["purify", "a", "c", "out", "--dry-run", "--kind", "images", "--follow-links"])
    assert run.exit_code == 0, run.output
    assert "images:     3 in 1 shard\nignored:    1 .tar files (--kind images)\n" in run.output
    assert CliRunner().invoke(app, ["purify", "a"]).exit_code == 2
