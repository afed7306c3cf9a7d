"""The elbow under resampling: does a rule choose the same number of clusters again, and does ``k_max`` decide?

    python benchmarks/elbow.py --run-dir RUN [--resamples 10] [--share 0.8] [--trials 20]

RUN is the directory of a ``raypurify fit``. Every class is clustered once as a whole and once per resample: a random
share of the images, drawn without replacement, under a k-means seed of its own. Stability alone would crown a rule that
never looks at the data, so the same rules also answer where the number of clusters is known. Every rule reads the same
WCSS curves. ``--table`` prints the tables of the results file as Markdown. With OMP_NUM_THREADS=1 it takes minutes.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from raypurify.clusters import choose_k, fit_kmeans

RESULTS = Path(__file__).parent / "results" / "elbow.json"
K_MAX = (8, 12)
DIM, PER_CLUSTER = 32, 40
PLANTED = [("equal", radius, k) for radius in (1, 8) for k in (2, 3, 4, 6, 8)] + [
    ("gaussian", 8, 6),
    ("none", 0, 1),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--resamples", type=int, default=10)
    parser.add_argument("--share", type=float, default=0.8)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        print(tables(json.loads(arguments.out.read_text())))
        return
    if arguments.run_dir is None:
        parser.error("give --run-dir")
    results = measure(arguments.run_dir, arguments.resamples, arguments.share, arguments.trials)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    print(tables(results))


def chord_of_log(curve: list[float]) -> int:
    """The chord rule on log WCSS, where the same relative gain is the same step at any height."""
    return choose_k(np.log(np.minimum.accumulate(curve) / min(curve)))


def second_difference_of_log(curve: list[float]) -> int:
    """Where the relative gain drops most from one k to the next; never the first or last k."""
    logs = np.log(np.minimum.accumulate(curve))
    return 2 + int(np.diff(logs, 2).argmax())


def pham(curve: list[float]) -> int:
    """Pham, Dimov & Nguyen 2005 in the limit of many dimensions: the k of least W_k / W_{k−1}; 1 if none is < 0.85."""
    ratios = np.array(curve[1:]) / curve[:-1]
    return 2 + int(ratios.argmin()) if ratios.min() < 0.85 else 1


RULES = {
    "chord": choose_k,
    "chord of log": chord_of_log,
    "second difference of log": second_difference_of_log,
    "Pham": pham,
}


def measure(run: Path, resamples: int, share: float, trials: int) -> dict:
    stage = json.loads((run / "clusters" / "stage.json").read_text())["settings"]
    n_init = stage["clusters"]["n_init"]
    whole, again = [], []
    for label, (_, latents) in enumerate(class_latents(run)):
        whole.append(wcss_curve(latents, n_init, stage["seed"]))
        again.append(
            [wcss_curve(part, n_init, seed) for seed, part in enumerate(parts_of(latents, resamples, share, label))]
        )
        print(f"class {label}:", {name: rule(whole[-1][: K_MAX[0]]) for name, rule in RULES.items()}, flush=True)
    calibrated = json.loads((run / "calibrate" / "stage.json").read_text())
    options = f"--resamples {resamples} --share {share} --trials {trials}"
    return {
        "command": f"python benchmarks/elbow.py --run-dir RUN {options}",
        "run": calibrated["settings"]["name"],
        "bundle": calibrated["report"]["digest"],
        "latents": "training images of each class, baseline network",
        "n_init": n_init,
        "k_max": K_MAX,
        "resamples": resamples,
        "share": share,
        "rules": {name: stability(rule, whole, again) for name, rule in RULES.items()},
        "planted": {"dim": DIM, "images_per_cluster": PER_CLUSTER, "trials": trials, "cases": planted_cases(trials)},
        "curves": [[round(value, 1) for value in curve] for curve in whole],
    }


def class_latents(run: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Row numbers (n,) and latents (n, d) of every class of a run, in the order of its labels."""
    folders = (run / "latents" / "by_class").glob("label=*")
    for folder in sorted(folders, key=lambda path: int(path.name.partition("=")[2])):
        table = pq.read_table(folder, columns=["row", "latent"], partitioning=None).sort_by("row")
        flat = table.column("latent").combine_chunks().flatten().to_numpy()
        yield table.column("row").to_numpy(), flat.reshape(len(table), -1)


