"""Progress as files, as lines in a log, and as a bar on a terminal."""

import os
import pty
import subprocess
import sys

from raypurify.files import read_json, write_json
from raypurify.runtime.display import shown
from raypurify.runtime.progress import FILE, Progress, describe, shared_progress


def test_counts_reach_the_file_and_its_readers(tmp_path):
    progress = Progress(tmp_path, 10, "images", start=4)
    progress.add(6, note="loss 0.5")
    state = read_json(tmp_path / FILE)
    assert (state["done"], state["total"], state["start"], state["note"]) == (10, 10, 4, "loss 0.5")


def test_work_of_an_earlier_run_does_not_count_towards_the_rate():
    state = {"done": 60, "total": 100, "unit": "shards", "start": 50, "note": "2 failed", "started": 0.0}
    state["updated"] = 5.0
    assert describe(state) == "60/100 shards, 2.0 shards/s, 20 s left, 2 failed"
    assert describe(state | {"done": 50}) == "50/100 shards, 2 failed"


def test_a_torn_or_missing_file_reads_as_nothing(tmp_path):
    assert read_json(tmp_path / "none.json") is None
    (tmp_path / "torn.json").write_text('{"done": 1')
    assert read_json(tmp_path / "torn.json") is None
    write_json(tmp_path / "torn.json", {"done": 2})
    assert read_json(tmp_path / "torn.json") == {"done": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["torn.json"]


def test_a_log_gets_plain_lines_with_the_known_total(capsys):
    progress = Progress(None, 8, "images")
    with shown("purify", lambda: progress.state, every=0.05):
        progress.add(8)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("purify: 8/8 images")
    assert "\x1b" not in "".join(lines)


def test_a_terminal_gets_a_bar():
    code = (
        "import sys\n"
        "from raypurify.runtime.display import shown\n"
        "from raypurify.runtime.progress import Progress\n"
        "p = Progress(None, 8, 'images')\n"
        "with shown('purify', lambda: p.state):\n"
        "    p.add(3); sys.stdin.read(); p.add(5)\n"
    )
    reader, writer = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=writer, stdout=writer, env=environment
    )
    os.close(writer)
    seen = b""
    while True:
        try:
            part = os.read(reader, 4096)
        except OSError:
            break
        if not part:
            break
        seen += part
        if b"3/8 images" in seen and not process.stdin.closed:
            process.stdin.close()
    assert process.wait(30) == 0
    text = seen.decode()
    assert "3/8 images" in text
    assert "8/8 images" in text
    assert "━" in text


def test_a_part_begun_again_counts_once(tmp_path):
    progress = Progress(tmp_path, 100, "images", start=40)
    for rows in (10, 20, 10, 20, 30):
        progress.reach("a", rows)
    progress.reach("b", 30)
    assert progress.state["done"] == 100


def test_the_rate_counts_from_when_the_work_begins(monkeypatch):
    now = 1000.0
    monkeypatch.setattr("time.time", lambda: now)
    progress = Progress(None, 100, "images", start=20)
    progress.add(0, "actors start")
    assert describe(progress.state) == "20/100 images, actors start"
    now += 30
    progress.begin()
    now += 2
    progress.reach("a", 8)
    assert describe(progress.state) == "28/100 images, 4.0 images/s, 18 s left"


def test_the_first_to_come_does_not_tell_how_long_the_others_take(monkeypatch):
    now = 1000.0
    monkeypatch.setattr("time.time", lambda: now)
    progress = Progress(None, 48, "images")
    now += 140
    progress.add(2)
    assert describe(progress.state) == "2/48 images, 70.0 s each"
    now += 2
    progress.add(26)
    assert describe(progress.state) == "28/48 images, 5.1 s each, 1 min 41 s left"


def test_how_far_a_stage_is_can_be_read_before_its_actor_has_started(local_ray, tmp_path):
    shared_progress(tmp_path, 3, "images", start=1)
    state = read_json(tmp_path / FILE)
    assert (state["done"], state["total"], state["unit"]) == (1, 3, "images")
