"""A damaged file among others, as the command line meets it: told at once, left out, done when it is mended."""

import io
import json
import tarfile

import pytest
from bad_images import encode, pixels
from typer.testing import CliRunner

from raypurify.bulk import planning
from raypurify.cli.app import app
from raypurify.errors import SourceError

RUN = CliRunner()


@pytest.fixture
def command(tmp_path):
    (tmp_path / "in").mkdir()
    for name, count in (("t0", 25), ("t1", 15)):
        with tarfile.open(tmp_path / "in" / f"{name}.tar", "w") as tar:
            for number in range(count):
                data = encode(pixels())
                member = tarfile.TarInfo(f"{number:03d}.png")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return ["purify", str(tmp_path / "in"), str(tmp_path / "out"), "--sheet", "0"]


def test_the_others_are_done_and_a_rerun_does_what_is_mended(local_ray, tmp_path, command, monkeypatch):
    # Looked into by tasks, as an input of many files is.
    monkeypatch.setattr(planning, "_FEW_FILES", 0)
    damaged = tmp_path / "in/t0.tar"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:9000])
    record = tmp_path / "out/_raypurify"
    for refusing in (["--strict"], ["--limit=3"], ["--shard=1/2", "--dry-run"]):
        with pytest.raises(SourceError, match=r"t0\.tar: is cut off"):
            RUN.invoke(app, [*command, *refusing], catch_exceptions=False)
        assert not (record / "job.json").exists()
    rehearsed = RUN.invoke(app, [*command, "--dry-run"])
    assert "images:     15 in" in rehearsed.stdout, rehearsed.output
    assert "damaged:    1 files" in rehearsed.stdout
    assert not (tmp_path / "out").exists()

    first = RUN.invoke(app, command)
    assert first.exit_code == 1, first.output
    assert "15 of 15 images" in first.stdout
    assert "damaged:    1 of the input's files, left out; when mended" in first.stdout
    assert first.stderr.count(f"left out: {damaged}: is cut off") == 1
    assert [*json.loads((record / "job.json").read_text())["source"]["damaged"]] == ["t0.tar"]
    assert "damaged       1 of" in RUN.invoke(app, ["status", command[2]]).stdout
    done = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("t1-*")}
    assert done

    damaged.write_bytes(whole)
    second = RUN.invoke(app, command)
    assert second.exit_code == 0, second.output
    assert "40 of 40 images" in second.stdout
    assert "damaged" not in second.output
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("t1-*")} == done
    assert "damaged" not in (record / "job.json").read_text()
