"""Sparse coding side by side with sporco: one JSON line per case, ratios of medians, both sides in the same run.

    python benchmarks/csc.py --data DIR [--repeat 3] [--out benchmarks/results/csc.jsonl]

DIR holds ``cifar10/train-0.parquet`` and ``imagenette224/val.parquet``. Dictionaries are those of the shipped bundle
(64 colour atoms of 8×8), signals the high parts of images. Both sides stop at rel_tol 5e-3, with sporco's own defaults
otherwise; ``excess`` is our mean objective over sporco's, minus 1. ``sporco_unsolved`` counts the images where sporco
came to its 1,000 iterations first; where it is not 0, the speedup compares a solution with none. Both cores work on
either side: sporco codes a batch in a pool of processes, one image with threads in its FFTs.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

import raypurify
from raypurify.csc import learn_dictionary, solve_cbpdn, tikhonov_split
from raypurify.images import decode_image, to_float

REL_TOL, MAX_ITER, CORES = 5e-3, 1000, 2
RESULTS = Path(__file__).parent / "results" / "csc.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(CORES)
    bank = raypurify.load("cifar10").dictionaries
    small = high_parts(arguments.data / "cifar10" / "train-0.parquet", 192)
    large = high_parts(arguments.data / "imagenette224" / "val.parquet", 1)
    with ProcessPoolExecutor(CORES, mp_context=get_context("spawn")) as pool, arguments.out.open("w") as out:
        for record in cases(bank, small, large, pool, arguments.repeat):
            line = json.dumps(record | {"cores": CORES}, ensure_ascii=False)
            print(line, flush=True)
            out.write(line + "\n")


def cases(bank, small, large, pool, repeat: int):
    one, index = bank[0], torch.arange(64) % len(bank)
    for lmbda in (0.2, 0.05, 0.5):
        yield against_sporco(f"32², batch 64, λ = {lmbda}", one, small[:64], lmbda, pool, repeat)
    mixed = lambda: solve_cbpdn(bank, small[:64], rel_tol=REL_TOL, index=index)  # noqa: E731
    single = lambda: solve_cbpdn(one, small[:64], rel_tol=REL_TOL)  # noqa: E731
    often = 5 * repeat
    times = in_turn({"mixed": mixed, "single": single}, often)
    yield {
        "case": f"32², batch 64, {len(bank)} dictionaries mixed",
        "time_over_one_dictionary": ratio(times, "mixed", "single"),
        "repeat": often,
    }
    yield against_sporco("224², batch 1, λ = 0.2", one, large, 0.2, None, repeat)
    yield learning(small[:128], small[128:160])


def against_sporco(case: str, atoms, signals, lmbda: float, pool, repeat: int) -> dict:
    images = [(atoms.numpy(), signal.numpy(), lmbda, 1 if pool else CORES) for signal in signals]
    run = pool.map if pool else map
    chunk = {"chunksize": 4} if pool else {}
    found: dict[str, float] = {}

    def peer() -> None:
        objectives, iterations = zip(*run(sporco_code, images, **chunk))
        found["sporco"], found["unsolved"] = float(np.mean(objectives)), sum(n >= MAX_ITER for n in iterations)

    def ours() -> None:
        found["raypurify"] = float(solve_cbpdn(atoms, signals, lmbda=lmbda, rel_tol=REL_TOL).objective.mean())

    times = in_turn({"sporco": peer, "raypurify": ours}, repeat)
    excess = found["raypurify"] / found["sporco"] - 1
    return {
        "case": case,
        "images": len(images),
        "speedup": ratio(times, "sporco", "raypurify"),
        "excess": round(excess, 5),
        "sporco_unsolved": int(found["unsolved"]),
        "repeat": repeat,
    }


def sporco_code(job) -> tuple[float, int]:
    """Objective and iterations of one image."""
    import sporco.fft
    from sporco.admm.cbpdn import ConvBPDN

    atoms, signal, lmbda, threads = job
    sporco.fft.pyfftw_threads = threads
    options = ConvBPDN.Options({"MaxMainIter": MAX_ITER, "RelStopTol": REL_TOL})
    solver = ConvBPDN(atoms.transpose(2, 3, 1, 0), signal.transpose(1, 2, 0), lmbda, options, dimK=0)
    codes = solver.solve()
    misfit = solver.reconstruct(codes).squeeze() - signal.transpose(1, 2, 0)
    return float(0.5 * (misfit**2).sum() + lmbda * np.abs(codes).sum()), solver.getitstat().Iter[-1] + 1


def learning(signals, held_out) -> dict:
    """One pass over the images from the same random patches, timed once; the objective is on held-out images."""
    from sporco.dictlrn.onlinecdl import OnlineConvBPDNDictLearn

    from raypurify.csc.learning import _random_patches

    start = _random_patches(signals.numpy(), 64, 8, np.random.default_rng(0))

    def peer():
        options = OnlineConvBPDNDictLearn.Options({"CBPDN": {"RelStopTol": REL_TOL, "MaxMainIter": 200}})
        learner = OnlineConvBPDNDictLearn(start.transpose(2, 3, 1, 0), 0.2, options, dimK=0)
        for signal in signals.numpy():
            learner.solve(signal.transpose(1, 2, 0), dimK=0)
        return torch.from_numpy(learner.getdict().squeeze(3).transpose(3, 2, 0, 1).astype(np.float32).copy())

    seconds, objective = {}, {}
    for name, learn in (("sporco", peer), ("raypurify", lambda: learn_dictionary(signals))):
        begun = time.perf_counter()
        atoms = learn()
        seconds[name] = time.perf_counter() - begun
        objective[name] = round(float(solve_cbpdn(atoms, held_out, rel_tol=1e-3).objective.mean()), 4)
    speedup = round(seconds["sporco"] / seconds["raypurify"], 1)
    return {
        "case": "learn 64 atoms from 128 images of 32²",
        "speedup": speedup,
        "held_out_objective": objective,
        "repeat": 1,
    }


def in_turn(sides: dict[str, Callable[[], object]], repeat: int) -> dict[str, list[float]]:
    """Seconds of every side, taken in turn after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(repeat + 1):
        for name, run in sides.items():
            begun = time.perf_counter()
            run()
            if round_:
                times[name].append(time.perf_counter() - begun)
    return times


def ratio(times: dict[str, list[float]], above: str, below: str) -> float:
    return round(statistics.median(times[above]) / statistics.median(times[below]), 2)


def high_parts(path: Path, count: int) -> torch.Tensor:
    rows = next(pq.ParquetFile(path).iter_batches(count, columns=["image"]))
    images = np.stack([to_float(decode_image(data).pixels) for data in rows["image"].to_pylist()])
    return tikhonov_split(torch.from_numpy(images))[1]


if __name__ == "__main__":
    main()
