"""What the driver, Ray and the actors of a purify job take of the CPUs, on a cluster of logical nodes."""

import os
import secrets
import time
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import processes
from bulk_job import first_rows, results_in_turn, run_job, write_parquet

import raypurify

NODES = (1, 2, 4)
# Two, so that shards come at different rates: what the driver takes a second is told from what a shard takes.
BUNDLES = ("cifar10", "imagenet10")
RESTS = 5.0
RAYS = ("gcs", "raylets", "others")
KINDS = ("actors", "driver", *RAYS)

Series = list[tuple[float, float]]


def nodes(data: Path, scratch: Path, sizes: dict[str, int], repeat: int) -> dict:
    """CPU time by kind of process, with equal work for each of 1, 2 and 4 nodes, and either bundle."""
    # As on a Ray that raypurify starts, nobody else may give work to the cluster; nor does it become this machine's
    # default.
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32), RAY_TMPDIR=str(scratch))
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    per_node, files = sizes["small"], sorted((data / "cifar10").glob("train-*.parquet"))
    sides = {}
    for count in NODES:
        source = write_parquet(first_rows(files, count * per_node), scratch / f"nodes-{count}")
        sides |= {(bundle, count): partial(on_cluster, count, source, scratch, bundle) for bundle in BUNDLES}
    found = results_in_turn("nodes", sides, repeat)
    clusters = [
        {"bundle": bundle, "nodes": count, "images": count * per_node} | middle(runs)
        for (bundle, count), runs in sorted(found.items())
    ]
    return {
        "set": "CIFAR-10 train, 32²",
        "bundles": {name: raypurify.load(name).digest for name in BUNDLES},
        "images_per_node": per_node,
        "sizes": clusters,
        "driver": driver(clusters),
    }


def driver(clusters: list[dict]) -> dict:
    """The driver's CPU time as a + b · rate, by least squares: a ms a second, b ms a shard, and what b is at most: two
    standard errors more."""
    rates, spent = zip(*((size["shards_per_second"], size["driver_ms_per_second"]) for size in clusters))
    (slope, base), errors = np.polyfit(rates, spent, 1, cov=True)
    most = slope + 2 * np.sqrt(errors[0, 0])
    return {
        "ms_per_second": round(float(base), 2),
        "ms_per_shard": round(float(slope), 2),
        "ms_per_shard_at_most": round(float(most), 2),
    }


def middle(runs: list[dict]) -> dict:
    """Medians of the runs on one cluster, and the runs."""
    return {
        "shards": len(runs[0]["job"]["commits"]),
        "actors": max(run["actors"] for run in runs),
        "steady_seconds": median(run["steady_seconds"] for run in runs),
        "shards_per_second": median(run["shards_per_second"] for run in runs),
        "driver_ms_per_second": median(run["driver_ms_per_second"] for run in runs),
        "ms_per_image": {kind: median(run["ms_per_image"][kind] for run in runs) for kind in KINDS},
        "idle_ms_per_second": {kind: median(run["idle_ms_per_second"][kind] for run in runs) for kind in RAYS},
        "runs": runs,
    }


def on_cluster(count: int, source: Path, scratch: Path, bundle: str) -> dict:
    """One job on a cluster of ``count`` nodes of one CPU."""
    from ray.cluster_utils import Cluster

    kinds: dict[int, str] = {}
    spent: dict[int, Series] = defaultdict(list)

    def look(driver: int | None = None) -> None:
        for pid in processes.tree(os.getpid())[1:]:
            if seconds := processes.cpu_seconds(pid):
                spent[pid].append((time.time(), seconds))
            # An actor is an idle worker at first, and without a name once it has ended.
            if kinds.get(pid, "others") == "others":
                kinds[pid] = "driver" if pid == driver else processes.ray_kind(pid)

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        for _ in range(count - 1):
            cluster.add_node(num_cpus=1)
        job = run_job(source, scratch, "--bundle", bundle, "--address", cluster.address, look=look)
        time.sleep(RESTS)
        rests = time.time()
        look()
        time.sleep(RESTS)
        look()
    finally:
        cluster.shutdown()

    def grown(begun: float, ended: float) -> Counter:
        """Milliseconds by kind."""
        found = Counter()
        for pid, series in spent.items():
            found[kinds[pid]] += 1e3 * growth(series, begun, ended)
        return found

    begun, ended, shards, images = job.steady(count)
    steady, idle = grown(job.begun + begun, job.begun + ended), grown(rests, rests + RESTS)
    return {
        "actors": list(kinds.values()).count("actors"),
        "steady_seconds": round(ended - begun, 3),
        "shards_per_second": round(shards / (ended - begun), 4),
        "driver_ms_per_second": round(steady["driver"] / (ended - begun), 3),
        "ms_per_image": {kind: round(steady[kind] / images, 4) for kind in KINDS},
        "idle_ms_per_second": {kind: round(idle[kind] / RESTS, 2) for kind in RAYS},
        "job": job.record(),
    }


def growth(series: Series, begun: float, ended: float) -> float:
    """By how much a process's CPU time grew between two times; it was looked at now and then, and began at 0."""
    times, seconds = zip(*series)
    first, last = np.interp([begun, ended], times, seconds, left=0.0)
    return float(last - first)


def table(results: dict) -> str:
    """The measured clusters as Markdown."""
    lines = [
        "| bundle | nodes | images | CPU ms an image: actors | driver | GCS | raylets | other processes of Ray "
        "| shards a second | driver's CPU ms a second | Ray's idle CPU ms a second | wall s, steady |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for size in results["sizes"]:
        spent = " | ".join(f"{size['ms_per_image'][kind]:.2f}" for kind in KINDS)
        idle = sum(size["idle_ms_per_second"].values())
        lines.append(
            f"| {size['bundle']} | {size['nodes']} | {size['images']:,} | {spent} | {size['shards_per_second']:.2f} "
            f"| {size['driver_ms_per_second']:.0f} | {idle:.0f} | {size['steady_seconds']:.1f} |"
        )
    fit = results["driver"]
    most = f"{fit['ms_per_second']:.0f} ms of CPU a second, and at most {fit['ms_per_shard_at_most']:.0f} ms a shard"
    return "\n".join([*lines, "", f"The driver: {most} (least squares over these rows, two standard errors)."])
