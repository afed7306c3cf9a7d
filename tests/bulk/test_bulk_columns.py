"""A job that goes on takes the column and the choice of failed rows that are recorded with its output."""

import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypurify.bulk import job, planning
from raypurify.containers.sink import open_sink
from raypurify.errors import SinkError, SourceError

ARGUMENTS = {"inputs": ["in"], "bundle": "cifar10", "limit": None, "sample": None}


@pytest.fixture
def begun(tmp_path):
    path, out = str(tmp_path / "t.parquet"), str(tmp_path / "out")
    pq.write_table(pa.table({"jpg": [b"x"], "png": [b"y"], "label": [100_000], "id": [0.5]}), path)
    source = planning.planned_for(out, [path], image_column="png")
    open_sink(out, source, settings={"max_pixels": 1}, arguments=ARGUMENTS, drop_failed=True)
    return path, out


def test_a_rerun_takes_the_recorded_column(begun, tmp_path):
    path, out = begun
    assert planning.planned_for(out, [path]).image_column == "png"
    assert planning.planned_for(out, [path], image_column="jpg").image_column == "jpg"
    for other, overwrite in ((out, True), (str(tmp_path / "none"), False)):
        with pytest.raises(SourceError, match="jpg or png; say which"):
            planning.planned_for(other, [path], overwrite=overwrite)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/1.png").write_bytes(b"x")
    assert planning.planned_for(out, [str(tmp_path / "in")]).kind == "folder"


def test_a_rerun_takes_the_recorded_ids_and_a_new_image_column_is_another_job(begun, tmp_path):
    path, out = begun[0], str(tmp_path / "ids")
    pq.write_table(pa.table({"jpg": [b"x"], "png": [b"y"], "uid": ["u"]}), path)
    first = planning.planned_for(out, [path], image_column="png", id_column="uid")
    open_sink(out, first, settings={"max_pixels": 1}, arguments=ARGUMENTS)
    again = planning.planned_for(out, [path])
    assert (again.image_column, again.id_column, again.digest) == ("png", "uid", first.digest)
    assert planning.planned_for(out, [path], image_column="png") == again
    assert planning.planned_for(out, [path], image_column="png", overwrite=True).id_column is None
    other = planning.planned_for(out, [path], image_column="jpg")
    with pytest.raises(SinkError, match="image_column"):
        open_sink(out, other, settings={"max_pixels": 1})


def test_a_rerun_takes_the_recorded_members(tmp_path):
    path, out = str(tmp_path / "t.tar"), str(tmp_path / "out")
    with tarfile.open(path, "w") as tar:
        for name in ("0.jpg", "0.thumb.jpg"):
            tar.addfile(tarfile.TarInfo(name))
    open_sink(
        out, planning.planned_for(out, [path], image_member="jpg"), settings={"max_pixels": 1}, arguments=ARGUMENTS
    )
    named = (planning.planned_for(out, [path], image_member=given) for given in (None, "thumb.jpg,jpg"))
    assert [(source.image_member, source.rows) for source in named] == [("jpg", 1), ("jpg,thumb.jpg", 2)]
    assert planning.planned_for(out, [path], overwrite=True).rows == 2
    # An output of the time when this was no question.
    record = tmp_path / "out/_raypurify/job.json"
    older = json.loads(record.read_text())
    del older["settings"]["image_member"], older["settings"]["drop_failed"]
    record.write_text(json.dumps(older))
    assert planning.planned_for(out, [path]).image_member is None


def test_retry_takes_what_is_recorded_and_what_older_jobs_did(begun, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(job, "purify", lambda *args, **options: asked.append(options))
    job.retry(begun[1])
    record = tmp_path / "out/_raypurify/job.json"
    older = json.loads(record.read_text())
    del older["settings"]["image_column"], older["settings"]["drop_failed"]
    record.write_text(json.dumps(older))
    job.retry(begun[1])
    assert [(options["image_column"], options["drop_failed"]) for options in asked] == [("png", True), (None, True)]
    assert [options["image_member"] for options in asked] == [None, None]