def parts_of(latents: np.ndarray, count: int, share: float, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield latents[rng.permutation(len(latents))[: round(share * len(latents))]]


def wcss_curve(latents: np.ndarray, n_init: int, seed: int) -> list[float]:
    return [fit_kmeans(latents, k, n_init=n_init, seed=seed).inertia for k in range(1, max(K_MAX) + 1)]


def stability(rule, whole: list[list[float]], again: list[list[list[float]]]) -> dict:
    """What the rule answers per class, how often resamples answer the same, and how often both k_max do."""
    answers = {}
    for k_max in K_MAX:
        chosen = [rule(curve[:k_max]) for curve in whole]
        resampled = [[rule(curve[:k_max]) for curve in curves] for curves in again]
        same = sum(answer == k for k, of_class in zip(chosen, resampled) for answer in of_class)
        answers[str(k_max)] = {"whole": chosen, "resampled": resampled, "same": same}
    both = [
        sum(int(few == many) for few, many in zip(*(np.ravel(answers[str(k_max)][part]) for k_max in K_MAX)))
        for part in ("whole", "resampled")
    ]
    return {
        "k_max": answers,
        "of": sum(map(len, again)),
        "classes": len(whole),
        "classes_same_at_both_k_max": both[0],
        "resamples_same_at_both_k_max": both[1],
    }


def planted_cases(trials: int) -> list[dict]:
    cases = []
    for centres, radius, k in PLANTED:
        curves = [wcss_curve(planted(centres, radius, k, seed), 4, seed) for seed in range(trials)]
        answers = {
            name: {str(k_max): [rule(curve[:k_max]) for curve in curves] for k_max in K_MAX}
            for name, rule in RULES.items()
        }
        found = {name: {m: given.count(k) for m, given in by_max.items()} for name, by_max in answers.items()}
        cases.append({"centres": centres, "radius": radius, "clusters": k, "found": found, "answers": answers})
        print(centres, radius, k, found, flush=True)
    return cases


def planted(centres: str, radius: float, k: int, seed: int) -> np.ndarray:
    """k Gaussian clusters of unit mean square radius: centres at equal distances (orthogonal), or Gaussian; or one."""
    rng = np.random.default_rng(seed)
    if centres == "equal":
        middles = radius * np.linalg.qr(rng.normal(size=(DIM, DIM)))[0][:k]
    else:
        middles = radius * rng.normal(size=(k, DIM)) / np.sqrt(DIM)
    # A single cluster gets as many points as the largest case, so that small numbers do not decide.
    count = PER_CLUSTER * (8 if centres == "none" else 1)
    return (middles.repeat(count, 0) + rng.normal(size=(k * count, DIM)) / np.sqrt(DIM)).astype(np.float32)


def tables(results: dict) -> str:
    """Stability on the run's latents, then the planted clusters, as Markdown."""
    return stability_table(results) + "\n\n" + planted_table(results)


def stability_table(results: dict) -> str:
    few, many = map(str, results["k_max"])
    lines = [
        f"| rule | k of the classes, `k_max` {few} | `k_max` {many} | resamples that agree, {few} | {many} | "
        f"resamples with one answer at {few} and {many} |",
        "|---|---|---|---|---|---|",
    ]
    for name, rule in results["rules"].items():
        at = rule["k_max"]
        chosen = [counted(at[k_max]["whole"]) for k_max in (few, many)]
        agree = [f"{at[k_max]['same']} of {rule['of']}" for k_max in (few, many)]
        both = f"{rule['resamples_same_at_both_k_max']} of {rule['of']}"
        lines.append(f"| {name} | " + " | ".join([*chosen, *agree, both]) + " |")
    return "\n".join(lines)


def counted(answers: list[int]) -> str:
    """3, 3, 4 as "3 (2), 4 (1)"."""
    return ", ".join(f"{k} ({answers.count(k)})" for k in sorted(set(answers)))


def planted_table(results: dict) -> str:
    few, many = map(str, results["k_max"])
    lines = [f"| planted | radius | {' | '.join(results['rules'])} |", "|---|---|" + "---|" * len(results["rules"])]
    for case in results["planted"]["cases"]:
        what = {"equal": "at equal distances", "gaussian": "Gaussian centres", "none": "no clusters"}[case["centres"]]
        cells = [f"{found[few]} / {found[many]}" for found in case["found"].values()]
        lines.append(f"| {case['clusters']}, {what} | {case['radius'] or '–'} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
