"""What STL's strata take of one process: PCA, k-means and the vote that says how well the kept features stand for all.

    python benchmarks/strata_fit.py --data DIR [--out benchmarks/results/strata_fit.json]

DIR holds ``cifar10/train-*.parquet``. Rows are codes of 20,000 training images by the auto-encoder of ``cifar10-stl``,
drawn with replacement, each with Gaussian noise of half its column's deviation, so that a million are no two alike.
They are found strata for at the preset's settings (4 strata, 128 components, 10 starts, 10,000 features kept), by one
thread, each number of rows in a process of its own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from dictionary_bundles import training_images
from processes import machine, peak_memory

import raypurify
from raypurify.clusters import fit_strata
from raypurify.evaluation.clock import clock
from raypurify.files import write_json

RESULTS = Path(__file__).parent / "results" / "strata_fit.json"
ROWS, IMAGES = (10_000, 100_000, 1_000_000), 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--codes", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.rows:
        print(json.dumps(measure(np.load(arguments.codes), arguments.rows)))
        return
    with tempfile.TemporaryDirectory() as folder:
        codes = Path(folder) / "codes.npy"
        np.save(codes, codes_of(arguments.data))
        found = {}
        for rows in ROWS:
            command = [sys.executable, __file__, "--data", arguments.data, "--codes", codes, "--rows", str(rows)]
            told = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
            found[str(rows)] = json.loads(told.splitlines()[-1])
            print(rows, found[str(rows)], flush=True)
    write_json(arguments.out, {"machine": machine(), "threads": 1, "rows": found})


def codes_of(data: Path) -> np.ndarray:
    """Codes (n, d) of training images."""
    stl = raypurify.load("cifar10-stl")
    with torch.no_grad():
        return torch.cat([stl.latents(some) for some in training_images(data, stl, IMAGES).split(500)]).numpy()


def measure(codes: np.ndarray, rows: int) -> dict:
    """The figures of this process."""
    settings, draw = raypurify.load("cifar10-stl").settings.strata, np.random.default_rng(0)
    latents = codes[draw.integers(len(codes), size=rows)]
    spread = codes.std(0) / 2
    for start in range(0, rows, 10_000):
        part = latents[start : start + 10_000]
        part += spread * draw.standard_normal(part.shape, np.float32)
    before = peak_memory()
    begun = clock()
    found = fit_strata(latents, settings)
    return {
        "seconds": round(clock() - begun, 1),
        "latents_mb": round(latents.nbytes / 1e6),
        "more_mb": round((peak_memory() - before) / 1e6),
        "strata": found.strata.count,
        "agreement": round(found.agreement, 4),
    }


if __name__ == "__main__":
    main()
