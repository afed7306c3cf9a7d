"""Sparse coding side by side with sporco: one JSON line per case, ratios of medians, both sides in the same run.

    python benchmarks/csc.py --data DIR [--repeat 3] [--only PART] [--add] [--out benchmarks/results/csc.jsonl]

DIR holds ``cifar10/train-0.parquet`` and ``imagenette224/val.parquet``. Dictionaries are those of the shipped bundle
(64 colour atoms of 8×8), signals the high parts of images. Both sides stop at rel_tol 5e-3, with sporco's own defaults
otherwise; ``excess`` is our mean objective over sporco's, minus 1. ``sporco_unsolved`` counts the images where sporco
came to its 1,000 iterations first; where it is not 0, the speedup compares a solution with none. Both cores work on
either side: sporco codes a batch in a pool of processes, one image with threads in its FFTs. Parts: small, mixed,
large, memory, photo, learning, and of ``csc_peers`` grey-64, grey-128, colour-64; ``repeat`` in a line is how often its
case was timed. ``--add`` adds lines to the file instead of writing it anew.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import csc_peers
import numpy as np
import torch
from csc_learning import learning
from csc_memory import in_fresh_process
from csc_signals import CORES, REL_TOL, high_parts
from timing import in_turn, ratio

import raypurify
from raypurify.csc import solve_cbpdn

MAX_ITER = 1000
RESULTS = Path(__file__).parent / "results" / "csc.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--add", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the tables of a results file and stop")
    arguments = parser.parse_args()
    if arguments.table:
        records = [json.loads(line) for line in arguments.out.read_text("utf-8").splitlines()]
        print(table(records), csc_peers.table(records), sep="\n\n")
        return
    if arguments.data is None:
        parser.error("--data is needed")
    torch.set_num_threads(CORES)
    with (
        ProcessPoolExecutor(CORES, mp_context=get_context("spawn")) as pool,
        arguments.out.open("a" if arguments.add else "w") as out,
    ):
        for name, part in PARTS.items():
            if arguments.only in (None, name):
                for record in part(arguments.data, pool, arguments.repeat):
                    line = json.dumps(record | {"cores": CORES}, ensure_ascii=False)
                    print(line, flush=True)
                    out.write(line + "\n")


def table(records: list[dict]) -> str:
    """The cases against sporco as Markdown."""
    rows = ["| case | times as fast as sporco | objective against sporco's |", "|---|---|---|"]
    for record in records:
        if "excess" in record:
            unsolved = record["sporco_unsolved"]
            note = f" (sporco gave up on {unsolved} of {record['images']})" if unsolved else ""
            rows.append(f"| {record['case']} | {record['speedup']:.0f}{note} | {100 * record['excess']:+.2f} % |")
    return "\n".join(rows)


def small(data: Path, pool, repeat: int):
    signals = high_parts(data, "cifar10/train-0.parquet", 64)
    for lmbda in (0.2, 0.05, 0.1, 0.5):
        yield against_sporco(f"32², batch 64, λ = {lmbda}", signals, lmbda, pool, repeat)


def mixed(data: Path, _, repeat: int):
    signals = high_parts(data, "cifar10/train-0.parquet", 64)
    bank = raypurify.load("cifar10").dictionaries
    # Thirty of the bundle, and the first ten mirrored.
    bank = torch.cat([bank, bank[:10].flip(-1)])
    index = torch.arange(64) % len(bank)
    sides = {
        "mixed": lambda: solve_cbpdn(bank, signals, rel_tol=REL_TOL, index=index),
        "single": lambda: solve_cbpdn(bank[0], signals, rel_tol=REL_TOL),
    }
    # The two solve different problems: the work of each is counted in rounds of descent.
    rounds = {name: int(run().iterations.sum()) for name, run in sides.items()}
    often = 5 * repeat
    yield {
        "case": f"32², batch 64, {len(bank)} dictionaries mixed",
        "time_over_one_dictionary": ratio(in_turn(sides, often), "mixed", "single"),
        "rounds": rounds,
        "repeat": often,
    }


def large(data: Path, pool, repeat: int):
    signals = high_parts(data, "imagenette224/val.parquet", 4)
    for lmbda in (0.2, 0.05, 0.1, 0.5):
        often = repeat if lmbda == 0.2 else 1
        yield against_sporco(f"224², batch 1, λ = {lmbda}", signals[:1], lmbda, None, often, warm=False)
    yield against_sporco("224², batch 4, λ = 0.2", signals, 0.2, pool, 1, warm=False)


def memory(data: Path, *_):
    for sparse in (False, True):
        found = in_fresh_process(str(data), (4, 1, 1), sparse)
        array = 4 * 64 * 224 * 224 * 4
        yield {
            "case": f"224², batch 4, λ = 0.2, {'sparse' if sparse else 'dense'} codes",
            "peak_over_inputs_in_coefficient_arrays": round(found["peak_bytes"] / array, 2),
            "repeat": 1,
        }


def photo(data: Path, *_):
    found = [in_fresh_process(str(data), (1, down, right), True) for down, right in ((4, 4), (8, 8), (14, 18))]
    pixels, seconds = (np.log([run[key] for run in found]) for key in ("pixels", "seconds"))
    yield {
        "case": "photo of 12.6 megapixels, λ = 0.2",
        "megapixels": [round(run["pixels"] / 1e6, 1) for run in found],
        "seconds_per_megapixel_over_the_smallest": [
            round(run["seconds"] / run["pixels"] / (found[0]["seconds"] / found[0]["pixels"]), 2) for run in found
        ],
        "exponent_of_time_in_pixels": round(float(np.polyfit(pixels, seconds, 1)[0]), 2),
        "peak_gigabytes_over_input": round(found[-1]["peak_bytes"] / 1e9, 2),
        "converged": all(run["converged"] for run in found),
        "repeat": 1,
    }


def learn(data: Path, _, repeat: int):
    signals = high_parts(data, "cifar10/train-0.parquet", 320)
    yield learning(signals[:256], signals[256:], REL_TOL, CORES, repeat)


def against_sporco(case: str, signals, lmbda: float, pool, repeat: int, warm: bool = True) -> dict:
    atoms = raypurify.load("cifar10").dictionaries[0]
    images = [(atoms.numpy(), signal.numpy(), lmbda, 1 if pool else CORES) for signal in signals]
    run = pool.map if pool else map
    chunk = {"chunksize": max(1, len(images) // 16)} if pool else {}
    found: dict[str, float] = {}

    def peer() -> None:
        objectives, iterations = zip(*run(sporco_code, images, **chunk))
        found["sporco"], found["unsolved"] = float(np.mean(objectives)), sum(n >= MAX_ITER for n in iterations)

    def ours() -> None:
        found["raypurify"] = float(solve_cbpdn(atoms, signals, lmbda=lmbda, rel_tol=REL_TOL).objective.mean())

    ours()  # compiled once per installation
    times = in_turn({"sporco": peer, "raypurify": ours}, repeat, warm)
    return {
        "case": case,
        "images": len(images),
        "speedup": ratio(times, "sporco", "raypurify"),
        "excess": round(found["raypurify"] / found["sporco"] - 1, 5),
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


PARTS = {"small": small, "mixed": mixed, "large": large, "memory": memory, "photo": photo, "learning": learn}
PARTS |= csc_peers.PARTS

if __name__ == "__main__":
    main()
