"""Sparse coding on one GPU: milliseconds an image, and the share of what its memory allows.

    python benchmarks/csc_gpu.py --data DIR [--repeat 5] [--out benchmarks/results/csc_gpu.jsonl]

DIR holds ``cifar10/train-0.parquet`` and ``imagenette224/val.parquet``. Dictionaries are those of the shipped bundle
(64 colour atoms of 8×8), signals the high parts of images, rel_tol 5e-3; images and dictionaries are on the GPU before
and after. ``one``: all images share a dictionary; ``own``: each has one of the bundle's. The floor is one reading and
one writing of an image's coefficients (M·H·W float32) an iteration, at the bandwidth of a copy on that GPU, which is
measured first. ``excess`` is the mean objective over that of the CPU's coordinate descent, minus 1, on at most 4
images. One JSON line per case; ``--table`` prints a results file as Markdown.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

import torch
from csc_signals import REL_TOL, high_parts
from torch import Tensor

import raypurify
from raypurify.csc import solve_cbpdn
from raypurify.evaluation.clock import clock

RESULTS = Path(__file__).parent / "results" / "csc_gpu.jsonl"
SETS = {224: ("imagenette224/val.parquet", (1, 4, 16, 64)), 32: ("cifar10/train-0.parquet", (1, 64, 1024))}
# Numbers of a copied array: 4 GiB, many times any cache.
COPIED = 1 << 30
LARGEST = 48 << 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        print(table([json.loads(line) for line in arguments.out.read_text("utf-8").splitlines()]))
        return
    if arguments.data is None:
        parser.error("give --data")
    if not torch.cuda.is_available():
        sys.exit("this benchmark needs a CUDA GPU")
    gpu, bandwidth = torch.cuda.get_device_name(), copy_bandwidth()
    with arguments.out.open("w", encoding="utf-8") as out:
        for record in cases(arguments.data, arguments.repeat, bandwidth):
            line = json.dumps({"gpu": gpu, "bandwidth": round(bandwidth / 1e12, 2)} | record, ensure_ascii=False)
            print(line, flush=True)
            out.write(line + "\n")


def cases(data: Path, repeat: int, bandwidth: float):
    bank = raypurify.load("cifar10").dictionaries
    for side, (file, batches) in SETS.items():
        signals = high_parts(data, file, max(batches)).cuda()
        for count in batches:
            some = signals[:count]
            for which, own in (("one", None), ("own", torch.arange(count, device="cuda") % len(bank))):
                atoms = (bank if which == "own" else bank[0]).cuda()
                yield {"case": f"{side}², batch {count}, {which}"} | measured(atoms, some, own, repeat, bandwidth)


def measured(atoms: Tensor, signals: Tensor, index: Tensor | None, repeat: int, bandwidth: float) -> dict:
    def run():
        return solve_cbpdn(atoms, signals, rel_tol=REL_TOL, index=index, max_bytes=LARGEST)

    torch.cuda.reset_peak_memory_stats()
    seconds = [timed(run) for _ in range(repeat + 1)][1:]
    found, middle = run(), statistics.median(seconds)
    few = slice(0, 4)
    here = solve_cbpdn(
        atoms.cpu(), signals[few].cpu(), rel_tol=REL_TOL, index=None if index is None else index[few].cpu()
    )
    array = 4 * atoms.shape[-4] * signals.shape[-2] * signals.shape[-1]
    floor = 2 * array * int(found.iterations.sum()) / bandwidth
    return {
        "ms_per_image": round(1e3 * middle / len(signals), 3),
        "spread": [round(1e3 * t / len(signals), 3) for t in (min(seconds), max(seconds))],
        "iterations": round(float(found.iterations.float().mean()), 1),
        "share_of_floor": round(floor / middle, 3),
        "peak_gigabytes": round(torch.cuda.max_memory_allocated() / 1e9, 2),
        "converged": bool(found.converged.all()),
        "excess": round(float(found.objective[few].mean()) / float(here.objective.mean()) - 1, 5),
        "repeat": repeat,
    }


def timed(run) -> float:
    begun = clock()
    run()
    return clock() - begun


def copy_bandwidth() -> float:
    """Bytes per second, read and written."""
    source = torch.rand(COPIED, device="cuda")
    target = torch.empty_like(source)
    return 8 * COPIED / statistics.median(timed(lambda: target.copy_(source)) for _ in range(9))


def table(records: list[dict]) -> str:
    """The cases as Markdown."""
    rows = ["| case | ms an image | iterations | share of the memory floor |", "|---|---|---|---|"]
    for r in records:
        rows.append(
            f"| {r['case']} | {r['ms_per_image']:.2f} | {r['iterations']:.0f} | {100 * r['share_of_floor']:.0f} % |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
