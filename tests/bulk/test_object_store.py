"""Bulk jobs from bucket to bucket end in the bytes of the same jobs on a disk, whatever happens on the way."""

import functools
import io
import json
import signal
import tarfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import object_store
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_images import broken_images, encode, pixels
from bulk_kills import plan_kill, run
from typer.testing import CliRunner

from raypurify.bulk.job import purify, retry
from raypurify.bulk.shards import ActorShape
from raypurify.cli.app import app
from raypurify.containers.lease import RENEWED, held
from raypurify.containers.ledger import Summary
from raypurify.containers.sink import status
from raypurify.errors import SinkError, SourceError
from raypurify.storage import resolve

GOOD = 30
# The message of an empty file names the place it lies in.
BROKEN = {name: (data, reason) for name, (data, reason) in broken_images().items() if reason != "empty"}
KINDS = ("folder", "parquet", "tar")
ONE_ACTOR = ActorShape(cpus=2)


@dataclass(frozen=True)
class Done:
    """A job done twice: its output on disk and the summary, and of the job in the bucket the summary, what it asked of
    the store, and how many signs of life its lease gave at most."""

    folder: Path
    expected: Summary
    summary: Summary
    asked: Counter
    signs: int


def images() -> dict[str, bytes]:
    """Good and broken ones, mixed; among the names are some that stores and URIs might stumble over."""
    good = {f"{k:02d} 100%+ü.png": encode(pixels(seed=k)) for k in range(GOOD)}
    bad = {f"{k:02d}-{name}": data for k, (name, (data, _)) in enumerate(BROKEN.items())}
    return dict(sorted((good | bad).items()))


