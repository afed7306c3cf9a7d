"""The clusters stage against scikit-learn: latents in Parquet on Ray, against latents in memory.

    python benchmarks/clusters.py --run-dir RUN [--repeats 3]

RUN is the directory of a ``raypurify fit``. Three comparisons, each side timed in turn and compared by medians, on an
idle machine:

* ``run``: all classes of the run, k = 1 to 8, four starts each. Ours is the whole stage: reading Parquet, k-means, the
  elbow with its picture, distributions. scikit-learn's share is its ``KMeans`` alone, on arrays in memory.
* ``synthetic``: 100 classes of 1,300 latents of 512 features, end to end on both sides: k-means, elbow, Ledoit–Wolf.
* ``growth``: one class in 16 MiB blocks, 3 sizes: seconds and the largest private memory of any worker.

scikit-learn works through the classes in a pool of as many processes as cores, one thread each; in a loop with its own
threads it is slower on data of this size. Starting either side's processes is not timed. Ray gives its workers a lower
priority than other processes; here both sides have the same.
``--table`` prints the results file as Markdown.
"""

import argparse
import json
import os
import tempfile
import threading
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from elbow import class_latents
from joblib import Parallel, delayed
from sklearn.cluster import KMeans
from sklearn.covariance import ledoit_wolf
from threadpoolctl import threadpool_limits
from timing import in_turn, ratio

from raypurify.clusters import choose_k
from raypurify.config import ClusterSettings
from raypurify.fit.clustering import cluster
from raypurify.fit.latents import PARTS
from raypurify.runtime.session import ray_session
from raypurify.storage import resolve

RESULTS = Path(__file__).parent / "results" / "clusters.json"
K_MAX, N_INIT = 8, 4
CLASSES, PER_CLASS, DIM = 100, 1300, 512
GROWTH, GROWTH_DIM, BLOCK_MB = (100_000, 200_000, 400_000), 128, 16
MAX_ROWS = 400_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(json.loads(arguments.out.read_text())))
        return
    if arguments.run_dir is None:
        parser.error("give --run-dir")
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    with ray_session(), tempfile.TemporaryDirectory() as scratch:
        results = measure(arguments.run_dir, Path(scratch), arguments.repeats)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


def measure(run: Path, scratch: Path, repeats: int) -> dict:
    results = {
        "command": f"python benchmarks/clusters.py --run-dir RUN --repeats {repeats}",
        "cores": os.cpu_count(),
        "k": [1, K_MAX],
        "n_init": N_INIT,
        "repeats": repeats,
    }
    of_run = [latents for _, latents in class_latents(run)]
    results["run"] = compare(run / "latents", of_run, scratch, repeats, kmeans_only)
    synthetic = [planted(PER_CLASS, DIM, seed) for seed in range(CLASSES)]
    for c, latents in enumerate(synthetic):
        write(scratch / "synthetic", c, [latents])
    results["synthetic"] = compare(scratch / "synthetic", synthetic, scratch, repeats, end_to_end)
    results["growth"] = growth(scratch, repeats)
    return results


def compare(folder: Path, of_class: list[np.ndarray], scratch: Path, repeats: int, peer) -> dict:
    pool = Parallel(n_jobs=os.cpu_count())
    sides = {
        "stage": lambda: stage(folder, len(of_class), scratch),
        "scikit-learn": lambda: pool(delayed(peer)(latents) for latents in of_class),
    }
    seconds = in_turn(sides, repeats)
    print(seconds, flush=True)
    return {
        "classes": len(of_class),
        "rows": sum(map(len, of_class)),
        "features": of_class[0].shape[1],
        "seconds": {name: [round(value, 2) for value in values] for name, values in seconds.items()},
        "ratio": ratio(seconds, "stage", "scikit-learn"),
    }


def stage(folder: Path, classes: int, scratch: Path, **settings) -> None:
    """The clusters stage over the latents in ``folder``."""
    names = [str(c) for c in range(classes)]
    with tempfile.TemporaryDirectory(dir=scratch) as out:
        cluster(
            resolve(out), resolve(folder), names, MAX_ROWS, ClusterSettings(k_max=K_MAX, n_init=N_INIT, **settings), 0
        )


