"""Purification as the obvious script: a pool of processes, sporco and Pillow. What ``bulk.py`` compares jobs with.

    python benchmarks/obvious_script.py IN OUT SETTINGS.npz [--processes 2]

Every PNG of the folder IN becomes one of the same name in OUT. SETTINGS.npz holds ``dictionaries`` (K, M, 3, h, w), the
``cluster`` and the ``lmbda`` of each image in the order of names, which somebody has found before, and ``rel_tol``,
``tikhonov``, ``pad`` and the bound ``gain`` of the refit (1: none). Prints the seconds, without imports, and how many
images sporco gave up on.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # NumPy's libraries read it at import; the processes share the cores already

import argparse
import json
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import sporco.fft
from PIL import Image
from sporco.admm.cbpdn import ConvBPDN
from sporco.signal import tikhonov_filter

MAX_ITER = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("source", "target", "settings"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    begun = time.perf_counter()
    iterations = purify_folder(arguments.source, arguments.target, arguments.settings, arguments.processes)
    seconds, unsolved = time.perf_counter() - begun, sum(count >= MAX_ITER for count in iterations)
    print(json.dumps({"images": len(iterations), "seconds": seconds, "unsolved": unsolved}))


def purify_folder(source: Path, target: Path, settings: Path, processes: int) -> list[int]:
    """Purify every PNG of a folder; returns the iterations of each."""
    target.mkdir(parents=True, exist_ok=True)
    known = np.load(settings)
    dictionaries, numbers = known["dictionaries"], [float(known[name]) for name in ("rel_tol", "tikhonov", "gain")]
    pad, paths = int(known["pad"]), sorted(source.glob("*.png"))
    images = zip(paths, known["cluster"], known["lmbda"].tolist(), strict=True)
    jobs = [(path, target / path.name, dictionaries[k], lmbda, *numbers, pad) for path, k, lmbda in images]
    # Forked, so that no process has to import anything again.
    with get_context("fork").Pool(processes) as pool:
        return pool.map(purify_file, jobs, chunksize=1)


def purify_file(job: tuple) -> int:
    """Purify one image: its low-pass as it is, the rest as sparse code over the dictionary of its cluster."""
    path, target, atoms, lmbda, rel_tol, tikhonov, most, pad = job
    sporco.fft.pyfftw_threads = 1
    image = np.asarray(Image.open(path).convert("RGB"), np.float32) / 255
    low, high = tikhonov_filter(image, tikhonov, pad)
    options = ConvBPDN.Options({"MaxMainIter": MAX_ITER, "RelStopTol": rel_tol})
    solver = ConvBPDN(atoms.transpose(2, 3, 1, 0), high, lmbda, options, dimK=0)
    coded = solver.reconstruct(solver.solve()).squeeze()
    coded *= np.clip((coded * high).sum() / max((coded * coded).sum(), 1e-30), 1, most)
    Image.fromarray(np.uint8(255 * np.clip(low + coded, 0, 1) + 0.5)).save(target)
    return solver.getitstat().Iter[-1] + 1


if __name__ == "__main__":
    main()
