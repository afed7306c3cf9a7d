"""Outputs that cannot have the name they should: another that is documented, or an error row of that image alone."""

import io
import os
import random
import shutil
import tarfile
from collections import Counter
from itertools import pairwise

import pyarrow.parquet as pq
import pytest
from bad_images import encode, pixels
from provenance import facts

from raypurify.containers.folder import folder_cut, renamed
from raypurify.containers.ledger import STATE
from raypurify.containers.packed import unique_keys
from raypurify.containers.rows import Shard
from raypurify.containers.sink import finish, missing, open_sink, write_shard
from raypurify.containers.source import open_source, read_shard
from raypurify.errors import SinkError
from raypurify.storage import Place, resolve

LONG = "x" * 251


def work(sink, source):
    """Every image as it is, as its own output."""
    done = [
        write_shard(sink, shard, [(row, row.data, facts()) for row in read_shard(shard)])
        for shard in source.shards
        if shard.name in missing(sink)
    ]
    assert sum(stats.bytes for stats in done) == len(encode(pixels())) * sum(stats.written for stats in done)
    return sum((stats.reasons for stats in done), start=Counter())


def errors(out: Place) -> dict[str, str]:
    rows = pq.read_table(io.BytesIO((out / STATE / "errors.parquet").read())).to_pylist()
    assert {row["reason"] for row in rows} <= {"bad-name"}
    return {row["id"]: row["message"] for row in rows}


def written(out: Place) -> set[str]:
    return {name for name, _ in out.walk() if not name.startswith(STATE)}


def folder(root, *names: str):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encode(pixels()))
    return root


def test_no_two_outputs_meet_and_none_is_a_folder_of_another():
    """Of any tree, also of stores, where a name may be that of a folder too."""
    draw = random.Random(0)
    names = ["a", "a.png", "a.jpg", "a.jpg.png", "a.png.png", "b.png"]
    met = 0
    for _ in range(2000):
        paths = sorted({"/".join(draw.choices(names, k=draw.randint(1, 3))) for _ in range(draw.randint(1, 8))})
        paths = [path for path in paths if path.endswith((".png", ".jpg"))]
        place = Place("/in")
        shards = [Shard(0, "s", "folder", place, 0, len(paths), folder_cut(paths, ()))]
        other = renamed(shards, ".png")
        outputs = {path: other.get(path, os.path.splitext(path)[0] + ".png") for path in paths}
        assert len(set(outputs.values())) == len(paths)
        assert not any(after.startswith(name + "/") for name in outputs.values() for after in outputs.values())
        folders = {path[:k] for path in paths for k, sign in enumerate(path) if sign == "/"}
        plain = Counter(os.path.splitext(path)[0] + ".png" for path in paths)
        assert all(plain[name := os.path.splitext(path)[0] + ".png"] > 1 or name in folders for path in other)
        met += len(other)
    assert met > 500


def test_a_folder_of_the_name_of_an_output_makes_another_name(tmp_path):
    source = open_source(folder(tmp_path / "in", "a.jpg", "a.png/c.jpg", "b.jpg"))
    out = open_sink(tmp_path / "out", source, settings={})
    assert not work(out, source)
    assert written(out.place) == {"a.jpg.png", "a.png/c.png", "b.png"}
    assert finish(out).failed == 0


def test_an_output_that_cannot_be_costs_itself_alone_and_the_same_each_time(tmp_path):
    names = ("cat/a.jpg", "cat/b.jpg", "dog/c.jpg", "dog/d.jpg", f"{LONG}.jpg")
    source = open_source(folder(tmp_path / "in", *names))
    for out in (tmp_path / "out", tmp_path / "again"):
        sink = open_sink(out, source, settings={}, format="webp")
        # What others have put there.
        (out / "cat/a.webp").mkdir(parents=True)
        (out / "dog").write_bytes(b"no folder")
        assert work(sink, source) == {"bad-name": 4}
        summary = finish(sink)
        assert (summary.written, summary.reasons) == (1, {"bad-name": 4})
        assert set(errors(sink.place)) == set(names) - {"cat/b.jpg"}
        assert all("rename what it is made from" in message for message in errors(sink.place).values())
        assert written(sink.place) == {"cat/b.webp", "dog"}
    one, other = (out / STATE / "provenance.parquet" for out in (tmp_path / "out", tmp_path / "again"))
    assert one.read_bytes() == other.read_bytes()
    # What failed can be tried again when it is mended.
    shutil.rmtree(tmp_path / "out/cat/a.webp")
    (tmp_path / "out" / STATE / "provenance/part-00000.parquet").unlink()
    sink = open_sink(tmp_path / "out", source, settings={}, format="webp")
    assert work(sink, source) == {"bad-name": 3}
    assert finish(sink).written == 2


def test_an_output_that_is_out_of_order_stays_the_shard_s_failure(tmp_path):
    source = open_source(folder(tmp_path / "in", "a.jpg", "b.jpg"))
    sink = open_sink(tmp_path / "out", source, settings={})
    (tmp_path / "out" / STATE / "tmp").rmdir()
    (tmp_path / "out" / STATE / "tmp").write_bytes(b"no folder")
    with pytest.raises(SinkError, match="cannot write shard part-00000"):
        work(sink, source)
    assert missing(sink)


def test_a_store_has_names_of_its_own(tmp_path, store):
    """One that is not UTF-8, and one that is too long, beside one that is good; bad images among them."""
    deep = "/".join(["y" * 200] * 6)
    folder(tmp_path / "in", "a.jpg", f"{deep}/b.jpg")
    for name in (b"caf\xe9.jpg", b"bad\xe9.jpg"):
        with open(os.path.join(os.fsencode(tmp_path / "in"), name), "wb") as file:
            file.write(encode(pixels()) if name[0] == ord("c") else b"")
    source = open_source(tmp_path / "in")
    for uri in (store.uri("names"), "memory://names"):
        sink = open_sink(uri, source, settings={})
        for shard in source.shards:
            write_shard(sink, shard, [(row, row.error or row.data, facts()) for row in read_shard(shard)])
        reasons = finish(sink).reasons
        assert reasons == {"bad-name": 2 if uri.startswith("s3") else 1, "empty": 1}
        assert "a.png" in written(resolve(uri))


def test_long_names_of_tars_are_cut(tmp_path):
    tars = [tmp_path / f"{LONG[:-1]}.tar", tmp_path / f"{LONG[:-2]}y.tar"]
    for path in tars:
        with tarfile.open(path, "w") as tar:
            member = tarfile.TarInfo("a.png")
            member.size = len(encode(pixels()))
            tar.addfile(member, io.BytesIO(encode(pixels())))
    source = open_source([*tars])
    sink = open_sink(tmp_path / "out", source, settings={})
    assert not work(sink, source)
    assert finish(sink).written == 2
    assert len(written(sink.place)) == 2


def test_keys_of_files_that_worked_are_what_they_were():
    assert unique_keys([f"{'x' * 241}.tar"]) == ["x" * 241]
    keys = unique_keys([f"{LONG}{k}.tar" for k in range(9)])
    assert len(set(keys)) == 9
    assert all(one < other for one, other in pairwise(keys))
    assert {len(key) for key in keys} == {241}
