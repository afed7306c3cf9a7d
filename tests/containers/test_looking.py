"""Files are looked into several at once and none twice, and a damaged one costs itself alone."""

import json
import os
from dataclasses import replace

import pytest
from test_container_contract import CASES, IMAGES, SHARD, files, work

from raypurify.containers.looking import Looking
from raypurify.containers.registry import CONTAINERS
from raypurify.containers.sink import finish, missing, open_sink, status
from raypurify.containers.source import open_source
from raypurify.errors import SinkError, SourceError
from raypurify.storage import Place, overlapped

LOOKED = [name for name, case in CASES.items() if CONTAINERS[case.kind].look]


@pytest.fixture(params=LOOKED)
def kind(request):
    return CASES[request.param]


@pytest.fixture
def folder(kind, tmp_path):
    """Five files, enough to be cut into shards each."""
    folder = tmp_path / "in"
    for part in range(3):
        kind.build(tmp_path / f"part{part}", list(kind.images))
        for path in sorted((tmp_path / f"part{part}").iterdir()):
            folder.mkdir(exist_ok=True)
            path.rename(folder / f"{part}{path.name}")
    (folder / max(path.name for path in folder.iterdir())).unlink()
    return folder


def outputs(out):
    return {name: data for name, data in files(out).items() if "/provenance" not in name and "summary" not in name}


class Watched:
    """A way to look into files that remembers which."""

    def __init__(self):
        self.seen, self.told = [], []

    def __call__(self, function, items):
        self.seen += [item.path for item in items]
        return overlapped(function, items)

    def open(self, folder, out=None, damaged=True, **options):
        self.seen, self.told = [], []
        told = (lambda error: self.told.append(str(error))) if damaged else None
        looking = Looking(self, Place(str(out)) if out else None, damaged=told, **options)
        return open_source(folder, shard_rows=SHARD, labels=False, looking=looking)


def test_a_restart_looks_only_into_what_is_new(folder, tmp_path):
    out, watched = tmp_path / "out", Watched()
    names = sorted(path.name for path in folder.iterdir())
    fresh = watched.open(folder)
    assert watched.open(folder, out, reading=True) == fresh
    assert not out.exists()
    assert watched.open(folder, out) == fresh
    assert watched.seen == names
    kept = files(out)
    assert watched.open(folder, out) == fresh
    assert watched.seen == []
    # A file that is written anew, with other bytes or the same.
    (folder / names[1]).write_bytes((folder / names[1]).read_bytes())
    again = watched.open(folder, out)
    assert watched.seen == [names[1]]
    assert again.digest == fresh.digest
    # Others, before those that are known, and fewer.
    (folder / names[2]).rename(folder / f"{names[0][0]}-{names[2]}")
    moved = watched.open(folder, out)
    assert watched.seen == [f"{names[0][0]}-{names[2]}"]
    assert moved == watched.open(folder)
    for name, data in kept.items():
        for broken in (data[:-1], b"", data[:40] + b"!" + data[41:]):
            (out / name).write_bytes(broken)
            assert watched.open(folder, out) == moved
            assert len(watched.seen) == len(names)


@pytest.fixture
def victim(kind, folder):
    """A file in the middle, damaged, and what mends it."""
    path = sorted(folder.iterdir())[2]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path, lambda: path.write_bytes(whole)


def test_a_damaged_file_costs_itself_alone_until_it_is_mended(kind, folder, victim, tmp_path):
    (path, mend), out, watched = victim, tmp_path / "out", Watched()
    with pytest.raises(SourceError, match=path.name):
        watched.open(folder, damaged=False)
    source = watched.open(folder, out)
    assert [path.name in told for told in watched.told] == [True]
    assert source.damaged == {path.name: watched.told[0]}
    sink = open_sink(out, source, settings={})
    done = work(sink, source)
    summary = finish(sink)
    assert (summary.rows, summary.damaged) == (source.rows, source.damaged)
    assert status(out).job["source"]["damaged"] == source.damaged
    assert work(open_sink(out, watched.open(folder, out), settings={}), source) == []

    mend()
    whole = watched.open(folder, out)
    assert watched.seen == [path.name]
    with pytest.raises(SinkError, match=r"another job, with other settings\.max_pixels"):
        open_sink(out, whole, settings={"max_pixels": 1})
    sink = open_sink(out, whole, settings={})
    left = missing(sink)
    assert set(left) == {shard.name for shard in whole.shards} - set(done)
    assert work(sink, whole) == left
    assert finish(sink).damaged == {}
    straight = open_sink(tmp_path / "straight", watched.open(folder, tmp_path / "straight"), settings={})
    work(straight, whole)
    finish(straight)
    # The results of this test depend on row numbers.
    assert outputs(out) == outputs(tmp_path / "straight")