def write_input(kind: str, folder: Path) -> None:
    folder.mkdir(parents=True)
    if kind == "folder":
        for name, data in images().items():
            (folder / name).write_bytes(data)
    elif kind == "parquet":
        table = pa.table({"id": list(images()), "image": list(images().values()), "label": range(len(images()))})
        pq.write_table(table, folder / "images.parquet", row_group_size=16)
    else:
        with tarfile.open(folder / "images.tar", "w") as tar:
            for number, data in enumerate(images().values()):
                for suffix, content in ((".cls", b"%d" % (number % 3)), (".png", data)):
                    member = tarfile.TarInfo(f"{number:03d}{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="module")
def bulk(store, local_ray, tmp_path_factory):
    """Does a job on disk, and the same in the bucket; once for each kind of input."""
    root = tmp_path_factory.mktemp("bulk")

    @functools.cache
    def done(kind: str) -> Done:
        write_input(kind, root / kind / "in")
        store.put_folder(f"{kind}/in", root / kind / "in")
        expected = purify([str(root / kind / "in")], str(root / kind / "out"), "cifar10", sheet=2, actor=ONE_ACTOR)
        before, begun = store.requests(), time.monotonic()
        summary = purify([store.uri(f"{kind}/in")], store.uri(f"{kind}/out"), "cifar10", sheet=2, actor=ONE_ACTOR)
        time.sleep(0.5)
        asked = store.requests() - before
        return Done(root / kind / "out", expected, summary, asked, int((time.monotonic() - begun) / RENEWED) + 1)

    return done


def on_disk(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def in_bucket(store, path: str) -> dict[str, bytes]:
    return {name: data for name, (data, _) in store.objects(path).items()}


def without_plan(made: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in made.items() if not name.startswith("_raypurify/plan/")}


def without_places(job: bytes) -> dict:
    record = json.loads(job)
    assert len(record["source"].pop("uris")) == len(record["arguments"].pop("inputs")) == 1
    return record


@pytest.mark.parametrize("kind", KINDS)
def test_a_bucket_ends_in_the_bytes_of_a_disk(bulk, store, kind):
    done = bulk(kind)
    assert done.summary == done.expected
    assert (done.summary.written, done.summary.failed) == (GOOD, len(BROKEN))
    # What was found in the input is kept by the times of its files.
    made, whole = without_plan(in_bucket(store, f"{kind}/out")), without_plan(on_disk(done.folder))
    # Nothing temporary is left, and no lease. What a killed upload leaves of its parts no listing shows.
    assert made.keys() == whole.keys()
    assert without_places(made.pop("_raypurify/job.json")) == without_places(whole.pop("_raypurify/job.json"))
    assert made == whole


@object_store.small_puts
@pytest.mark.parametrize("kind", KINDS)
def test_a_job_asks_a_store_seldom(bulk, kind):
    done = bulk(kind)
    outputs = done.summary.written if kind == "folder" else done.summary.shards
    records, whole_job, lease_removed = 2 * done.summary.shards, 6, 1
    assert done.asked["PUT"] <= outputs + records + whole_job + done.signs + lease_removed
    assert done.asked["POST"] == 0


def test_broken_images_are_error_rows(bulk, store):
    bulk("folder")
    errors = pq.read_table(io.BytesIO(in_bucket(store, "folder/out")["_raypurify/errors.parquet"])).to_pylist()
    assert {row["id"]: row["reason"] for row in errors} == {
        f"{k:02d}-{name}": reason for k, (name, (_, reason)) in enumerate(BROKEN.items())
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_rerun_writes_no_shard_again(bulk, store, kind):
    summary = bulk(kind).summary
    before = store.objects(f"{kind}/out")
    # A store tells times to the second.
    time.sleep(1.1)
    assert purify([store.uri(f"{kind}/in")], store.uri(f"{kind}/out"), "cifar10", sheet=2) == summary
    after = store.objects(f"{kind}/out")
    merged = {f"_raypurify/{name}" for name in ("provenance.parquet", "errors.parquet", "summary.json")}
    assert {name for name in after if after[name] != before.get(name)} <= merged
    assert {name: data for name, (data, _) in after.items()} == {name: data for name, (data, _) in before.items()}


def test_the_command_line_shows_the_way_to_the_output_and_no_key(bulk, store):
    summary = bulk("folder").summary
    user = f"{object_store.OTHER_KEY}:{object_store.OTHER_SECRET}"
    given = [store.uri("folder/in", user), store.uri("folder/out", user)]
    ended = CliRunner().invoke(app, ["purify", *given, "--sheet", "2"])
    assert ended.exit_code == 1, ended.output
    out = f"s3://{object_store.BUCKET}/folder/out"
    for line in (f"in {out}\n", f"{out}/_raypurify/provenance.parquet", f"{out}/_raypurify/sheet.png"):
        assert line in ended.output
    assert object_store.OTHER_SECRET not in ended.output
    told = CliRunner().invoke(app, ["status", given[1]])
    assert told.exit_code == 0, told.output
    assert f"complete: {summary.shards}/{summary.shards} shards" in told.output
    assert f"{len(BROKEN)} failed" in told.output


@pytest.mark.parametrize("user", ["", f"{object_store.OTHER_KEY}:{object_store.OTHER_SECRET}"])
def test_an_output_in_or_around_its_input_is_refused(bulk, store, user):
    bulk("folder")
    before = in_bucket(store, "folder")
    for out in ("folder/in", "folder/in/deeper", "folder", ""):
        with pytest.raises(SinkError, match="overlap"):
            purify([store.uri("folder/in")], store.uri(out, user), "cifar10", overwrite=True)
    assert in_bucket(store, "folder") == before


def test_a_second_job_on_an_output_is_refused(bulk, store):
    bulk("folder")
    out = store.uri("folder/out")
    with held(resolve(out)), pytest.raises(SinkError, match="/folder/out: another job writes here"):
        purify([store.uri("folder/in")], out, "cifar10")
    assert "_raypurify/lease.json" not in in_bucket(store, "folder/out")


def test_failed_images_are_tried_again_from_the_record_alone(store, local_ray):
    good = encode(pixels())
    store.put("retry/in/a.png", good)
    store.put("retry/in/b.png", bytes(len(good)))
    out = store.uri("retry/out")
    first = purify([store.uri("retry/in")], out, "cifar10", sheet=0, actor=ONE_ACTOR)
    assert (first.written, first.reasons) == (1, {"not-an-image": 1})
    store.put("retry/in/b.png", good)
    second = retry(out)
    assert (second.written, second.failed) == (2, 0)
    made = in_bucket(store, "retry/out")
    assert made["a.png"] == made["b.png"]


def kill_and_rerun(bulk, store, tmp_path: Path, kind: str, point: str, target: str, count: int) -> None:
    whole = on_disk(bulk(kind).folder)
    source, output = store.uri(f"{kind}/in"), f"{kind}/killed-{point}-{target}-{count}"
    plan, killed = plan_kill(tmp_path, source, store.uri(output), point, target, count)
    code, said = run(source, store.uri(output), plan)
    assert killed.exists(), said
    if target == "driver":
        assert code == -signal.SIGKILL
        assert not status(store.uri(output)).complete
    purify([source], store.uri(output), "cifar10", sheet=0, actor=ONE_ACTOR)
    made = in_bucket(store, output)
    assert without_places(made.pop("_raypurify/job.json")) == without_places(whole.pop("_raypurify/job.json"))
    assert made == {name: data for name, data in whole.items() if name != "_raypurify/sheet.png"}


def test_a_job_killed_in_the_middle_goes_on(bulk, store, tmp_path):
    kill_and_rerun(bulk, store, tmp_path, "folder", "put", "driver", count=7)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("kind", "point", "target", "count"),
    [
        ("parquet", "put", "driver", 3),
        ("tar", "stored", "worker", 1),
        ("folder", "stored", "driver", 12),
        ("folder", "stored", "node", 5),
        ("folder", "put", "worker", 9),
    ],
)
def test_kills_elsewhere_change_nothing(bulk, store, tmp_path, kind, point, target, count):
    kill_and_rerun(bulk, store, tmp_path, kind, point, target, count)


@pytest.mark.slow
def test_a_store_that_goes_down_ends_the_job_which_then_goes_on(bulk, tmp_path):
    whole = on_disk(bulk("folder").folder)
    write_input("folder", tmp_path / "in")
    (tmp_path / "store").mkdir()
    with object_store.running(tmp_path / "store") as one:
        one.put_folder("in", tmp_path / "in")
        source, out = one.uri("in"), one.uri("out")

        def fall():
            while not one.objects("out/_raypurify/provenance"):
                time.sleep(0.05)
            one.server.kill()

        threading.Thread(target=fall, daemon=True).start()
        # The next shard may still be read, or the last one just written.
        told = r"/out: cannot write shard part-0000\d: .*run again when mended|does the rest when this is mended"
        with pytest.raises((SinkError, SourceError), match=told):
            purify([source], out, "cifar10", sheet=0, actor=ONE_ACTOR)
    with object_store.running(tmp_path / "store", one.ports) as again:
        assert not status(out).complete
        purify([source], out, "cifar10", sheet=0, actor=ONE_ACTOR)
        made = in_bucket(again, "out")
    assert made.keys() == whole.keys() - {"_raypurify/sheet.png"}
    assert all(made[name] == whole[name] for name in made if name != "_raypurify/job.json")
