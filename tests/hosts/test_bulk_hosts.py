"""Bulk jobs over three hosts, one of which is cut off in the middle, end in the bytes of an undisturbed local job."""

import io
import re
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hosts import LOST_S, Cluster, Job, three_hosts
from PIL import Image

from raypurify.bulk.job import purify

# Eight shards.
IMAGES = 768


@pytest.fixture(scope="module")
def cluster():
    with three_hosts() as running:
        yield running


@pytest.fixture(scope="module")
def whole(cluster, local_ray, tmp_path_factory) -> Path:
    """The output of a job on this machine's own disk; its input lies in the store at ``in``."""
    folder = tmp_path_factory.mktemp("whole")
    draw = np.random.default_rng(0)
    (folder / "in").mkdir()
    for number in range(IMAGES):
        coarse = Image.fromarray(draw.integers(0, 256, (8, 8, 3), np.uint8))
        coarse.resize((32, 32), Image.Resampling.BICUBIC).save(folder / "in" / f"{number:04d}.png")
    cluster.store.put_folder("in", folder / "in")
    purify([str(folder / "in")], str(folder / "out"), "cifar10", sheet=0)
    return folder / "out"


def begin(cluster: Cluster, out: str, *options: str) -> Job:
    """A job of the store, begun."""
    given = [cluster.store.uri("in"), cluster.store.uri(out)]
    return cluster.begin("jobs/purify.py", *given, "--bundle", "cifar10", "--sheet", "0", *options)


def wait_for_work(cluster: Cluster, job: Job) -> None:
    """Until an actor on each host is at work on a shard."""
    until = time.monotonic() + 120
    while not all(worker.runs("ray::ShardActor.do") for worker in cluster.workers):
        assert job.process.poll() is None, job.said
        assert time.monotonic() < until, job.said
        time.sleep(0.2)


def images_of(whole: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in whole.glob("*.png")}


def check(cluster: Cluster, out: str, whole: Path, said: dict) -> None:
    """Every image once, in the bytes of the undisturbed job, and nothing beside them."""
    assert {key: said[key] for key in ("exit", "images", "purified", "failed")} == {
        "exit": 0,
        "images": IMAGES,
        "purified": IMAGES,
        "failed": 0,
    }
    made = {name: data for name, (data, _) in cluster.store.objects(out).items()}
    assert {name: data for name, data in made.items() if not name.startswith("_raypurify/")} == images_of(whole)
    for table in ("provenance", "errors"):
        name = f"_raypurify/{table}.parquet"
        assert made[name] == (whole / name).read_bytes()
    ids = pq.read_table(io.BytesIO(made["_raypurify/provenance.parquet"]))["id"].to_pylist()
    assert len(ids) == len(set(ids)) == IMAGES


@pytest.fixture
def cut_off(cluster):
    """Cuts the worker with this number off; afterwards all three are there again."""
    cut = []

    def cut_one(number: int) -> None:
        cut.append(cluster.workers[number])
        cut[-1].cut()

    yield cut_one
    for worker in cut:
        worker.join()
        worker.kill()
        cluster.start_worker(worker)
    cluster.wait(3)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_host_that_is_cut_off_in_the_middle_changes_nothing(cluster, whole, cut_off):
    job = begin(cluster, "cut")
    wait_for_work(cluster, job)
    cut_off(1)
    said = job.end()
    check(cluster, "cut", whole, said)
    assert cluster.workers[1].address not in cluster.alive()
    assert re.search(r"an actor on .* died over shard .*; it is begun again", job.said), job.said


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seconds", [3, 2 * LOST_S])
def test_a_partition_that_heals_changes_nothing(cluster, whole, cut_off, seconds):
    out = f"healed-{seconds}"
    job = begin(cluster, out)
    wait_for_work(cluster, job)
    cut_off(0)
    time.sleep(seconds)
    cluster.workers[0].join()
    check(cluster, out, whole, job.end())
    assert (cluster.workers[0].address in cluster.alive()) == (seconds < LOST_S)
