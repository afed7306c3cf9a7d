"""Bulk purification on a local Ray: every image out, errors named, nothing done twice."""

import json
import re
import shutil
import time
import urllib.request
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_images import broken_images, odd_images
from PIL import Image

import raypurify
from raypurify.bulk.estimate import MEASURED, estimate
from raypurify.bulk.job import purify, retry
from raypurify.bulk.planning import planned_for
from raypurify.cli.app import app
from raypurify.cli.texts import summary_text
from raypurify.containers.lease import held
from raypurify.containers.source import open_source
from raypurify.errors import BundleError, SinkError, SourceError
from raypurify.images import decode_image, to_float, to_pixels
from raypurify.storage import Place, resolve

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "cifar10"


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def purified(local_ray, tmp_path_factory):
    out = tmp_path_factory.mktemp("bulk") / "out"
    return out, purify([str(EXAMPLES)], str(out), "cifar10", sheet=3)


def test_every_example_comes_out_lossless_with_its_name_and_size(purified):
    out, summary = purified
    inputs = {p.relative_to(EXAMPLES) for p in EXAMPLES.rglob("*.png")}
    outputs = {p.relative_to(out) for p in out.rglob("*.png") if "_raypurify" not in p.parts}
    assert inputs == outputs
    assert (summary.rows, summary.written, summary.failed) == (len(inputs), len(inputs), 0)
    for path in inputs:
        with Image.open(EXAMPLES / path) as before, Image.open(out / path) as after:
            assert (after.format, after.size, after.mode) == ("PNG", before.size, before.mode)


def test_pixels_are_those_of_the_purifier(purified):
    import torch

    out, _ = purified
    purifier = raypurify.load("cifar10")
    paths = sorted(p.relative_to(EXAMPLES) for p in EXAMPLES.rglob("*.png"))[:6]
    pixels = [decode_image((EXAMPLES / path).read_bytes()).pixels for path in paths]
    expected = purifier.purify(torch.from_numpy(np.stack([to_float(p) for p in pixels]))).images.numpy()
    for path, image in zip(paths, expected):
        written = decode_image((out / path).read_bytes()).pixels.astype(int)
        # A rounding boundary may fall the other way in another batch; more than one grey level may not.
        assert np.abs(written - to_pixels(image)).max() <= 1


def test_provenance_names_every_image(purified):
    out, _ = purified
    table = pq.read_table(out / "_raypurify" / "provenance.parquet").to_pylist()
    assert [row["id"] for row in table] == sorted(str(p.relative_to(EXAMPLES)) for p in EXAMPLES.rglob("*.png"))
    purifier = raypurify.load("cifar10")
    for row in table:
        assert row["class"] == purifier.classes_of_cluster[row["cluster"]]
        assert row["bundle"] == purifier.digest
        assert row["distance"] > 0
        assert row["iterations"] > 0
        assert 0 < row["relative_change"] < 0.5
    assert pq.read_table(out / "_raypurify" / "errors.parquet").num_rows == 0


def test_picture_is_drawn(purified):
    with Image.open(purified[0] / "_raypurify" / "sheet.png") as sheet:
        assert min(sheet.size) > 200


def test_a_rerun_changes_nothing_and_a_lost_shard_comes_back_equal(purified):
    out, _ = purified
    before = files_below(out)
    shard = sorted((out / "_raypurify" / "provenance").iterdir())[0]
    lost = pq.read_table(shard, columns=["output"]).to_pylist()[0]["output"]
    shard.unlink()
    (out / lost).unlink()
    purify([str(EXAMPLES)], str(out), "cifar10", sheet=0)
    assert files_below(out) == before


def test_another_setting_on_the_same_output_is_refused_by_name(purified):
    with pytest.raises(SinkError, match="max_pixels"):
        purify([str(EXAMPLES)], str(purified[0]), "cifar10", max_pixels=5000)


