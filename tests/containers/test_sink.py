import json
import os
import resource
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_images import encode, pixels, with_orientation
from provenance import facts

from raypurify.containers import parquet
from raypurify.containers.sink import (
    check_claimable,
    finish,
    missing,
    open_sink,
    recorded_job,
    reopen_failed,
    status,
    write_shard,
)
from raypurify.containers.source import open_source, read_shard
from raypurify.errors import ImageError, SinkError
from raypurify.images import decode_image, encode_image

SETTINGS = {"bundle": "abc", "csc": {"lmbda": 0.2}}


def result(row, bundle="abc"):
    """What a purifier that leaves every pixel alone would hand to the sink."""
    try:
        if row.error:
            raise row.error
        image = decode_image(row.data)
    except ImageError as error:
        return row, error, None
    height, width = image.pixels.shape[:2]
    said = facts(flagged=row.row % 3 == 0, mode=image.mode, width=width, height=height, bundle=bundle)
    return row, encode_image(image.pixels, image), said


def work(sink, source, shards=None):
    done = []
    for shard in source.shards if shards is None else shards:
        if shard.name in missing(sink):
            done.append(write_shard(sink, shard, [result(row) for row in read_shard(shard)]))
    return done


def files(folder):
    return {
        os.path.relpath(os.path.join(at, name), folder): open(os.path.join(at, name), "rb").read()
        for at, _, names in os.walk(folder)
        for name in names
    }


@pytest.fixture
def pictures(tmp_path):
    root = tmp_path / "in"
    (root / "cat").mkdir(parents=True)
    (root / "dog").mkdir()
    for number, name in enumerate(["cat/a.jpg", "cat/b.png", "dog/a.PNG", "dog/c.bmp", "dog/d.png"]):
        data = encode(pixels(seed=number), {"jpg": "JPEG", "bmp": "BMP"}.get(name[-3:], "PNG"))
        (root / name).write_bytes(data)
    (root / "cat/cut.jpg").write_bytes(with_orientation(6)[:300])
    (root / "dog/empty.png").write_bytes(b"")
    return root


@pytest.fixture
def table(tmp_path):
    images = [encode(pixels(seed=i)) for i in range(5)] + [b"no image"]
    data = pa.table(
        {
            "id": [f"r{i}" for i in range(6)],
            "label": pa.array([0, 1, 0, 1, 0, 1], pa.int8()),
            "image": pa.array(images, pa.large_binary()),
            "boxes": [[1.5], [], None, [2.0, 3.0], [4.0], [5.0]],
            "place": [{"lat": i, "name": None} for i in range(6)],
        },
        metadata={"origin": "a test"},
    )
    pq.write_table(data, tmp_path / "t.parquet", row_group_size=2)
    return tmp_path / "t.parquet"


def test_a_folder_becomes_a_folder_with_provenance_and_errors(tmp_path, pictures):
    source = open_source(pictures, shard_rows=2)
    sink = open_sink(tmp_path / "out", source, settings=SETTINGS)
    stats = work(sink, source)
    summary = finish(sink)
    out = tmp_path / "out"
    names = [name for name in sorted(files(out)) if not name.startswith("_raypurify")]
    assert names == ["cat/a.png", "cat/b.png", "dog/a.png", "dog/c.png", "dog/d.png"]
    assert (out / "dog/c.png").read_bytes()[:4] == b"\x89PNG"
    provenance = pq.read_table(out / "_raypurify/provenance.parquet")
    assert provenance["id"].to_pylist() == ["cat/a.jpg", "cat/b.png", "dog/a.PNG", "dog/c.bmp", "dog/d.png"]
    assert provenance["output"].to_pylist() == names
    assert provenance.slice(0, 1).to_pylist()[0] | {"output": 0, "id": 0} == {
        **{"cluster": 3, "class": "cat", "distance": 1.5, "flagged": True, "relative_change": 0.25, "iterations": 7},
        **{"mode": "RGB", "width": 20, "height": 24, "bundle": "abc", "output": 0, "id": 0},
        **{"region": None, "region_share": None},
    }
    errors = pq.read_table(out / "_raypurify/errors.parquet").to_pylist()
    assert [(e["id"], e["reason"], e["shard"]) for e in errors] == [
        ("cat/cut.jpg", "truncated", "part-00001"),
        ("dog/empty.png", "empty", "part-00003"),
    ]
    assert (summary.rows, summary.written, summary.failed, summary.flagged, summary.shards) == (7, 5, 2, 2, 4)
    assert (summary.reasons, summary.classes) == ({"empty": 1, "truncated": 1}, {"cat": 5})
    assert summary.mean_relative_change == 0.25
    assert json.loads((out / "_raypurify/summary.json").read_text())["written"] == 5
    assert sum(s.written for s in stats) == 5
    assert sum(s.bytes for s in stats) == sum((out / name).stat().st_size for name in names)


