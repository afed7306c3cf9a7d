"""Dictionaries on two actors against one: the same clusters, learned in turn in one Ray session.

    python benchmarks/dictionaries.py --run-dir RUN [--clusters 16] [--images 1000] [--repeat 3]

RUN is the directory of a ``raypurify fit``; its largest clusters are learned anew, in a temporary folder. Two figures:
the whole stage, in which the images are fetched and processes start, and the learning alone, from when every actor has
finished its first cluster to the last one. The medians of the rounds are compared, after one that does not count. 1,000
images a cluster are those of preset "paper"; with fewer, the start of the processes weighs more in the first figure.
"""

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path

import numpy as np
from timing import in_turn, ratio

from raypurify.config import CscSettings, DictionarySettings
from raypurify.fit.dictionaries import learn_dictionaries
from raypurify.runtime.session import ray_session
from raypurify.storage import resolve

RESULTS = Path(__file__).parent / "results" / "dictionaries.json"
ACTORS = (1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--clusters", type=int, default=16)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    # Both actors must fit, and one CPU is left to others.
    with ray_session(num_cpus=max(4, os.cpu_count() or 1)):
        results = measure(arguments.run_dir, arguments.clusters, arguments.images, arguments.repeat)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def measure(run: Path, clusters: int, images: int, repeat: int) -> dict:
    stage = json.loads((run / "dictionaries" / "stage.json").read_text())["settings"]
    side = json.loads((run / "prepare" / "stage.json").read_text())["settings"]["data"]["image_size"]
    settings = DictionarySettings(**stage["dictionaries"] | {"images": images})
    cluster_of_row, classes = largest(run, clusters)
    rates: dict[str, list[float]] = {str(actors): [] for actors in ACTORS}

    def learn(actors: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            chosen = settings.model_copy(update={"actors": actors})
            arguments = (cluster_of_row, classes, side, CscSettings(**stage["csc"]), chosen, stage["seed"])
            learn_dictionaries(resolve(folder), resolve(run / "prepare"), *arguments)
            done = sorted(path.stat().st_mtime_ns for path in Path(folder).glob("*.safetensors"))
            rates[str(actors)].append((len(classes) - actors) * 1e9 / (done[-1] - done[actors - 1]))

    times = in_turn({str(actors): lambda actors=actors: learn(actors) for actors in ACTORS}, repeat)
    speed = {name: statistics.median(values[1:]) for name, values in rates.items()}
    calibrated = json.loads((run / "calibrate" / "stage.json").read_text())
    return {
        "command": f"python benchmarks/dictionaries.py --run-dir RUN --clusters {clusters} --images {images}"
        f" --repeat {repeat}",
        "run": calibrated["settings"]["name"],
        "bundle": calibrated["report"]["digest"],
        "cores": os.cpu_count(),
        "clusters": len(classes),
        "images_per_cluster": images,
        "side": side,
        "atoms": settings.atoms,
        "engine": settings.engine,
        "repeat": repeat,
        "seconds_of_the_stage": {name: [round(value, 2) for value in values] for name, values in times.items()},
        "speedup_of_the_stage": ratio(times, *map(str, ACTORS)),
        "clusters_per_second": {name: round(value, 3) for name, value in speed.items()},
        "speedup_of_the_learning": round(speed["2"] / speed["1"], 2),
    }


def largest(run: Path, count: int) -> tuple[np.ndarray, list[int]]:
    """The largest clusters of a run: ``cluster_of_row`` (rows,), −1 for all other images, and the class of each."""
    facts = json.loads((run / "clusters" / "clusters.json").read_text())
    chosen = np.argsort(-np.array(facts["sizes"]), kind="stable")[:count]
    number = np.full(len(facts["sizes"]) + 1, -1)
    number[chosen] = np.arange(len(chosen))
    # The last entry is for −1, the images of no cluster.
    return number[np.load(run / "clusters" / "cluster_of_row.npy")], [facts["cluster_class"][k] for k in chosen]


if __name__ == "__main__":
    main()
