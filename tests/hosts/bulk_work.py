"""Bulk jobs over hosts, and what must come of them: the bytes of an undisturbed job on this machine's own disk."""

import io
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from hosts import Cluster, Job
from PIL import Image

from raypurify.bulk.job import purify


@dataclass(frozen=True)
class Work:
    """So many images at ``in`` of the cluster's store, and the output ``whole`` of a job over them on a local Ray."""

    cluster: Cluster
    images: int
    whole: Path

    def begin(self, out: str, *options: str) -> Job:
        """A job from store to store, begun."""
        given = [self.cluster.store.uri("in"), self.cluster.store.uri(out)]
        return self.cluster.begin("jobs/purify.py", *given, "--bundle", "cifar10", "--sheet", "0", *options)

    def wait(self, job: Job) -> None:
        """Until an actor on each host is at work on a shard."""
        until = time.monotonic() + 120
        while not all(worker.runs("ray::ShardActor.do") for worker in self.cluster.workers):
            assert job.process.poll() is None, job.said
            assert time.monotonic() < until, job.said
            time.sleep(0.2)

    def check(self, out: str, job: Job) -> None:
        """Wait for the end: every image once, in the bytes of the undisturbed job, and nothing beside them."""
        said = job.end()
        assert {key: said[key] for key in ("exit", "images", "purified", "failed")} == {
            "exit": 0,
            "images": self.images,
            "purified": self.images,
            "failed": 0,
        }
        made = {name: data for name, (data, _) in self.cluster.store.objects(out).items()}
        images = {path.name: path.read_bytes() for path in self.whole.glob("*.png")}
        assert {name: data for name, data in made.items() if not name.startswith("_raypurify/")} == images
        for table in ("provenance", "errors"):
            name = f"_raypurify/{table}.parquet"
            assert made[name] == (self.whole / name).read_bytes()
        ids = pq.read_table(io.BytesIO(made["_raypurify/provenance.parquet"]))["id"].to_pylist()
        assert len(ids) == len(set(ids)) == self.images


def work_of(cluster: Cluster, folder: Path, images: int) -> Work:
    """Seeded images of 32², and the job over them that nothing disturbs, on the Ray there is."""
    draw = np.random.default_rng(0)
    (folder / "in").mkdir()
    for number in range(images):
        coarse = Image.fromarray(draw.integers(0, 256, (8, 8, 3), np.uint8))
        coarse.resize((32, 32), Image.Resampling.BICUBIC).save(folder / "in" / f"{number:04d}.png")
    cluster.store.put_folder("in", folder / "in")
    purify([str(folder / "in")], str(folder / "out"), "cifar10", sheet=0)
    return Work(cluster, images, folder / "out")