def test_outputs_that_would_meet_keep_their_suffix(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    for name in ("a.png", "a.jpg", "a.jpg.png", "b.jpg", "b.bmp", "c.jpg"):
        (root / name).write_bytes(encode(pixels()))
    source = open_source(root)
    sink = open_sink(tmp_path / "out", source, settings={})
    work(sink, source)
    finish(sink)
    merged = pq.read_table(tmp_path / "out/_raypurify/provenance.parquet")
    assert dict(zip(merged["id"].to_pylist(), merged["output"].to_pylist())) == {
        "a.png": "a.png",
        "a.jpg": "a.jpg.png.png",
        "a.jpg.png": "a.jpg.png",
        "b.jpg": "b.jpg.png",
        "b.bmp": "b.bmp.png",
        "c.jpg": "c.png",
    }
    assert len([name for name in files(tmp_path / "out") if "_raypurify" not in name]) == 6


def test_parquet_becomes_parquet_with_every_other_column_untouched(tmp_path, table):
    source = open_source(table, shard_rows=2)
    sink = open_sink(tmp_path / "out", source, settings=SETTINGS)
    work(sink, source)
    assert finish(sink).reasons == {"not-an-image": 1}
    before = pq.read_table(table)
    parts = [pq.read_table(tmp_path / "out" / f"t-0000{k}.parquet") for k in range(3)]
    assert [len(part) for part in parts] == [2, 2, 2]
    after = pa.concat_tables(parts)
    assert after.schema.equals(before.schema, check_metadata=True)
    assert after.drop_columns(["image"]).equals(before.drop_columns(["image"]))
    *images, failed = after["image"].to_pylist()
    assert failed is None
    for number, data in enumerate(images):
        assert (decode_image(data).pixels == pixels(seed=number)).all()


def test_partitions_stay_where_they_are_and_overwriting_finds_them(tmp_path):
    count = 12
    images = pa.array([encode(pixels(seed=k)) for k in range(count)])
    ids, splits = [f"{k:02d}" for k in range(count)], ["train", "val", "odd ä"] * 4
    table = pa.table({"id": ids, "image": images, "split": splits})
    pq.write_to_dataset(table, tmp_path / "in", partition_cols=["split"], basename_template="part-{i}.parquet")
    source = open_source(tmp_path / "in", shard_rows=2)
    sink = open_sink(tmp_path / "out", source, settings=SETTINGS)
    work(sink, source)
    finish(sink)
    before, after = (pq.read_table(tmp_path / side).sort_by("id") for side in ("in", "out"))
    assert set(after["split"].to_pylist()) == {"train", "val", "odd ä"}
    assert after.drop_columns(["image"]).equals(before.drop_columns(["image"]))
    files = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").glob("split=*/*.parquet")}
    assert len(files) == 6
    recorded = pq.read_table(tmp_path / "out" / "_raypurify" / "provenance.parquet")["output"].to_pylist()
    assert set(recorded) == files

    (tmp_path / "out" / "split=train" / "mine.parquet").write_bytes(b"of another")
    open_sink(tmp_path / "out", source, settings=SETTINGS, overwrite=True)
    assert [file.name for file in (tmp_path / "out").rglob("*.parquet")] == ["mine.parquet"]


def test_hugging_face_structs_keep_their_other_fields(tmp_path):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": encode(pixels(seed=i)), "path": f"{i}.jpg"} for i in range(3)] + [None], kind)
    pq.write_table(pa.table({"image": images}), tmp_path / "t.parquet")
    source = open_source(tmp_path / "t.parquet")
    sink = open_sink(tmp_path / "out", source, settings={})
    work(sink, source)
    after = pq.read_table(tmp_path / "out/t-00000.parquet")
    assert after.schema.field("image").type == kind
    *rows, failed = after["image"].to_pylist()
    assert failed is None
    assert [row["path"] for row in rows] == ["0.jpg", "1.jpg", "2.jpg"]
    assert all(row["bytes"][:4] == b"\x89PNG" for row in rows)


def test_a_table_of_nothing_but_bad_images_still_commits(tmp_path):
    pq.write_table(pa.table({"image": [b"x", b"y"]}), tmp_path / "t.parquet")
    source = open_source(tmp_path / "t.parquet")
    sink = open_sink(tmp_path / "out", source, settings={})
    work(sink, source)
    summary = finish(sink)
    assert (summary.written, summary.failed, summary.mean_relative_change) == (0, 2, None)
    assert pq.read_table(tmp_path / "out/t-00000.parquet").schema == pa.schema([("image", pa.binary())])
    # No row of the provenance names that file.
    open_sink(tmp_path / "out", source, settings={}, overwrite=True)
    assert not (tmp_path / "out/t-00000.parquet").exists()


def test_an_image_that_turned_bad_leaves_nothing_of_an_earlier_attempt(tmp_path, pictures):
    source = open_source(pictures)
    sink = open_sink(tmp_path / "out", source, settings=SETTINGS)
    work(sink, source)
    (tmp_path / "out/_raypurify/provenance/part-00000.parquet").unlink()
    (pictures / "cat/b.png").unlink()
    work(sink, source)
    assert not (tmp_path / "out/cat/b.png").exists()
    assert finish(sink).reasons == {"empty": 1, "truncated": 1, "unreadable": 1}


def test_failed_rows_can_be_tried_again(tmp_path, pictures):
    source = open_source(pictures, shard_rows=2)
    sink = open_sink(tmp_path / "out", source, settings=SETTINGS)
    work(sink, source)
    finish(sink)
    now = status(tmp_path / "out")
    assert (now.complete, now.shards, now.committed, now.rows, now.written, now.failed) == (True, 4, 4, 7, 5, 2)
    assert reopen_failed(tmp_path / "out") == ["part-00001", "part-00003"]
    assert (status(tmp_path / "out").committed, status(tmp_path / "out").complete) == (2, False)
    assert [stats.shard for stats in work(sink, source)] == ["part-00001", "part-00003"]
    with pytest.raises(SinkError, match=r"holds no _raypurify/job\.json"):
        status(pictures)


def test_another_job_is_refused_with_the_settings_that_differ(tmp_path, pictures):
    source = open_source(pictures)
    open_sink(tmp_path / "out", source, settings=SETTINGS)
    with pytest.raises(SinkError, match=r'bundle \("abc" → "def"\)'):
        open_sink(tmp_path / "out", source, settings={**SETTINGS, "bundle": "def"})
    with pytest.raises(SinkError, match=r"settings\.csc\.lmbda \(0\.2 → 0\.1\)"):
        open_sink(tmp_path / "out", source, settings={**SETTINGS, "csc": {"lmbda": 0.1}})
    with pytest.raises(SinkError, match=r'format \("png" → "webp"\)'):
        open_sink(tmp_path / "out", source, settings=SETTINGS, format="webp")
    assert recorded_job(tmp_path / "out")["settings"]["compression"] == "small"
    open_sink(tmp_path / "webp", source, settings=SETTINGS, format="webp")
    with pytest.raises(SinkError, match=r'settings\.compression \("small" → "fast"\)'):
        open_sink(tmp_path / "webp", source, settings=SETTINGS, format="webp", compression="fast")
    with pytest.raises(SinkError, match="jpeg has one compression"):
        open_sink(tmp_path / "jpeg", source, settings=SETTINGS, format="jpeg", compression="fast")
    (pictures / "more.png").write_bytes(encode(pixels()))
    with pytest.raises(SinkError, match=r"source\.digest .* source\.rows \(7 → 8\)"):
        open_sink(tmp_path / "out", open_source(pictures), settings=SETTINGS)


def test_outputs_that_cannot_be_used_are_named(tmp_path, pictures):
    source = open_source(pictures)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/letter.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "damaged/_raypurify").mkdir(parents=True)
    (tmp_path / "damaged/_raypurify/job.json").write_text("{")
    os.symlink(pictures, tmp_path / "alias")
    for out, message in [
        (pictures, "overlap"),
        (pictures / "deep/out", "overlap"),
        (tmp_path / "alias/out", "overlap"),
        (tmp_path, "overlap"),
        (tmp_path / "other", "other: is not empty and no output of raypurify"),
        (tmp_path / "file", "file: is a file"),
        (tmp_path / "file/out", "cannot be written"),
        (tmp_path / "damaged", r"job\.json: is damaged"),
        ("nope://bucket/out", "nope://bucket/out: cannot be reached"),
    ]:
        with pytest.raises(SinkError, match=message):
            open_sink(out, source, settings={})
    with pytest.raises(SinkError, match="overlap"):
        check_claimable(pictures, False, ["nope://bucket", pictures / "cat/b.png"])
    with pytest.raises(SinkError, match="unknown image format 'gif'"):
        open_sink(tmp_path / "out", source, settings={}, format="gif")
    open_sink(tmp_path / "other", source, settings={}, overwrite=True)
    assert (tmp_path / "other/letter.txt").read_text() == "mine"
    open_sink(tmp_path / "damaged", source, settings={}, overwrite=True)


def test_a_claim_killed_before_its_record_can_be_taken_up(tmp_path, pictures):
    (tmp_path / "out/_raypurify/tmp").mkdir(parents=True)
    open_sink(tmp_path / "out", open_source(pictures), settings={})
    assert (tmp_path / "out/_raypurify/job.json").exists()


def test_secrets_in_a_uri_are_not_recorded(tmp_path, pictures):
    open_sink(tmp_path / "out", open_source(f"{pictures.as_uri()}?token=hush"), settings={})
    assert "hush" not in (tmp_path / "out/_raypurify/job.json").read_text()


def test_results_must_be_the_rows_of_the_shard_each_once(tmp_path, pictures):
    source = open_source(pictures, shard_rows=4)
    sink = open_sink(tmp_path / "out", source, settings={})
    results = [result(row) for row in read_shard(source.shards[0])]
    for wrong in (results[:-1], results + results[:1], [result(row) for row in read_shard(source.shards[1])]):
        with pytest.raises(SinkError, match="each once"):
            write_shard(sink, source.shards[0], wrong)
    assert source.shards[0].name in missing(sink)
    write_shard(sink, source.shards[0], results[::-1])
    with pytest.raises(SinkError, match="1 of 2 shards are not done yet, part-00001 first"):
        finish(sink)


def test_a_name_that_is_not_utf8_keeps_its_bytes(tmp_path):
    root = os.fsencode(tmp_path / "in")
    os.mkdir(root)
    with open(os.path.join(root, b"caf\xe9.jpg"), "wb") as file:
        file.write(encode(pixels()))
    with open(os.path.join(root, b"bad\xe9.jpg"), "wb") as file:
        file.write(b"")
    source = open_source(tmp_path / "in")
    sink = open_sink(tmp_path / "out", source, settings={})
    work(sink, source)
    finish(sink)
    assert os.path.exists(os.path.join(os.fsencode(tmp_path / "out"), b"caf\xe9.png"))
    assert pq.read_table(tmp_path / "out/_raypurify/errors.parquet")["id"].to_pylist() == ["bad%E9.jpg"]


def test_a_write_that_fails_leaves_no_torn_image_and_no_commit(tmp_path, pictures):
    source = open_source(pictures)
    sink = open_sink(tmp_path / "out", source, settings={})
    results = [result(row) for row in read_shard(source.shards[0])]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    try:
        with pytest.raises(SinkError, match=r"cannot write shard part-00000: .* run again when mended"):
            write_shard(sink, source.shards[0], results)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [name for name in files(tmp_path / "out") if name.endswith(".png")] == []
    assert source.shards[0].name in missing(sink)
    write_shard(sink, source.shards[0], results)
    finish(sink)
    assert not (tmp_path / "out/_raypurify/tmp").exists()


def test_overwriting_removes_what_a_job_wrote_and_nothing_else(tmp_path):
    """Names that are no UTF-8, shards that were not committed, and a user's files that are named like shards."""
    root = tmp_path / "in"
    root.mkdir()
    for name in (b"a.jpg", b"50%.jpg", b"caf\xe9.jpg"):
        (root / os.fsdecode(name)).write_bytes(encode(pixels(), "JPEG"))
    source = open_source(root, shard_rows=1)
    sink = open_sink(tmp_path / "out", source, settings={}, format="png")
    work(sink, source)
    (tmp_path / "out/_raypurify/provenance/part-00001.parquet").unlink()
    (tmp_path / "out/mine.png").write_bytes(b"mine")
    assert len(files(tmp_path / "out")) > 4
    open_sink(tmp_path / "out", source, settings={"other": 1}, format="webp", overwrite=True)
    assert {*files(tmp_path / "out")} - {"_raypurify/job.json"} == {"mine.png"}

    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/old-00007.parquet").write_bytes(b"mine")
    os.utime(tmp_path / "tables/old-00007.parquet", (1, 1))
    pq.write_table(pa.table({"image": [encode(pixels())] * 2}), tmp_path / "t.parquet")
    source = open_source(tmp_path / "t.parquet", shard_rows=1)
    sink = open_sink(tmp_path / "tables", source, settings={}, overwrite=True)
    work(sink, source)
    (tmp_path / "tables/_raypurify/provenance/t-00000.parquet").unlink()
    open_sink(tmp_path / "tables", source, settings={}, overwrite=True)
    assert {*files(tmp_path / "tables")} - {"_raypurify/job.json"} == {"old-00007.parquet"}


def test_records_that_are_not_whole_commit_no_shard(tmp_path, pictures):
    """Of a job that is not recorded, as a kill in an older version left them, of one of whose shards not all is
    recorded, and of one that is being removed."""
    source, out = open_source(pictures, shard_rows=2), tmp_path / "out"

    def done() -> dict[str, bytes]:
        sink = open_sink(out, source, settings={})
        work(sink, source)
        finish(sink)
        return files(out)

    whole, state = done(), out / "_raypurify"
    for name in ("cat", "dog", "_raypurify/errors"):
        shutil.rmtree(out / name)
    (state / "job.json").unlink()
    with pytest.raises(SinkError, match=r"out: what an earlier job wrote .* without --shard"):
        open_sink(out, source, settings={}, alone=False)
    assert done() == whole
    (state / "errors/part-00001.parquet").unlink()
    assert (status(out).committed, status(out).complete) == (3, False)
    assert done() == whole
    (state / "overwriting").touch()
    for ask in (status, recorded_job, reopen_failed):
        with pytest.raises(SinkError, match="out: what an earlier job wrote here is being removed by --overwrite"):
            ask(out)
    check_claimable(out, overwrite=False)
    assert done() == whole


def test_a_heavy_table_is_written_in_groups_of_rows(tmp_path, monkeypatch):
    images = [encode(pixels(seed=k)) for k in range(8)]
    pq.write_table(pa.table({"image": [*images, b"bad"], "n": range(9)}), tmp_path / "t.parquet")
    source = open_source(tmp_path / "t.parquet")
    whole = []
    for most in (1 << 30, 5 * len(images[0])):
        monkeypatch.setattr(parquet, "_MOST_GROUP_BYTES", most)
        monkeypatch.setattr(parquet, "_GROUP_BYTES", int(2.5 * len(images[0])))
        sink = open_sink(tmp_path / f"{most}", source, settings={})
        work(sink, source)
        whole.append(tmp_path / f"{most}/t-00000.parquet")
    assert [pq.ParquetFile(path).num_row_groups for path in whole] == [1, 4]
    assert pq.read_table(whole[0]).equals(pq.read_table(whole[1]))
    assert pq.read_table(whole[1])["n"].to_pylist() == [*range(9)]


def test_overwriting_removes_nothing_outside_of_the_output(pictures, tmp_path):
    """Whatever the records of an output, which may come from others, call its files."""
    source, out = open_source(pictures), tmp_path / "out"
    others = [tmp_path / "keep.png", tmp_path / "keep\udcff.png"]
    for other in others:
        other.write_bytes(b"x")
    ids = ["../keep.png", str(tmp_path / "keep.png"), "cat/../../keep.png", "%2E./keep%FF.png"]
    sink = open_sink(out, source, settings={})
    work(sink, source)
    finish(sink)
    part = out / "_raypurify/provenance" / f"{source.shards[0].name}.parquet"
    table = pq.read_table(part).slice(0, len(ids))
    assert len(table) == len(ids)
    made = [out / name for name in table["output"].to_pylist()]
    at = table.schema.get_field_index("output")
    pq.write_table(pa.concat_tables([pq.read_table(part), table.set_column(at, "output", pa.array(ids))]), part)
    open_sink(out, source, settings={}, overwrite=True)
    assert not any(path.exists() for path in made)
    assert all(other.exists() for other in others)
