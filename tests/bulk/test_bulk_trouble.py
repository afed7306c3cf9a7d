"""Bulk jobs over broken images, inputs that change, full and read-only disks, and pools of other shapes."""

import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_images import broken_images, encode, pixels

from raypurify.bulk.job import purify, retry
from raypurify.bulk.shards import ActorShape, fit_pool
from raypurify.containers.rows import file_id
from raypurify.containers.sink import open_sink, status
from raypurify.errors import BundleError, ConfigError, SinkError, SourceError


def files_below(folder: Path) -> dict[str, bytes]:
    return {os.path.relpath(p, folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def outputs(folder: Path) -> dict[str, bytes]:
    """All but the records of where the inputs came from, and when."""
    records = ("_raypurify/job.json", "_raypurify/plan/")
    return {name: data for name, data in files_below(folder).items() if not name.startswith(records)}


def write_images(folder: Path, count: int) -> None:
    folder.mkdir()
    for k in range(count):
        (folder / f"{k:04d}.png").write_bytes(encode(pixels(seed=k)))


def write_tables(folder: Path) -> None:
    folder.mkdir()
    for part in range(3):
        ids = [f"{part}-{k}" for k in range(20)]
        images = [encode(pixels(seed=20 * part + k)) for k in range(20)]
        pq.write_table(pa.table({"id": ids, "image": images}), folder / f"{part}.parquet")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images") / "in"
    write_images(folder, 64)
    return folder


@pytest.fixture(scope="module")
def undisturbed(images, local_ray):
    """The output of the images, worked off in the ordinary way."""
    out = images.parent / "out"
    purify([str(images)], str(out), "cifar10", sheet=0)
    return outputs(out)


@pytest.fixture
def change_after_plan(monkeypatch):
    """Lets a test change the input when it has been looked at and nothing of it has been read."""

    def arrange(change) -> None:
        def watched(*args, **options):
            sink = open_sink(*args, **options)
            change()
            return sink

        monkeypatch.setattr("raypurify.bulk.job.open_sink", watched)

    return arrange


def test_images_broken_in_every_way_among_others(local_ray, tmp_path):
    folder = tmp_path / "in"
    write_images(folder, 60)
    expected = {}
    for name, (data, reason) in broken_images().items():
        (folder / f"broken-{name}").write_bytes(data)
        expected[f"broken-{name}"] = reason
    outside = tmp_path / "outside.png"
    outside.write_bytes(encode(pixels(seed=1)))
    (folder / "link-out.png").symlink_to(outside)
    (folder / "dangling.png").symlink_to(folder / "nothing.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    expected |= dict.fromkeys(("link-out.png", "dangling.png", "loop.png"), "unreadable")
    forbidden = folder / "forbidden.png"
    forbidden.write_bytes(encode(pixels(seed=2)))
    forbidden.chmod(0)
    if not os.access(forbidden, os.R_OK):  # root may read it all the same
        expected["forbidden.png"] = "unreadable"
    strange = [b"two\nlines.png", b"latin-\xe9.png", "háček %41.png".encode()]
    for name in strange:
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(encode(pixels(seed=3)))

    out = tmp_path / "out"
    summary = purify([str(folder)], str(out), "cifar10", sheet=0)
    assert summary.reasons == dict(sorted(Counter(expected.values()).items()))
    errors = pq.read_table(out / "_raypurify" / "errors.parquet").to_pylist()
    assert {row["id"]: row["reason"] for row in errors} == expected
    assert all(row["message"] for row in errors)
    names = {os.path.relpath(p, folder) for p in folder.iterdir()}
    good = {name for name in names if file_id(name) not in expected}
    assert {os.path.relpath(p, out) for p in out.iterdir()} - {"_raypurify"} == good
    assert pq.read_table(out / "_raypurify" / "provenance.parquet")["id"].to_pylist() == [
        file_id(name) for name in sorted(good)
    ]
    assert {os.fsdecode(name) for name in strange} <= good


def test_files_that_change_under_the_job_are_named_and_can_be_tried_again(tmp_path, images, change_after_plan):
    folder, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(images, folder)
    longer, same_size, gone = folder / "0003.png", folder / "0017.png", folder / "0040.png"

    def change():
        longer.write_bytes(longer.read_bytes() + b"more")
        data = same_size.read_bytes()
        same_size.write_bytes(data[::-1])
        gone.unlink()

    change_after_plan(change)
    summary = purify([str(folder)], str(out), "cifar10", sheet=0)
    assert (summary.written, summary.reasons) == (61, {"changed": 2, "unreadable": 1})
    errors = pq.read_table(out / "_raypurify" / "errors.parquet").to_pylist()
    assert [(row["id"], row["reason"]) for row in errors] == [
        ("0003.png", "changed"),
        ("0017.png", "changed"),
        ("0040.png", "unreadable"),
    ]


def test_a_container_that_changes_leaves_its_shards_undone_and_no_others(local_ray, tmp_path, change_after_plan):
    folder, out = tmp_path / "in", tmp_path / "out"
    write_tables(folder)
    purify([str(folder)], str(tmp_path / "whole"), "cifar10", sheet=0)
    kept = (folder / "1.parquet").read_bytes()
    change_after_plan(lambda: (folder / "1.parquet").write_bytes(kept[:-1000]))
    with pytest.raises(SourceError, match=r"1 of 3 shards could not be done, 1-00000 first: .*1\.parquet: changed"):
        purify([str(folder)], str(out), "cifar10", sheet=0)
    assert sorted(p.name for p in out.glob("*.parquet")) == ["0-00000.parquet", "2-00000.parquet"]
    assert (status(out).committed, status(out).shards) == (2, 3)

    change_after_plan(lambda: None)
    with pytest.raises(SinkError, match=r"did not leave out 1\.parquet, .*1\.parquet: is no readable Parquet file"):
        purify([str(folder)], str(out), "cifar10", sheet=0)
    (folder / "1.parquet").write_bytes(kept)
    assert purify([str(folder)], str(out), "cifar10", sheet=0).written == 60
    assert outputs(out) == outputs(tmp_path / "whole")


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a file system of so many kilobytes; ``remount`` changes it."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> Path:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", place], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"this user may not mount a file system: {done.stderr.strip()}")
        return place

    yield mount
    subprocess.run(["umount", "-l", place], capture_output=True, check=False)


def test_a_full_disk_stops_the_job_and_room_lets_it_go_on(images, undisturbed, small_disk):
    disk = small_disk("size=48k")
    with pytest.raises(SinkError, match=r"No space left on device.*run again when mended"):
        purify([str(images)], str(disk / "out"), "cifar10", sheet=0)
    assert status(disk / "out").committed < status(disk / "out").shards
    subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
    assert purify([str(images)], str(disk / "out"), "cifar10", sheet=0).written == 64
    assert outputs(disk / "out") == undisturbed


def test_a_read_only_output_is_named(images, undisturbed, small_disk):
    disk = small_disk("size=4m,ro")
    with pytest.raises(SinkError, match=r"out: cannot be written: .*Read-only file system.*permissions"):
        purify([str(images)], str(disk / "out"), "cifar10", sheet=0)
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    purify([str(images)], str(disk / "out"), "cifar10", sheet=0)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(SinkError, match="Read-only file system"):
        retry(str(disk / "out"))
    assert outputs(disk / "out") == undisturbed


@pytest.mark.parametrize("shape", [ActorShape(cpus=0.5), pytest.param(ActorShape(cpus=2), marks=pytest.mark.slow)])
def test_more_and_fewer_actors_write_the_same_bytes(images, undisturbed, tmp_path, shape):
    purify([str(images)], str(tmp_path / "out"), "cifar10", sheet=0, actor=shape)
    assert outputs(tmp_path / "out") == undisturbed


def test_the_endpoint_of_the_cluster_writes_the_same_bytes(images, undisturbed, tmp_path):
    from raypurify.serve.local import serving

    with pytest.raises(ConfigError, match="runs no application 'raypurify'; deploy it first"):
        purify([str(images)], str(tmp_path / "out"), "cifar10", sheet=0, engine="serve")
    with serving("cifar10", port=18123, max_replicas=1):
        with pytest.raises(BundleError, match=r"the endpoint serves the bundle \w{16}…, not"):
            purify([str(images)], str(tmp_path / "other"), "imagenet10", sheet=0, engine="serve")
        summary = purify([str(images)], str(tmp_path / "out"), "cifar10", sheet=2, engine="serve")
    assert summary.written == 64
    made = outputs(tmp_path / "out")
    assert made.pop("_raypurify/sheet.png")
    assert made == undisturbed


def test_unknown_engines_and_shapes_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="unknown engine 'magic'; use one of auto, local, actors, serve"):
        purify(["in"], str(tmp_path), engine="magic")
    with pytest.raises(ConfigError, match="0 CPUs"):
        ActorShape(cpus=0)
    with pytest.raises(ConfigError, match=r"1\.5 GPUs"):
        ActorShape(gpus=1.5)