def test_failed_images_are_tried_again_from_the_record_alone(local_ray, tmp_path, monkeypatch):
    images = tmp_path / "in"
    images.mkdir()
    for path in sorted(EXAMPLES.rglob("*.png"))[:20]:
        (images / path.name).write_bytes(path.read_bytes())
    victim = images / path.name
    good = victim.read_bytes()
    victim.write_bytes(bytes(len(good)))
    monkeypatch.chdir(tmp_path)
    first = purify(["in"], "out", "cifar10", sheet=0)
    assert (first.written, first.failed) == (19, 1)
    before = files_below(tmp_path / "out")

    monkeypatch.chdir("/")
    assert retry(str(tmp_path / "out")) == first
    assert files_below(tmp_path / "out") == before
    victim.write_bytes(good)
    mended = retry(str(tmp_path / "out"))
    assert (mended.written, mended.failed) == (20, 0)
    whole = purify([str(images)], str(tmp_path / "whole"), "cifar10", sheet=0)
    assert mended == whole
    again = files_below(tmp_path / "out")
    # Of the two only the record of where they came from may differ.
    assert again == files_below(tmp_path / "whole") | {"_raypurify/job.json": again["_raypurify/job.json"]}


@pytest.mark.parametrize(
    ("option", "message"),
    [("overwrite", "overwriting in a part"), ("retry_failed", "take back what other parts join; .*retry-failed .*out")],
)
def test_what_would_undo_other_parts_is_no_work_for_a_part(option, message, tmp_path):
    with pytest.raises(SinkError, match=message):
        purify([str(EXAMPLES)], str(tmp_path / "out"), "cifar10", part=(1, 2), engine="local", **{option: True})
    assert not (tmp_path / "out").exists()


def test_parts_end_in_the_output_of_one_job(local_ray, tmp_path, purified):
    out, summary = purified
    assert purify([str(EXAMPLES)], str(tmp_path / "out"), "cifar10", sheet=3, part=(2, 2)) is None
    assert not (tmp_path / "out" / "_raypurify" / "provenance.parquet").exists()
    assert purify([str(EXAMPLES)], str(tmp_path / "out"), "cifar10", part=(1, 2), sheet=0) == summary
    made, whole = files_below(tmp_path / "out"), files_below(out)
    pictures = {"_raypurify/sheet.png"}
    assert made.keys() | pictures == whole.keys() | pictures
    assert all(made[name] == whole[name] for name in made.keys() - pictures)


def test_a_sample_is_an_output_of_its_own(local_ray, tmp_path, purified):
    whole = files_below(purified[0])
    summary = purify([str(EXAMPLES)], str(tmp_path / "out"), "cifar10", sample=5, sheet=0)
    assert (summary.rows, summary.written) == (5, 5)
    made = {name: data for name, data in files_below(tmp_path / "out").items() if "_raypurify" not in name}
    assert len(made) == 5
    for name, data in made.items():
        # A rounding boundary may fall the other way in another batch.
        one, other = (decode_image(file).pixels.astype(int) for file in (data, whole[name]))
        assert np.abs(one - other).max() <= 1
    with pytest.raises(SinkError, match=r"source\.digest"):
        purify([str(EXAMPLES)], str(tmp_path / "out"), "cifar10", sample=6)


@pytest.mark.parametrize(("rows", "shard_rows"), [(100, 16), (2047, 256), (2048, 256), (1000, 125)])
def test_planning_looks_once_and_cuts_for_the_size(tmp_path, monkeypatch, rows, shard_rows):
    pq.write_table(pa.table({"image": [b"x"] * rows}), tmp_path / "t.parquet", row_group_size=5)
    expected = open_source(tmp_path / "t.parquet", shard_rows=shard_rows)
    opened, real = [], Place.open
    monkeypatch.setattr(Place, "open", lambda place, *args: opened.append(place.name) or real(place, *args))
    assert planned_for(str(tmp_path / "out"), [str(tmp_path / "t.parquet")]).shards == expected.shards
    # The rows, and the footer for the digest.
    assert opened == ["t.parquet"] * 2


def test_a_dry_run_counts_and_measures_and_writes_nothing(tmp_path, capsys, monkeypatch):
    told: dict = {}
    monkeypatch.setattr("raypurify.cli.purify.tell", told.update)
    source = planned_for(str(tmp_path / "out"), [str(EXAMPLES)])
    found = estimate(source, "cifar10")
    assert (found.rows, found.measured, found.failed) == (source.rows, MEASURED, 0)
    assert found.seconds > 0
    app(["purify", str(EXAMPLES), str(tmp_path / "out"), "--dry-run"], standalone_mode=False)
    said = capsys.readouterr().out
    assert f"images:     {source.rows} in {len(source.shards)} shards" in said
    assert "ms an image on one core" in said
    assert (told["images"], told["measured"]) == (source.rows, MEASURED)
    assert not (tmp_path / "out").exists()


