"""Events of a run as lines of JSON, and as the lines for people that they stand for."""

import json
import logging

import pytest

from raypurify.errors import ConfigError, SinkError
from raypurify.runtime.events import VARIABLE, log_as, log_event, quieten
from raypurify.runtime.observed import observed
from raypurify.runtime.progress import Progress
from raypurify.runtime.stages import run_stage
from raypurify.storage import resolve


@pytest.fixture
def lines(capsys, monkeypatch):
    """The events that were written as JSON since the form was chosen; what stands between them is an error."""
    monkeypatch.setenv(VARIABLE, "json")
    log_as(None)
    yield lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    log_as("plain")


def stage(error=None):
    progress = Progress(None, 8, "images", start=2)
    with observed("s3://bucket/run", "latents", lambda: progress.state):
        log_event("shard_committed", "latents: a line for people", shard="part-1", node="10.0.0.1", seconds=1.23456)
        progress.measure(loss=0.5)
        progress.add(6)
        if error:
            raise error


def test_a_stage_tells_of_its_beginning_its_shards_and_its_end(lines):
    stage()
    told = lines()
    assert [line["event"] for line in told] == ["stage_begun", "shard_committed", "progress", "stage_done"]
    assert {(line["run"], line["stage"], line["level"]) for line in told} == {("s3://bucket/run", "latents", "info")}
    begun, shard, progress, done = told
    assert {"shard": "part-1", "node": "10.0.0.1", "seconds": 1.235}.items() <= shard.items()
    assert {"done": 8, "total": 8, "unit": "images", "loss": 0.5}.items() <= progress.items()
    assert done["seconds"] >= 0
    assert begun["time"].endswith("Z")


@pytest.mark.parametrize(
    ("error", "event", "level"),
    [
        (SinkError("cannot write\ns3://key:se/cret@bucket/run?token=hush now"), "stage_failed", "error"),
        (KeyboardInterrupt(), "stage_interrupted", "warning"),
    ],
)
def test_a_stage_that_ends_early_says_why_and_no_secret(lines, error, event, level):
    with pytest.raises(type(error)):
        stage(error)
    last = lines()[-1]
    assert (last["event"], last["level"]) == (event, level)
    assert last["error"].startswith(type(error).__name__)
    assert "hush" not in last["error"]
    assert "cret" not in last["error"]
    assert "s3://bucket/run" in last["error"] or event == "stage_interrupted"


def test_a_stage_of_a_run_is_done_gone_on_with_or_skipped(lines, tmp_path):
    def body(folder):
        if not (folder / "half").kind:
            (folder / "half").write(b"")
            raise SinkError("full: free some space")
        return {"images": 3, "loss": 0.5}

    with pytest.raises(SinkError):
        run_stage(resolve(tmp_path), "prepare", {}, (), body)
    for _ in range(2):
        run_stage(resolve(tmp_path), "prepare", {}, (), body)
    told = lines()
    first, again, skipped = (
        ["stage_begun", "stage_failed"],
        ["stage_resumed", "stage_begun", "stage_done"],
        "stage_skipped",
    )
    assert [line["event"] for line in told] == [*first, *again, "stage_report", skipped]
    assert {(line["run"], line["stage"]) for line in told} == {(str(tmp_path), "prepare")}
    assert told[-2]["report"] == {"images": 3, "loss": 0.5}


def test_people_get_lines_and_collectors_of_their_own_get_records(capsys, caplog):
    log_as("plain")
    with caplog.at_level("INFO", "raypurify.events"):
        stage()
    said = capsys.readouterr()
    assert said.out == "latents: a line for people\n"
    assert said.err.startswith("latents: 8/8 images")
    assert [record.getMessage() for record in caplog.records][:2] == ["stage_begun", "shard_committed"]


@pytest.mark.parametrize("form", ["plain", "json"])
def test_where_it_is_to_be_quiet_only_what_went_wrong_is_told(form, capsys):
    log_as(form)
    quieten(True)
    try:
        stage()
        log_event("left_out", "raypurify: left out: a.tar", logging.WARNING, aside=True, text="a.tar")
    finally:
        quieten(False)
        log_as("plain")
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert ("left out: a.tar" if form == "plain" else '"event": "left_out"') in line


def test_another_form_is_refused(monkeypatch):
    monkeypatch.setenv(VARIABLE, "xml")
    with pytest.raises(ConfigError, match="--log-format plain or json"):
        log_as(None)