def test_a_file_that_is_damaged_later_and_one_that_is_another_are_refused(folder, victim, tmp_path):
    (path, mend), out, watched = victim, tmp_path / "out", Watched()
    half = path.read_bytes()
    mend()
    open_sink(out, watched.open(folder), settings={})
    path.write_bytes(half)
    with pytest.raises(SinkError, match=rf"did not leave out {path.name}, which cannot be used now: .*; mend it"):
        open_sink(out, watched.open(folder), settings={})
    open_sink(out, watched.open(folder), settings={}, overwrite=True)
    other = sorted(folder.iterdir())[0]
    other.write_bytes(sorted(folder.iterdir())[-2].read_bytes())
    with pytest.raises(SinkError, match=r"another job, with other source\.digest"):
        open_sink(out, watched.open(folder), settings={})
    mend()
    with pytest.raises(SinkError, match=r"another job, with other source\.digest"):
        open_sink(out, watched.open(folder), settings={})


def test_where_no_file_can_be_used_the_first_says_why(folder):
    for path in folder.iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(SourceError, match=min(path.name for path in folder.iterdir())):
        Watched().open(folder)


def test_a_table_without_images_costs_itself_alone(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    CASES["parquet"].build(tmp_path / "in", IMAGES)
    pq.write_table(pa.table({"caption": ["a"]}), tmp_path / "in/s.parquet")
    watched = Watched()
    source = watched.open(tmp_path / "in")
    assert (source.rows, [*source.damaged]) == (len(IMAGES), ["s.parquet"])
    assert "has no column" in watched.told[0]


def test_a_mended_job_goes_on_again_and_again(folder, tmp_path):
    """How the shards of the others are cut stays as it was, though the job has more rows now."""
    out, watched = tmp_path / "out", Watched()
    first = sorted(folder.iterdir())[0]
    whole = first.read_bytes()
    first.write_bytes(whole[: len(whole) // 3])
    begun = watched.open(folder)
    open_sink(out, begun, settings={})
    first.write_bytes(whole)
    for _ in range(2):
        source = watched.open(folder)
        assert missing(open_sink(out, source, settings={})) == [shard.name for shard in source.shards]
        job = json.loads((out / "_raypurify/job.json").read_text())["source"]
        assert job["shard_rows"] == begun.shard_rows == SHARD
        assert job["rows"] == source.rows > begun.rows


def test_a_damaged_file_that_has_gone_is_not_mended(folder, tmp_path):
    out, watched = tmp_path / "out", Watched()
    first = sorted(folder.iterdir())[0]
    first.write_bytes(first.read_bytes()[:600])
    open_sink(out, watched.open(folder), settings={})
    first.unlink()
    with pytest.raises(SinkError, match=f"{first.name}, damaged, which is not there any more; put it back"):
        open_sink(out, watched.open(folder), settings={})


def test_a_link_that_leads_nowhere_costs_itself_alone(folder):
    watched = Watched()
    (folder / f"9{min(folder.iterdir()).name}").symlink_to("/no/such/file")
    assert watched.open(folder).rows
    assert len(watched.told) == 1
    assert "No such file" in watched.told[0]


def test_what_nobody_foresaw_in_a_look_costs_its_file_alone(folder, kind, monkeypatch):
    container, watched = CONTAINERS[kind.kind], Watched()
    first = min(folder.iterdir())

    def look(place, *asked):
        return 1 / 0 if place.name == first.name else container.look(place, *asked)

    monkeypatch.setitem(CONTAINERS, kind.kind, replace(container, look=look))
    assert watched.open(folder).rows
    assert watched.told == [f"{first}: cannot be looked into (ZeroDivisionError: division by zero); leave it out"]


def test_nothing_is_kept_in_an_input(folder):
    watched = Watched()
    before = files(folder)
    assert watched.open(folder, folder / "out").rows
    assert files(folder) == before


def test_a_file_without_a_time_is_looked_into_again(folder, tmp_path):
    out, watched = tmp_path / "out", Watched()
    names = sorted(path.name for path in folder.iterdir())
    for path in folder.iterdir():
        os.utime(path, ns=(0, 0))
    for _ in range(2):
        watched.open(folder, out)
        assert watched.seen == names


def test_a_new_file_in_front_pushes_none_out(folder, tmp_path, monkeypatch):
    out, watched = tmp_path / "out", Watched()
    monkeypatch.setattr("raypurify.containers.looking.KEPT", 2)
    last = max(folder.iterdir())
    watched.open(folder, out)
    last.rename(folder / f"-{last.name}")
    watched.open(folder, out)
    watched.open(folder, out)
    assert watched.seen == []
