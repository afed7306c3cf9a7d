"""Bulk jobs through the endpoint: images per second against a job's own actors, at equal CPUs, on three logical nodes.

    python benchmarks/serve_bulk.py --data DIR [--images 6144] [--size small|large] [--repeat 3] [--out FILE]

DIR holds ``cifar10/test.parquet``, ``cifar10/train-*.parquet`` and ``imagenette224/val.parquet``. Each run has a
cluster of its own, of ``NODES`` nodes on this machine. With ``actors`` a node has one CPU, and so one actor; with
``serve`` it has two, of which a replica takes one, and the job's own actors, which read, decode, encode and write, take
tenths of the other.

* ``actors`` and ``serve``: in turn, ``--repeat`` times, with a replica on every node from the beginning. Images per
  second are those of the steady part, from when as many shards are committed as are under way at once; the files that
  they leave are compared.
* ``growing``: once, with one replica at first: how many there are on each node over time.
"""

import argparse
import hashlib
import json
import os
import secrets
import tempfile
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path
from statistics import median

import processes
from bulk import SETS
from bulk_job import Job, first_rows, results_in_turn, run_job, write_parquet

import raypurify

RESULTS = Path(__file__).parent / "results" / "serve_bulk.json"
NODES = 3
ENGINES = ("actors", "serve")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=6144)
    parser.add_argument("--size", choices=SETS, default="small")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    name, file, bundle = SETS[arguments.size]
    files = [arguments.data / file, *sorted((arguments.data / "cifar10").glob("train-*.parquet"))]
    with tempfile.TemporaryDirectory(prefix="serve-bulk-") as folder:
        scratch = Path(folder)
        # Nobody else may give work to the cluster; nor does it become this machine's default.
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32), RAY_TMPDIR=folder)
        os.environ.update(RAY_BACKEND_LOG_LEVEL="fatal", CUDA_VISIBLE_DEVICES="")
        # Serve's replicas, which inherit it, tell of their work more often than every ten seconds.
        os.environ["RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S"] = "1"
        os.environ.pop("RAY_ADDRESS", None)
        chosen = files if arguments.size == "small" else files[:1]
        source = write_parquet(first_rows(chosen, arguments.images), scratch / "source")
        kept = {engine: scratch / f"kept-{engine}" for engine in ENGINES}
        sides = {engine: partial(on_cluster, engine, source, scratch, bundle, kept[engine]) for engine in ENGINES}
        runs = results_in_turn("serve_bulk", sides, arguments.repeat)
        growing = on_cluster("serve", source, scratch, bundle, None, 1)
        same = len({digest(folder) for folder in kept.values()}) == 1
    rates = {engine: median(run["images_per_second"] for run in found) for engine, found in runs.items()}
    results = json.loads(arguments.out.read_text("utf-8")) if arguments.out.exists() else {}
    results[arguments.size] = {
        "set": name,
        "images": arguments.images,
        "nodes": NODES,
        "command": f"python benchmarks/serve_bulk.py --data DIR --size {arguments.size} --images {arguments.images} "
        f"--repeat {arguments.repeat}",
        "machine": processes.machine() | {"load_average": os.getloadavg()[0]},
        "bundle": raypurify.load(bundle).digest,
        "images_per_second": rates,
        "serve_over_actors": round(rates["serve"] / rates["actors"], 3),
        "same_bytes": same,
        "growing": growing,
        "runs": runs,
    }
    arguments.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(json.dumps({name: results[arguments.size][name] for name in ("serve_over_actors", "same_bytes")}))


def on_cluster(engine: str, source: Path, scratch: Path, bundle: str, kept: Path | None, least: int = NODES) -> dict:
    """One job on a cluster of its own; with "serve", how many replicas each node had, whenever that changed."""
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    from raypurify.serve.app import build
    from raypurify.serve.local import APP

    cpus = 2 if engine == "serve" else 1
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus, "include_dashboard": False})
    try:
        for _ in range(NODES - 1):
            cluster.add_node(num_cpus=cpus)
        options = ("--bundle", bundle, "--address", cluster.address, "--engine", engine)
        if engine == "actors":
            return record(run_job(source, scratch, *options, kept=kept), NODES)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        serve.start(http_options={"location": "NoServer"})
        settings = {"bundle": bundle, "no_auth": True, "min_replicas": least, "max_replicas": NODES}
        serve.run(build(settings), name=APP, route_prefix=None)
        with Watch(serve.get_deployment_handle("Purifier", APP)) as watch:
            job = run_job(source, scratch, *options, kept=kept)
        found = record(job, NODES * cpus) | {"replicas": watch.changes(job.begun), "busy_s": watch.busy()}
        serve.shutdown()
        return found
    finally:
        ray.shutdown()
        cluster.shutdown()


class Watch:
    """Looks each second at what every replica of an application says."""

    def __init__(self, handle: object):
        self.handle, self.seen, self._over = handle, [], threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def changes(self, begun: float) -> list:
        """Seconds since ``begun``, and the replicas of each node, whenever these changed."""
        names, found = {}, []
        for at, reports in self.seen:
            count = Counter(names.setdefault(report["node"], f"node {len(names) + 1}") for report in reports)
            if not found or found[-1][1] != count:
                found.append([round(at - begun, 1), count])
        return found

    def busy(self) -> list[float]:
        """Seconds that each replica has worked, at the end."""
        return sorted(round(report["busy_s"], 1) for report in self.seen[-1][1])

    def _look(self) -> None:
        while not self._over.wait(1):
            reports = self.handle.broadcast("report").results(timeout_s=30, return_exceptions=True)
            self.seen.append((time.time(), [report for report in reports if isinstance(report, dict)]))


def record(job: Job, under_way: int) -> dict:
    """The figures of a job of which so many shards are under way at once."""
    return {"images_per_second": round(job.steady_rate(under_way), 2), "job": job.record()}


def digest(folder: Path) -> str:
    """SHA-256 over the files of an output, but for what it says about its job."""
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and "_raypurify" not in path.parts):
        found.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return found.hexdigest()


if __name__ == "__main__":
    main()
