"""Jobs in a loop on a cluster of three nodes of this machine, after the first of which a worker is killed every minute.

    .venv/bin/python benchmarks/soak.py --minutes 30 --out benchmarks/results/soak.json

Every job must end with every image purified once, and with the bytes of the first. What is told: memory and open files
of the driver and of the raylets, processes, and what lies in the object stores, by the minute while jobs are at work,
and after each of them, when Ray has taken back what is its own: what grows from the first to the last is leaked.
``--minutes 3 --every 20 --images 384`` is a short form of it.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from processes import PROC, machine, memory, tree

SIDE, FILE_ROWS, NODES = 32, 1024, 3
# Ray takes back processes and objects a little later.
SETTLES_S = 5
BEGUN = time.monotonic()


def write_images(folder: Path, count: int) -> None:
    """Parquet files of seeded pictures, each another."""
    draw = np.random.default_rng(0)
    folder.mkdir()
    for first in range(0, count, FILE_ROWS):
        data = []
        for _ in range(first, min(first + FILE_ROWS, count)):
            coarse = Image.fromarray(draw.integers(0, 256, (8, 8, 3), np.uint8))
            held = io.BytesIO()
            coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(held, "PNG")
            data.append(held.getvalue())
        pq.write_table(pa.table({"image": data}), folder / f"{first:06d}.parquet", row_group_size=64)


class Watch(threading.Thread):
    """Measures this process and its cluster every so many seconds, and then kills one worker that is at work."""

    def __init__(self, every: float):
        super().__init__(daemon=True)
        self.every, self.killed, self.ended = every, 0, threading.Event()
        self.figures: list[dict] = []

    def run(self) -> None:
        """Until ``ended`` is set."""
        while not self.ended.wait(self.every):
            # Between two jobs there is nobody to kill.
            while not (workers := [pid for pid in tree(os.getpid()) if "ShardActor" in command(pid)]):
                if self.ended.wait(0.2):
                    return
            self.figures.append(measure())
            with contextlib.suppress(ProcessLookupError):
                os.kill(workers[self.killed % len(workers)], signal.SIGKILL)
                self.killed += 1
            print(f"killed {self.killed}, {self.figures[-1]}", flush=True)


def command(pid: int) -> str:
    """What a process was started as; nothing where it has ended."""
    try:
        return (PROC / str(pid) / "cmdline").read_text(errors="replace")
    except OSError:
        return ""


def measure() -> dict:
    """The driver and the raylets now."""
    import ray
    from ray._private.internal_api import node_stats

    raylets = [pid for pid in tree(os.getpid()) if Path(command(pid).partition("\0")[0]).name == "raylet"]
    nodes = [(node["NodeManagerAddress"], node["NodeManagerPort"]) for node in ray.nodes() if node["Alive"]]
    stores = [node_stats(*node, include_memory_info=False).store_stats for node in nodes]
    return {
        "at_s": round(time.monotonic() - BEGUN),
        "driver_mb": round(memory([os.getpid()]) / 1e6),
        "raylets_mb": round(memory(raylets) / 1e6),
        "driver_files": len(list((PROC / "self/fd").iterdir())),
        "raylet_files": sum(len(list((PROC / str(pid) / "fd").iterdir())) for pid in raylets),
        "object_store_mb": round(sum(store.object_store_bytes_used for store in stores) / 1e6, 1),
        "processes": len(tree(os.getpid())),
    }


def digest_of(output: Path, images: int) -> str:
    """What the images of an output are, together. Raises SystemExit where one is missing, or is there twice."""
    ids = pq.read_table(output / "_raypurify/provenance.parquet")["id"].to_pylist()
    if len(ids) != images or len(set(ids)) != images:
        sys.exit(f"of {images} images {len(set(ids))} were purified, in {len(ids)} rows")
    found = hashlib.sha256()
    for file in sorted(output.glob("*.parquet")):
        for data in pq.read_table(file, columns=["image"])["image"].to_pylist():
            found.update(data)
    return found.hexdigest()


def main(minutes: float, every: float, images: int, bundle: str, scratch: str) -> dict:
    """The figures of jobs for so many minutes. Raises SystemExit where images are missing or differ."""
    import ray
    from ray.cluster_utils import Cluster

    from raypurify.bulk.job import purify

    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        write_images(Path(folder) / "in", images)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        for _ in range(NODES - 1):
            cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        digests, idle, watch = [], [], Watch(every)
        try:
            begun = time.monotonic()
            while not idle or time.monotonic() - begun < 60 * minutes:
                output = Path(folder) / "out"
                summary = purify([f"{folder}/in"], str(output), bundle, sheet=0)
                if summary is None or summary.written != images:
                    sys.exit(f"of {images} images not all were purified: {summary}")
                digests.append(digest_of(output, images))
                shutil.rmtree(output)
                time.sleep(SETTLES_S)
                idle.append(measure())
                # The first is left in peace: in a new installation its actors compile for longer than they would live.
                if not watch.is_alive():
                    watch.start()
            seconds = time.monotonic() - begun
            watch.ended.set()
            watch.join()
        finally:
            ray.shutdown()
            cluster.shutdown()
    if len(set(digests)) != 1:
        sys.exit(f"{len(digests)} jobs over the same images made {len(set(digests))} different outputs")
    told = {"jobs": len(digests), "images": images * len(digests), "seconds": round(seconds), "killed": watch.killed}
    return told | {"before": idle[0], "after": idle[-1], "between": idle, "meanwhile": watch.figures}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="No job begins later.")
    parser.add_argument("--every", type=float, default=60, help="Seconds between two kills.")
    parser.add_argument("--images", type=int, default=4096, help="Images of a job.")
    parser.add_argument("--bundle", default="cifar10")
    parser.add_argument("--scratch", default=tempfile.gettempdir())
    parser.add_argument("--out", type=Path, help="Results file.")
    options = parser.parse_args()
    figures = main(options.minutes, options.every, options.images, options.bundle, options.scratch)
    if options.out:
        options.out.write_text(json.dumps({"machine": machine()} | figures, indent=1) + "\n")
    print({name: value for name, value in figures.items() if name not in ("between", "meanwhile")})