@pytest.mark.parametrize(
    ("shape", "shards", "cluster", "expected"),
    [
        (ActorShape(), 100, (2, 0, False), (0, 2, 2)),
        (ActorShape(), 1, (64, 0, True), (0, 1, 1)),
        (ActorShape(), 100, (64, 0, True), (0, 64, 100)),
        (ActorShape(cpus=4), 100, (2, 0, False), (0, 1, 1)),
        (ActorShape(), 1000, (16, 1, True), (0.125, 8, 1000)),
        (ActorShape(), 1000, (60, 3, False), (0.125, 24, 24)),
        (ActorShape(), 1000, (12, 4, True), (0.3333, 12, 1000)),
        (ActorShape(gpus=1), 1000, (64, 4, True), (1, 4, 1000)),
        (ActorShape(gpus=0), 1000, (64, 4, True), (0, 64, 1000)),
        (ActorShape(gpus=0.5), 1000, (8, 0, True), (0.5, 1, 1000)),
        (ActorShape(), 1000, (16, 1, True, "serve"), (0, 16, 16)),
        (ActorShape(cpus=2, gpus=1), 1000, (16, 1, True, "serve"), (0, 8, 8)),
    ],
)
def test_a_pool_fits_its_cluster(shape, shards, cluster, expected):
    fitted, size, most = fit_pool(shape, shards, *cluster)
    # Of 20 CPUs for each GPU of a machine, eight actors have two.
    assert fitted.cpus == (0.1 if "serve" in cluster else 2 if cluster == (60, 3, False) else shape.cpus)
    assert (fitted.gpus, size, most) == expected