def test_prometheus_can_read_what_became_of_the_images(local_ray, tmp_path):
    import ray

    images = tmp_path / "in"
    images.mkdir()
    for path in sorted(EXAMPLES.rglob("*.png"))[:3]:
        (images / path.name).write_bytes(path.read_bytes())
    (images / "bad.png").write_bytes(b"no image")
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"

    def counted() -> dict[str, float]:
        text = urllib.request.urlopen(address, timeout=10).read().decode()
        found = re.findall(r'raypurify_images_total{.*?outcome="([a-z-]+)".*?} ([0-9.]+)', text)
        return Counter(tally(found))

    before = counted()
    purify([str(images)], str(tmp_path / "out"), "cifar10", sheet=0)
    until = time.monotonic() + 60
    while (gained := counted() - before) != {"purified": 3, "not-an-image": 1} and time.monotonic() < until:
        time.sleep(1)
    assert gained == {"purified": 3, "not-an-image": 1}


def tally(found) -> dict[str, float]:
    sums: dict[str, float] = {}
    for outcome, value in found:
        sums[outcome] = sums.get(outcome, 0.0) + float(value)
    return sums


def test_a_record_without_inputs_is_not_guessed_at(purified, tmp_path):
    out, _ = purified
    shutil.copytree(out, tmp_path / "old")
    record = tmp_path / "old" / "_raypurify" / "job.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"arguments": {}}))
    with pytest.raises(SinkError, match="--retry-failed"):
        retry(str(tmp_path / "old"))


def test_an_output_that_another_job_writes_is_refused(local_ray, tmp_path):
    out = tmp_path / "out"
    with held(resolve(out)), pytest.raises(SinkError, match="another job writes here"):
        purify([str(EXAMPLES)], str(out), "cifar10", overwrite=True)
    assert not [name for name in files_below(tmp_path) if "lease" in name]


