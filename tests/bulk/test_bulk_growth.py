"""Work on many tars begins while others of them are looked into, and ends in the bytes of a job that waited for all."""

import io
import os
import tarfile
import time
from itertools import pairwise
from pathlib import Path

import pytest
from bad_images import encode, pixels
from typer.testing import CliRunner

from raypurify.bulk import planning
from raypurify.bulk.growth import Growth
from raypurify.bulk.job import purify
from raypurify.cli.app import app
from raypurify.containers.ledger import committed
from raypurify.containers.looking import Looking, in_threads
from raypurify.containers.sink import missing, open_sink, status
from raypurify.errors import SinkError, SourceError
from raypurify.storage import resolve

TARS, IMAGES, DAMAGED = 40, 3, "t07.tar"


def write_tar(path: Path, images: int, seed: int) -> None:
    with tarfile.open(path, "w") as tar:
        for number in range(images):
            data = encode(pixels(seed=seed + number))
            member = tarfile.TarInfo(f"{number:03d}.png")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


@pytest.fixture(scope="module", autouse=True)
def large():
    """So few images count as many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "SMALL", 2 * IMAGES)
        yield


@pytest.fixture(scope="module")
def tars(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("growth") / "in"
    folder.mkdir()
    for number in range(TARS):
        write_tar(folder / f"t{number:02d}.tar", IMAGES, number * IMAGES)
    (folder / DAMAGED).write_bytes((folder / DAMAGED).read_bytes()[:700])
    return str(folder)


@pytest.fixture
def early(monkeypatch):
    """Work begins as soon as it may; a test says what happens before a look, or after how many the store is gone."""
    monkeypatch.setattr(planning, "FIRST_S", 0.0)
    monkeypatch.setattr(planning, "PAUSE_S", 0.0)

    def arrange(before=lambda number: None, breaks_at: int = TARS) -> None:
        def each(join, function, items):
            for number, item in enumerate(items):
                before(number)
                if number == breaks_at:
                    raise SourceError("the store does not answer; run again when it does")
                yield function(item)

        monkeypatch.setattr(planning, "_each", each)

    return arrange


def outputs(out: Path) -> dict[str, bytes]:
    paths = (os.path.relpath(path, out) for path in sorted(out.rglob("*")) if path.is_file())
    return {path: (out / path).read_bytes() for path in paths if "/plan/" not in path}


@pytest.fixture(scope="module")
def waited(tars, local_ray) -> dict[str, bytes]:
    """The output of a job that began when all tars were known."""
    out = Path(tars).parent / "waited"
    purify([tars], str(out), sheet=0)
    return outputs(out)


def test_the_shards_of_one_source_are_the_first_of_the_next(tars, tmp_path, early):
    early()
    looking = Looking(each=in_threads, damaged=lambda error: None)
    parts = [*planning.planned_in_parts(str(tmp_path / "out"), [tars], False, looking, planning.Early())]
    assert [source.seen_to for source in parts] == ["t15.tar", "t31.tar", None]
    for one, other in pairwise(parts):
        assert one.shards == other.shards[: len(one.shards)]
    whole = planning.planned_for(str(tmp_path / "out"), [tars], looking=looking)
    assert (whole.shards, whole.digest, whole.damaged.keys()) == (parts[-1].shards, parts[-1].digest, {DAMAGED})


def test_work_begins_before_all_is_known(tars, tmp_path, early, waited):
    out, done = tmp_path / "out", []

    def wait_for_work(number: int) -> None:
        until = time.monotonic() + 90
        while number == TARS - 1 and not done and time.monotonic() < until:
            time.sleep(0.1)
            done.extend(committed(resolve(out)))

    early(wait_for_work)
    summary = purify([tars], str(out), sheet=0)
    assert done, "no shard was done while tars were looked into"
    assert (summary.rows, [*summary.damaged]) == ((TARS - 1) * IMAGES, [DAMAGED])
    assert outputs(out) == waited


def test_a_job_that_ended_before_all_was_known_goes_on(tars, tmp_path, early, waited):
    out = tmp_path / "out"
    early(breaks_at=20)
    with pytest.raises(SourceError, match="does not answer"):
        purify([tars], str(out), sheet=0)
    # What was known is done.
    found = status(str(out))
    assert (found.committed, found.shards, found.complete) == (15, 15, False)
    assert "looked into so far" in CliRunner().invoke(app, ["status", str(out)]).output
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    early()
    purify([tars], str(out), sheet=0)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert outputs(out) == waited


def test_shards_whose_names_change_with_a_tar_of_tars_are_not_begun_twice(tmp_path, early):
    folder, out = tmp_path / "in", str(tmp_path / "out")
    folder.mkdir()
    for number in range(16):
        write_tar(folder / f"x{number:02d}.tar", IMAGES, number)
    with tarfile.open(folder / "zz.tar", "w") as outer:
        for name in ("x00.tar", "y.tar"):
            write_tar(tmp_path / name, IMAGES, 0)
            outer.add(tmp_path / name, name)
    early()
    looking = Looking(each=in_threads)
    parts = planning.planned_in_parts(out, [str(folder)], False, looking, planning.Early())
    assert next(parts).seen_to == "x15.tar"
    with pytest.raises(SourceError, match=r"other names.*by --strict"):
        next(parts)
    # And where tars of tars come first, nothing is begun.
    (folder / "zz.tar").rename(folder / "a.tar")
    parts = planning.planned_in_parts(out, [str(folder)], False, looking, planning.Early())
    assert [(source.seen_to, source.rows) for source in parts] == [(None, 18 * IMAGES)]


def test_a_look_that_nobody_waits_for_ends(tars, tmp_path, early, monkeypatch):
    looked = []
    early(lambda number: (looked.append(number), time.sleep(0.02)))
    monkeypatch.setattr(planning, "PAUSE_S", 60.0)
    soon = planning.Early()
    looking = Looking(each=lambda function, items: planning._each(None, function, items), damaged=lambda error: None)
    sources = planning.planned_in_parts(str(tmp_path / "out"), [tars], False, looking, soon)
    growth = Growth(next(sources), sources, soon, lambda source: None)
    growth.close()
    seen = len(looked)
    time.sleep(0.5)
    assert len(looked) == seen <= 32


def test_a_job_whose_input_changed_before_it_was_known_is_refused(tars, tmp_path, early):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in sorted(os.listdir(tars)):
        os.link(f"{tars}/{name}", folder / name)
    out = str(tmp_path / "out")
    early()

    def claimed(source):
        return open_sink(out, source, settings={})

    looking = Looking(each=in_threads, damaged=lambda error: None)
    first = next(planning.planned_in_parts(out, [str(folder)], False, looking, planning.Early()))
    assert len(missing(claimed(first))) == 15
    # What was found by the first look is not to be found in less.
    again = planning.planned_in_parts(out, [str(folder)], False, looking, planning.Early())
    assert [source.seen_to for source in again] == ["t15.tar", "t31.tar", None]
    write_tar(folder / "t99.tar", IMAGES, 0)
    with pytest.raises(SinkError, match="files have come or gone"):
        claimed(planning.planned_for(out, [str(folder)], looking=looking))
    (folder / "t99.tar").unlink()
    (folder / "t03.tar").unlink()
    write_tar(folder / "t03.tar", IMAGES + 1, 0)
    with pytest.raises(SinkError, match=r"other source\.digest"):
        claimed(planning.planned_for(out, [str(folder)], looking=looking))
