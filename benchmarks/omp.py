"""Orthogonal matching pursuit of many patches: this package's against those that can be installed.

    python benchmarks/omp.py [--out FILE] [--signals 2048] [--repeats 5]

Signals of 192 numbers, as patches of 8×8 in three colours, random atoms of norm 1, float64, one thread. Of each side
the least of ``--repeats`` times in turn, with what it takes to give the rebuilt signals; ``away`` is the greatest
difference of these from scikit-learn's, ``of_zero`` what becomes of a signal of zeros, as an image of one colour has.
Those of orthogonal-matching-pursuit-gpu are in the results where that is installed.
"""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import orthogonal_mp_gram
from threadpoolctl import threadpool_limits
from torch import Tensor

from raypurify.evaluation.clock import clock
from raypurify.patches.omp import coded, pursue

RESULTS = Path(__file__).parent / "results" / "omp.json"
NUMBERS, CASES = 192, [(256, 4), (256, 8), (256, 16), (512, 8)]
Side = Callable[[Tensor, Tensor, int], Tensor]


def own(signals: Tensor, atoms: Tensor, nonzeros: int) -> Tensor:
    return coded(signals, atoms, pursue(signals, atoms, nonzeros))


def scikit_learn(signals: Tensor, atoms: Tensor, nonzeros: int) -> Tensor:
    gram, products = (atoms @ atoms.T).numpy(), (atoms @ signals.T).numpy()
    codes = orthogonal_mp_gram(gram, products, n_nonzero_coefs=nonzeros)
    return torch.from_numpy(codes.reshape(len(atoms), -1).T) @ atoms


def others() -> dict[str, Side]:
    """The ways of orthogonal-matching-pursuit-gpu, none where it is not installed."""
    try:
        from orthogonal_matching_pursuit_gpu.omp import run_omp
    except ImportError:
        return {}

    def way(name: str) -> Side:
        def side(signals: Tensor, atoms: Tensor, nonzeros: int) -> Tensor:
            dictionary = atoms.T.contiguous()
            return run_omp(dictionary, signals, nonzeros, normalize=False, fit_intercept=False, alg=name) @ atoms

        return side

    return {f"orthogonal-matching-pursuit-gpu, {name}": way(name) for name in ("naive", "v0", "v0_blas")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--signals", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sides: dict[str, Side] = {"own": own, "scikit-learn": scikit_learn, **others()}
    found = []
    with threadpool_limits(1), np.errstate(all="ignore"):
        for count, nonzeros in CASES:
            generator = torch.Generator().manual_seed(0)
            atoms = torch.randn(count, NUMBERS, generator=generator).double()
            atoms /= atoms.norm(dim=1, keepdim=True)
            signals = torch.randn(arguments.signals, NUMBERS, generator=generator).double()
            seconds: dict[str, list[float]] = {name: [] for name in sides}
            for _ in range(arguments.repeats):
                for name, side in sides.items():
                    begun = clock()
                    side(signals, atoms, nonzeros)
                    seconds[name].append(clock() - begun)
            truth, least = scikit_learn(signals, atoms, nonzeros), min(seconds["own"])
            for name, side in sides.items():
                row: dict[str, Any] = {"atoms": count, "nonzeros": nonzeros, "side": name}
                row["ms"] = round(1000 * min(seconds[name]), 1)
                row["over_own"] = round(min(seconds[name]) / least, 2)
                row["away"] = float(f"{float((side(signals, atoms, nonzeros) - truth).abs().max()):.1g}")
                row["of_zero"] = of_zero(side, atoms, nonzeros)
                found.append(row)
                print(row, flush=True)
    about = {"signals": arguments.signals, "numbers": NUMBERS, "repeats": arguments.repeats, "cpus": os.cpu_count()}
    rows = ",\n  ".join(json.dumps(row) for row in found)
    arguments.out.write_text(f'{json.dumps(about)[:-1]},\n "rows": [\n  {rows}\n ]}}\n', "utf-8")


def of_zero(side: Side, atoms: Tensor, nonzeros: int) -> str:
    try:
        done = side(torch.zeros(2, NUMBERS).double(), atoms, nonzeros)
    except Exception as error:
        return type(error).__name__
    return "zero" if not done.any() else "NaN" if done.isnan().any() else "not zero"


if __name__ == "__main__":
    main()
