"""Sparse coding on one GPU: milliseconds an image, and the share of what its memory and its matrix units allow.

    python benchmarks/csc_gpu.py --data DIR [--repeat 5] [--out benchmarks/results/csc_gpu.jsonl]

DIR holds ``cifar10/train-0.parquet`` and ``imagenette224/val.parquet``. Dictionaries are those of the shipped bundle
(64 colour atoms of 8×8), signals the high parts of images, rel_tol 5e-3; images and dictionaries are on the GPU before
and after. ``one``: all images share a dictionary; ``own``: each has one of the bundle's. Every case is solved by ADMM
and by descent, which gives sparse codes. ADMM's floor is one reading and one writing of an image's coefficients (M·H·W
float32) an iteration, at the bandwidth of a copy on that GPU. Descent's is the longer of two: a round's correlation of
the residual with every atom (2·M·C·h·w operations a pixel), at the speed of a product of two matrices of 8192² in
bfloat16; and a round's reading of the signal and writing of the residual, its reading for the correlation, and its
reading and writing in the descent (5·C float32 a pixel), at the bandwidth. Both speeds are measured first. ``excess``
is the mean objective over that of the CPU's coordinate descent, minus 1, on at most 4 images; ``violation`` the largest
that is left, in units of λ; ``peak_gigabytes`` what torch had allocated at most, images and codes too. One JSON line a
case and method; ``--table`` prints a results file as Markdown. Records without a method are ADMM's.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

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
# Side of the matrices whose product is timed, and how often they are multiplied.
SIDE, PRODUCTS = 8192, 10


class Speeds(NamedTuple):
    """Bytes read and written a second, and operations a second in bfloat16."""

    bandwidth: float
    operations: float


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
    speeds = Speeds(copy_bandwidth(), product_speed())
    machine = {"gpu": torch.cuda.get_device_name(), "bandwidth": round(speeds.bandwidth / 1e12, 2)}
    machine["teraflops"] = round(speeds.operations / 1e12, 1)
    # Earlier results stay until all cases are there.
    unfinished = arguments.out.with_suffix(".part")
    with unfinished.open("w", encoding="utf-8") as out:
        for record in cases(arguments.data, arguments.repeat, speeds):
            line = json.dumps(machine | record, ensure_ascii=False)
            print(line, flush=True)
            print(line, file=out, flush=True)
    unfinished.replace(arguments.out)


def cases(data: Path, repeat: int, speeds: Speeds):
    bank = raypurify.load("cifar10").dictionaries
    for side, (file, batches) in SETS.items():
        signals = high_parts(data, file, max(batches)).cuda()
        for count in batches:
            some = signals[:count]
            for which, own in (("one", None), ("own", torch.arange(count, device="cuda") % len(bank))):
                atoms = (bank if which == "own" else bank[0]).cuda()
                few = slice(0, 4)
                index = None if own is None else own[few].cpu()
                here = solve_cbpdn(atoms.cpu(), some[few].cpu(), rel_tol=REL_TOL, method="cd", index=index)
                for method in ("admm", "cd"):
                    measures = measured(atoms, some, own, method, repeat, speeds, float(here.objective.mean()))
                    yield {"case": f"{side}², batch {count}, {which}", "method": method} | measures


def measured(
    atoms: Tensor, signals: Tensor, index: Tensor | None, method: str, repeat: int, speeds: Speeds, objective: float
) -> dict:
    options = {"index": index, "method": method, "sparse": method == "cd", "max_bytes": LARGEST}

    def run():
        return solve_cbpdn(atoms, signals, rel_tol=REL_TOL, **options)

    torch.cuda.reset_peak_memory_stats()
    seconds = [timed(run) for _ in range(repeat + 1)][1:]
    found, middle = run(), statistics.median(seconds)
    floor = (descent_floor if method == "cd" else admm_floor)(atoms, signals, found.iterations.cpu(), speeds)
    return {
        "ms_per_image": round(1e3 * middle / len(signals), 4),
        "spread": [round(1e3 * t / len(signals), 4) for t in (min(seconds), max(seconds))],
        "iterations": round(float(found.iterations.float().mean()), 1),
        "share_of_floor": round(floor / middle, 3),
        "peak_gigabytes": round(torch.cuda.max_memory_allocated() / 1e9, 2),
        "converged": bool(found.converged.all()),
        "violation": round(float(found.residual.max()), 4),
        "excess": round(float(found.objective[:4].mean()) / objective - 1, 5),
        "repeat": repeat,
    }


def admm_floor(atoms: Tensor, signals: Tensor, iterations: Tensor, speeds: Speeds) -> float:
    """Seconds to read and write all coefficients once an iteration."""
    array = 4 * atoms.shape[-4] * signals.shape[-2] * signals.shape[-1]
    return 2 * array * int(iterations.sum()) / speeds.bandwidth


def descent_floor(atoms: Tensor, signals: Tensor, rounds: Tensor, speeds: Speeds) -> float:
    """Seconds to correlate all pixels with all atoms once a round, or to go five times over the residual, if longer.

    The screening that finds an image finished is one more than there are rounds.
    """
    pixels = signals.shape[-2] * signals.shape[-1] * int((rounds + 1).sum())
    operations, numbers = 2 * atoms.shape[-4] * atoms.shape[-3:].numel(), 5 * signals.shape[1]
    return max(operations * pixels / speeds.operations, 4 * numbers * pixels / speeds.bandwidth)


def timed(run) -> float:
    begun = clock()
    run()
    return clock() - begun


def copy_bandwidth() -> float:
    """Bytes per second, read and written."""
    source = torch.rand(COPIED, device="cuda")
    target = torch.empty_like(source)
    return 8 * COPIED / statistics.median(timed(lambda: target.copy_(source)) for _ in range(9))


def product_speed() -> float:
    """Operations per second of a product of matrices in bfloat16, added in float32."""
    one, other = (torch.rand(SIDE, SIDE, device="cuda", dtype=torch.bfloat16) for _ in range(2))

    def products():
        for _ in range(PRODUCTS):
            one @ other

    return 2 * PRODUCTS * SIDE**3 / statistics.median(timed(products) for _ in range(9))


def table(records: list[dict]) -> str:
    """The cases as Markdown: by ADMM, and by descent where that was measured."""
    admm = [r for r in records if r.get("method", "admm") == "admm"]
    descent = [r for r in records if r.get("method") == "cd"]
    rows = ["| case | ms an image | iterations | share of the memory floor |", "|---|---|---|---|"]
    for r in admm:
        rows.append(
            f"| {r['case']} | {r['ms_per_image']:.2f} | {r['iterations']:.0f} | {100 * r['share_of_floor']:.0f} % |"
        )
    if descent:
        rows += [
            "",
            "| case, by descent | ms an image | rounds | share of the floor | peak memory | objective over the CPU's |",
            "|---|---|---|---|---|---|",
        ]
    for r in descent:
        rows.append(
            f"| {r['case']} | {r['ms_per_image']:.3f} | {r['iterations']:.0f} | {100 * r['share_of_floor']:.0f} % | "
            f"{r['peak_gigabytes']:.2f} GB | {100 * r['excess']:+.2f} % |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