@pytest.mark.parametrize(("drop_failed", "left"), [(False, range(7)), (True, (0, 1, 3, 4, 5))])
def test_parquet_keeps_its_columns_and_says_what_failed(local_ray, tmp_path, drop_failed, left):
    good = [p.read_bytes() for p in sorted(EXAMPLES.rglob("*.png"))[:5]]
    images = [*good[:2], b"", *good[2:], b"no image"]
    table = pa.table(
        {
            "image": pa.array(images, pa.binary()),
            "label": pa.array(range(7), pa.int64()),
            "id": [f"row-{i}" for i in range(7)],
            "caption": [f"caption {i}" for i in range(7)],
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    out = tmp_path / "out"
    summary = purify([str(tmp_path / "in.parquet")], str(out), "cifar10", sheet=0, drop_failed=drop_failed)
    assert (summary.written, summary.failed, summary.kept) == (5, 2, 0 if drop_failed else 2)
    assert ("kept:       2 rows" in summary_text(summary, str(out), 1.0)) == (not drop_failed)
    written = pa.concat_tables([pq.read_table(p) for p in sorted(out.glob("*.parquet"))])
    assert written.schema.names == table.schema.names
    assert written.drop_columns("image").equals(table.drop_columns("image").take(list(left)))
    for row, data in zip(left, written["image"].to_pylist()):
        assert data is None if row in (2, 6) else decode_image(data).pixels.shape == (32, 32, 3)
    errors = pq.read_table(out / "_raypurify" / "errors.parquet").to_pylist()
    assert [(e["id"], e["reason"]) for e in errors] == [("row-2", "empty"), ("row-6", "not-an-image")]


def test_the_summary_names_the_first_image_that_failed_for_each_reason(local_ray, tmp_path):
    root, good = tmp_path / "in", next(EXAMPLES.rglob("*.png")).read_bytes()
    root.mkdir()
    for name, data in {"a.png": good, "b\x1b.png": b"", "c.png": b"", "d.png": good[:200]}.items():
        (root / name).write_bytes(data)
    summary = purify([str(root)], str(tmp_path / "out"), sheet=0)
    assert summary.first == {"empty": "b\x1b.png", "truncated": "d.png"}
    assert "bundle: " not in summary_text(summary, str(tmp_path / "out"), 1.0)
    lines = summary_text(summary, str(tmp_path / "out"), 1.0, "cifar10").splitlines()
    assert lines.pop(1).startswith("bundle:     cifar10;")
    assert "failed:     2 empty: b�.png first" in lines
    assert "failed:     1 truncated: d.png" in lines
    assert "d.png" not in (tmp_path / "out/_raypurify/summary.json").read_text()


def test_arrays_come_out_as_they_came_in(local_ray, tmp_path, purified):
    """As corrupted sets lie: an array each, labels for all. Images that are too large stay as they were."""
    paths = sorted(path.relative_to(EXAMPLES) for path in EXAMPLES.rglob("*.png"))
    images = np.stack([decode_image((EXAMPLES / path).read_bytes()).pixels for path in paths])
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in/fog.npy", images)
    np.save(tmp_path / "in/large.npy", np.zeros((3, 40, 40, 3), np.uint8))
    np.save(tmp_path / "in/labels.npy", np.arange(len(images)))
    for _ in range(2):
        summary = purify([str(tmp_path / "in")], str(tmp_path / "out"), "cifar10", max_pixels=1024)
        assert (summary.written, summary.reasons) == (len(images), {"too-large": 3})
        assert "unpurified: 3 failed images stand in the arrays as they were" in summary_text(summary, "out", 1)
        made = {name: data for name, data in files_below(tmp_path / "out").items() if "_raypurify" not in name}
        assert {name: len(data) for name, data in made.items()} == {
            name: len(data) for name, data in files_below(tmp_path / "in").items()
        }
        assert made["labels.npy"] == (tmp_path / "in/labels.npy").read_bytes()
        assert made["large.npy"] == (tmp_path / "in/large.npy").read_bytes()
        # A rounding boundary may fall the other way in another batch.
        alone = np.stack([decode_image((purified[0] / path).read_bytes()).pixels for path in paths])
        assert np.abs(np.load(tmp_path / "out/fog.npy").astype(int) - alone).max() <= 1
        assert not np.array_equal(np.load(tmp_path / "out/fog.npy"), images)


def test_odd_and_bad_images_are_handled_or_named_and_stop_nothing(local_ray, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    modes = {name: mode for name, (_, mode) in odd_images().items()}
    reasons = {name: reason for name, (_, reason) in broken_images().items()}
    for name in ("one-pixel.png", "thin.png"):
        reasons[name] = "too-small"
        del modes[name]
    for name, (data, _) in (odd_images() | broken_images()).items():
        (folder / name).write_bytes(data)
    summary = purify([str(folder)], str(tmp_path / "out"), "cifar10", sheet=0)
    errors = pq.read_table(tmp_path / "out" / "_raypurify" / "errors.parquet").to_pylist()
    assert {e["id"]: e["reason"] for e in errors} == reasons
    provenance = pq.read_table(tmp_path / "out" / "_raypurify" / "provenance.parquet").to_pylist()
    assert {row["id"] for row in provenance} == set(modes)
    assert summary.written == len(modes)
    for row in provenance:
        with Image.open(tmp_path / "out" / row["output"]) as after, Image.open(folder / row["id"]) as before:
            assert (after.size, after.mode) == (before.size, modes[row["id"]])
            assert after.getexif().get(0x0112, 1) == before.getexif().get(0x0112, 1)


@pytest.mark.parametrize(
    ("inputs", "output", "bundle", "error"),
    [
        ("/no/such/folder", "out", "cifar10", SourceError),
        ("empty", "out", "cifar10", SourceError),
        (str(EXAMPLES), "file/out", "cifar10", SinkError),
        (str(EXAMPLES), "full", "cifar10", SinkError),
        (str(EXAMPLES), str(EXAMPLES / "out"), "cifar10", SinkError),
        (str(EXAMPLES), "out", "cifar11", BundleError),
    ],
)
def test_what_cannot_work_is_refused_before_ray_starts(tmp_path, monkeypatch, inputs, output, bundle, error):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("file").write_text("")
    Path("full").mkdir()
    Path("full/something.txt").write_text("mine")
    with pytest.raises(error):
        purify([inputs], output, bundle)
    assert Path("full/something.txt").read_text() == "mine"