def kmeans_only(latents: np.ndarray) -> list[float]:
    with threadpool_limits(1):
        return [
            KMeans(k, n_init=N_INIT, random_state=0, algorithm="lloyd").fit(latents).inertia_
            for k in range(1, K_MAX + 1)
        ]


def end_to_end(latents: np.ndarray) -> None:
    """The k of the elbow, and the Ledoit–Wolf distribution of each of its clusters in form of a distance factor."""
    with threadpool_limits(1):
        fits = [KMeans(k, n_init=N_INIT, random_state=0, algorithm="lloyd").fit(latents) for k in range(1, K_MAX + 1)]
        best = fits[choose_k([fit.inertia_ for fit in fits]) - 1]
        for k in range(best.n_clusters):
            covariance = ledoit_wolf(latents[best.labels_ == k].astype(np.float64))[0]
            np.linalg.eigh(covariance)


def planted(rows: int, dim: int, seed: int) -> np.ndarray:
    """Four clusters with variances that fall as 1/i along random axes, their centres about two radii apart."""
    rng = np.random.default_rng(seed)
    scale = (np.arange(1, dim + 1) ** -0.5).astype(np.float32)
    axes = np.linalg.qr(rng.normal(size=(dim, dim)).astype(np.float32))[0]
    centres = 2 * rng.normal(size=(4, dim)).astype(np.float32)
    return (centres[rng.integers(4, size=rows)] + rng.normal(size=(rows, dim)).astype(np.float32)) * scale @ axes


def write(folder: Path, label: int, parts: list[np.ndarray]) -> None:
    place = folder / PARTS / f"label={label}"
    place.mkdir(parents=True)
    first = label * sum(map(len, parts))
    for i, part in enumerate(parts):
        column = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), part.shape[1])
        pq.write_table(
            pa.table({"row": np.arange(first, first + len(part)), "latent": column}), place / f"{i:04d}.parquet"
        )
        first += len(part)


def growth(scratch: Path, repeats: int) -> dict:
    """Seconds and memory of a class of many blocks, by its rows."""
    lines = []
    for rows in GROWTH:
        folder = scratch / f"growth-{rows}"
        # The same distribution at every size.
        write(folder, 0, np.array_split(planted(rows, GROWTH_DIM, 0), -(-rows * GROWTH_DIM * 4 // (BLOCK_MB << 20))))
        with _Watch() as watch:
            seconds = in_turn({"stage": lambda: stage(folder, 1, scratch, block_mb=BLOCK_MB)}, repeats)["stage"]  # noqa: B023
        lines.append({"rows": rows, "seconds": [round(value, 2) for value in seconds], "worker_mb": watch.peak >> 20})
        print(lines[-1], flush=True)
    x, y = np.log([line["rows"] for line in lines]), np.log([median(line["seconds"]) for line in lines])
    return {"features": GROWTH_DIM, "block_mb": BLOCK_MB, "sizes": lines, "exponent": round(np.polyfit(x, y, 1)[0], 3)}


class _Watch:
    """The largest private memory of any Ray worker while the block runs; the object store is shared, not counted."""

    def __enter__(self):
        self.peak, self.stop = 0, threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()

    def _look(self) -> None:
        while not self.stop.wait(0.2):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    if process.joinpath("cmdline").read_bytes().startswith(b"ray::"):
                        lines = process.joinpath("smaps_rollup").read_text().splitlines()
                        kilobytes = sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
                        self.peak = max(self.peak, kilobytes << 10)
                except OSError:
                    continue  # it ended, or is another user's


def table(results: dict) -> str:
    lines = ["| latents | this stage | scikit-learn | ratio |", "|---|---|---|---|"]
    for name in ("run", "synthetic"):
        part = results[name]
        times = " | ".join(f"{median(values):.1f} s" for values in part["seconds"].values())
        what = f"{part['classes']} classes, {part['rows']:,} × {part['features']}"
        lines.append(f"| {what} | {times} | **{part['ratio']:.2f}** |")
    grown = results["growth"]
    lines += ["", "| rows of one class | seconds | largest worker |", "|---|---|---|"]
    for line in grown["sizes"]:
        lines.append(
            f"| {line['rows']:,} × {grown['features']} | {median(line['seconds']):.1f} | {line['worker_mb']} MB |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
