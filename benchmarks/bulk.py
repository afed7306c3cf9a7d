"""Bulk purification: how close a job comes to the bare purifier, and what it costs to run one on more images or nodes.

    python benchmarks/bulk.py --data DIR [--only PART ...] [--repeat 3] [--small N] [--large N] [--out FILE]

DIR holds ``cifar10/test.parquet``, ``cifar10/train-*.parquet`` and ``imagenette224/val.parquet``. Every job is the
command ``raypurify purify IN OUT --sheet 0 --engine actors`` in a process of its own, which starts Ray and ends it, on
CPUs, with the bundle ``cifar10`` for images of 32² and ``imagenet10`` for those of 224². Sides are run in turn,
``--repeat`` times, and compared by medians. N is the number of images of 32² (small) and 224² (large) in every part
that is run; each has its own defaults.

* ``tensors``: images per second of a job over those of ``purifier.purify`` on float tensors in memory, by one process
  with as many threads as cores, in the batches that suit it best. *Whole* is the command from start to end, *steady*
  from when as many shards are committed as there are cores to the last one; *start-up* ends with the first shard.
* ``script``: a job over ``obvious_script.py``, which is told each image's cluster and whose imports are not timed. The
  job has ``AHEAD`` times as many images: on the script's few it would only start.
* ``memory``: the largest memory of all processes of a job together, with N images and with ten times as many, looked
  at five times a second. Below 2,048 images shards are smaller, and so is what an actor holds.
* ``nodes``: N images for each of 1, 2 and 4 logical nodes of one CPU, all on this machine: what the driver, Ray and the
  actors take of the CPUs in the steady part, and Ray when nothing is done. From N = 2,048 on, shards are equal.

A part replaces itself in the results file and leaves the others there. ``--table`` prints that file as Markdown.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from statistics import median

import bulk_nodes
import numpy as np
import processes
import torch
from bulk_job import Job, first_rows, results_in_turn, run_job, write_folder, write_parquet
from PIL import Image
from timing import ratio

import raypurify
from raypurify.evaluation.clock import clock
from raypurify.images import decode_image, to_float
from raypurify.purifiers.rewriting import MAX_GAIN, scale_of_lmbda

RESULTS = Path(__file__).parent / "results" / "bulk.json"
# Also for sets that one process would do.
ENGINE = ("--engine", "actors")
CORES = os.cpu_count() or 1
# Name, file and bundle of each set.
SETS = {
    "small": ("CIFAR-10 test, 32²", "cifar10/test.parquet", "cifar10"),
    "large": ("Imagenette, 224²", "imagenette224/val.parquet", "imagenet10"),
}
BATCHES = {"small": (64, 256, 1024), "large": (5, 16, 64)}
AHEAD = {"small": 32, "large": 8}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--small", type=int, help="images of 32²")
    parser.add_argument("--large", type=int, help="images of 224²")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the tables of a results file and stop")
    arguments = parser.parse_args()
    results = json.loads(arguments.out.read_text("utf-8")) if arguments.out.exists() else {}
    if arguments.table:
        print(tables(results))
        return
    if arguments.data is None:
        parser.error("give --data")
    # Figures are of CPUs, on a Ray that the job starts.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ.pop("RAY_ADDRESS", None)
    torch.set_num_threads(CORES)
    # In this order: the last part changes what a Ray of this process's children does.
    for part in [name for name in PARTS if name in arguments.only]:
        measure, defaults = PARTS[part]
        sizes = {size: getattr(arguments, size) or count for size, count in defaults.items()}
        given = f"--repeat {arguments.repeat} " + " ".join(f"--{size} {count}" for size, count in sizes.items())
        with tempfile.TemporaryDirectory() as scratch:
            found = measure(arguments.data, Path(scratch), sizes, arguments.repeat)
        results[part] = {
            "command": f"python benchmarks/bulk.py --data DIR --only {part} {given}",
            "machine": processes.machine(),
            "bundles": {SETS[size][2]: raypurify.load(SETS[size][2]).digest for size in sizes},
            "repeat": arguments.repeat,
            **found,
        }
        arguments.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(tables(results))


def tensors(data: Path, scratch: Path, sizes: dict[str, int], repeat: int) -> dict:
    """Jobs against the purifier on tensors in memory."""
    sets = []
    for size, count in sizes.items():
        name, file, bundle = SETS[size]
        purifier = raypurify.load(bundle)
        rows = first_rows([data / file], count)
        inputs = {"Parquet": write_parquet(rows, scratch / size)}
        if size == "small":
            inputs["folder of PNG"] = write_folder(rows, scratch / size)
        images = pixels(rows)
        purifier.purify(images[: BATCHES[size][0]])  # compiled once per installation
        sides = {batch: partial(on_tensors, purifier, images, batch) for batch in BATCHES[size]}
        sides |= {
            kind: partial(run_job, source, scratch, "--bundle", bundle, *ENGINE) for kind, source in inputs.items()
        }
        found = results_in_turn(f"tensors, {name}", sides, repeat)
        rates = {batch: found[batch] for batch in BATCHES[size]}
        best = max(rates, key=lambda batch: median(rates[batch]))
        sets.append(
            {
                "set": name,
                "images": count,
                "best_batch": best,
                "tensors": {str(batch): rounded(values) for batch, values in rates.items()},
                "jobs": {kind: against(rates[best], found[kind]) for kind in inputs},
            }
        )
    return {"sets": sets}


def script(data: Path, scratch: Path, sizes: dict[str, int], repeat: int) -> dict:
    """Jobs against the obvious script."""
    sets = []
    for size, count in sizes.items():
        name, file, bundle = SETS[size]
        purifier = raypurify.load(bundle)
        rows = first_rows([data / file], AHEAD[size] * count)
        source, few = write_folder(rows, scratch / size), write_folder(rows[:count], scratch / f"{size}-few")
        settings, plain = scratch / f"{size}.npz", scratch / f"{size}-plain"
        write_settings(settings, purifier, pixels(rows[:count]))
        sides = {
            "script": partial(run_script, few, plain, settings),
            "job": partial(run_job, source, scratch, "--bundle", bundle, *ENGINE, kept=scratch / f"{size}-job"),
        }
        found = results_in_turn(f"script, {name}", sides, repeat)
        rates = [run["images"] / run["seconds"] for run in found["script"]]
        sets.append(
            {
                "set": name,
                "script_images": count,
                "job_images": len(rows),
                "script_unsolved": found["script"][0]["unsolved"],
                "script_seconds": rounded(run["seconds"] for run in found["script"]),
                "grey_levels_apart": apart(plain, scratch / f"{size}-job"),
                "job": against(rates, found["job"]),
            }
        )
    return {"sets": sets}


def memory(data: Path, scratch: Path, sizes: dict[str, int], repeat: int) -> dict:
    """Peak memory of a job with so many images, and with ten times as many."""
    files, counts = sorted((data / "cifar10").glob("train-*.parquet")), (sizes["small"], 10 * sizes["small"])

    def peak(source: Path) -> float:
        seen: list[int] = []

        def look(pid: int) -> None:
            seen.append(processes.memory(processes.tree(pid)))

        run_job(source, scratch, "--bundle", SETS["small"][2], *ENGINE, look=look)
        return max(seen) / 2**20

    sides = {n: partial(peak, write_parquet(first_rows(files, n), scratch / str(n))) for n in counts}
    peaks = results_in_turn("memory", sides, repeat)
    return {
        "set": "CIFAR-10 train, 32²",
        "images": counts,
        "peak_mib": {str(n): rounded(values, 1) for n, values in peaks.items()},
        "ten_times_over_once": ratio(peaks, counts[1], counts[0]),
    }


def on_tensors(purifier, images: torch.Tensor, batch: int) -> float:
    """Images per second of the purifier alone."""
    begun = clock()
    for part in images.split(batch):
        purifier.purify(part)
    return len(images) / (clock() - begun)


def write_settings(file: Path, purifier, images: torch.Tensor) -> None:
    """What the obvious script has to know to do these images as the purifier does them."""
    csc, cluster = purifier.settings.csc, purifier.choose(images)[0]
    numbers = {name: getattr(csc, name) for name in ("rel_tol", "tikhonov", "pad")}
    numbers |= {"lmbda": csc.lmbda * scale_of_lmbda(images, csc).numpy(), "gain": MAX_GAIN if csc.refit else 1}
    np.savez(file, dictionaries=purifier.dictionaries.numpy(), cluster=cluster.numpy(), **numbers)


def run_script(source: Path, target: Path, settings: Path) -> dict:
    """What the obvious script says of itself."""
    command = [sys.executable, Path(__file__).with_name("obvious_script.py"), source, target, settings]
    run = subprocess.run([*command, "--processes", str(CORES)], check=True, capture_output=True, text=True)
    return json.loads(run.stdout)


def against(rates: list[float], jobs: list[Job]) -> dict:
    """Jobs over a side that does ``rates`` images per second."""
    sides = {"peer": rates, "whole": [job.rate for job in jobs], "steady": [job.steady_rate(CORES) for job in jobs]}
    return {
        "steady_over_peer": ratio(sides, "steady", "peer"),
        "whole_over_peer": ratio(sides, "whole", "peer"),
        "startup_seconds": round(median(job.startup for job in jobs), 1),
        "images_per_second": {side: round(median(values), 4) for side, values in sides.items()},
        "runs": [job.record() for job in jobs],
    }


def apart(one: Path, other: Path) -> float:
    """Mean difference, in grey levels, of the images of ``one`` to those of the same name in ``other``."""
    differences = []
    for path in one.glob("*.png"):
        first, second = (np.asarray(Image.open(folder / path.name).convert("RGB"), float) for folder in (one, other))
        differences.append(np.abs(first - second).mean())
    return round(float(np.mean(differences)), 3)


def pixels(rows) -> torch.Tensor:
    return torch.from_numpy(np.stack([to_float(decode_image(data).pixels) for data in rows["image"].to_pylist()]))


def rounded(values, digits: int = 3) -> list[float]:
    return [round(value, digits) for value in values]


def tables(results: dict) -> str:
    """The parts that were measured as Markdown."""
    return "\n\n".join(table(results[part]) for part, table in TABLES.items() if part in results)


def tensors_table(results: dict) -> str:
    lines = [
        "| job | images | steady, over the purifier alone | whole command, over it | start-up |",
        "|---|---|---|---|---|",
    ]
    for found in results["sets"]:
        for kind, job in found["jobs"].items():
            lines.append(
                f"| {found['set']}, {kind} | {found['images']:,} | {job['steady_over_peer']:.2f} "
                f"| {job['whole_over_peer']:.2f} | {job['startup_seconds']:.1f} s |"
            )
    return "\n".join(lines)


def script_table(results: dict) -> str:
    lines = ["| images | script's, job's | steady, times as fast | whole command, times as fast |", "|---|---|---|---|"]
    for found in results["sets"]:
        unsolved, job = found["script_unsolved"], found["job"]
        note = f" (sporco gave up on {unsolved})" if unsolved else ""
        lines.append(
            f"| {found['set']} | {found['script_images']:,}{note}, {found['job_images']:,} "
            f"| {job['steady_over_peer']:.0f} | {job['whole_over_peer']:.0f} |"
        )
    return "\n".join(lines)


def memory_table(results: dict) -> str:
    lines = ["| images | peak memory | ratio |", "|---|---|---|"]
    over = (1, results["ten_times_over_once"])
    for count, times in zip(results["images"], over):
        lines.append(f"| {count:,} | {median(results['peak_mib'][str(count)]) / 1024:.2f} GiB | {times:.2f} |")
    return "\n".join(lines)


PARTS = {
    "tensors": (tensors, {"small": 5000, "large": 256}),
    "script": (script, {"small": 64, "large": 16}),
    "memory": (memory, {"small": 5000}),
    "nodes": (bulk_nodes.nodes, {"small": 2048}),
}
TABLES = {"tensors": tensors_table, "script": script_table, "memory": memory_table, "nodes": bulk_nodes.table}

if __name__ == "__main__":
    main()
