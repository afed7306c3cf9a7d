"""The search for the nearest of many clusters, beside all distances: one JSON line per case.

    python benchmarks/clusters_nearest.py [--size small] [--cases 0 7] [--repeats 3] [--cores 2] [--run-dir RUN]

``--size imagenet`` (the default) is 4,000 clusters of 2,048 features and rank 64, 1,000 classes with four each: 3 GB of
memory and five minutes a case. Clusters are Gaussian; the variances of one fall as 1/i, i = 1 to d, and its factors are
fitted to 320 latents of it, as many as ImageNet has for each. ``geometry`` says what covariances have in common:
``shared``, all have one (fitted axes differ by sampling, as do those of real latents); ``half shared``, half of every
variance; ``own axes``, nothing. Means have the spectrum of a covariance (``spread means``: all directions alike),
times 0.5 for each group of 20 classes, 0.2 for each class in its group and 0.03 for each cluster in its class
(``far``) or 0.4, 0.1 and 0.02 (``near``). ``accuracy`` is the share of latents, fresh ones from the true distributions,
whose nearest cluster is the one they are from; where covariances differ it stays at 1 however near the means are.

Each case runs in a process of its own. ``per_cpu_second`` counts latents in a second of processor time on one thread,
at ``search`` and taking ``all`` distances; ``per_second`` the search on ``--cores`` by the clock, meaningful on an idle
machine. ``prepare_seconds`` of processor time come once. ``refined`` and ``evaluated`` are the shares of (latent,
cluster) pairs in step 3 and those whose distance was taken; ``differ`` counts other answers than that of all distances,
``error`` is the largest relative difference of a distance, both on the latents of ``all``. ``object_bytes`` are those
of the distributions, ``search_bytes`` of what the search keeps beside them, ``grown_bytes`` by how much the process was
larger at its largest, from reading the distributions back to the search's end, than with their state just read.
``common`` is the share of the axes' squared length in the best subspace of 2·rank dimensions.

With ``--run-dir``, a directory of a ``raypurify fit``, real latents as well: 32 clusters of every class by k-means on
nine tenths of the images, the others searched.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from elbow import class_latents
from processes import forget_peak, peak_memory
from torch import Tensor

from raypurify.clusters import ClusterDistributions, fit_kmeans
from raypurify.clusters.covariance import Moments, Spectrum, flatten, shrink, truncate
from raypurify.clusters.nearest import NearestSearch
from raypurify.evaluation.clock import clock

RESULTS = Path(__file__).parent / "results" / "clusters_nearest.jsonl"
# clusters, features, rank, images of a cluster, latents searched, latents of which all distances are taken
SIZES = {"small": (1200, 512, 32, 160, 1024, 256), "imagenet": (4000, 2048, 64, 320, 2048, 96)}
GEOMETRIES = {"shared": 1.0, "half shared": 0.5, "own axes": 0.0}
MEANS = {"far": (0.5, 0.2, 0.03), "near": (0.4, 0.1, 0.02)}
PER_CLASS, PER_GROUP = 4, 80
# geometry, means, form
CASES = [(geometry, means, "low_rank") for means in MEANS for geometry in GEOMETRIES]
CASES += [("own axes", "near, spread", "low_rank"), ("shared", "far", "ridge")]
REAL_K, REAL_RANKS = 32, (16, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="imagenet")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--cases", type=int, nargs="+", default=range(len(CASES)), help="numbers of CASES; all of them")
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case is not None:
        print(json.dumps(synthetic(arguments.size, *CASES[arguments.case], arguments.repeats, arguments.cores)))
        return
    for case in arguments.cases:
        own = {"size": arguments.size, "repeats": arguments.repeats, "cores": arguments.cores, "case": case}
        command = [sys.executable, __file__, *(f"--{name}={value}" for name, value in own.items())]
        record(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip(), arguments.out)
    for rank in REAL_RANKS if arguments.run_dir else ():
        record(json.dumps(real(arguments.run_dir, rank)), arguments.out)


def record(line: str, out: Path) -> None:
    print(line, flush=True)
    with out.open("a") as file:
        file.write(line + "\n")


def synthetic(size: str, geometry: str, means: str, form: str, repeats: int, cores: int) -> dict:
    *shape, latents, brute = SIZES[size]
    state, rows, label = draw(*shape, latents, GEOMETRIES[geometry], means, form)
    common = common_share(state["factors"])
    torch.set_num_threads(1)
    forget_peak()
    before = peak_memory()
    dist = ClusterDistributions.from_state(state, form)
    preparing = cpu_seconds(lambda: dist._search)
    found = dist._search(rows)
    searching = [cpu_seconds(lambda: dist.nearest(rows)) for _ in range(repeats)]
    torch.set_num_threads(cores)
    dist.nearest(rows)
    by_clock = [seconds(lambda: dist.nearest(rows)) for _ in range(repeats)]
    grown = peak_memory() - before
    torch.set_num_threads(1)
    everything = cpu_seconds(lambda: dist.distance(rows[:brute]))
    expected = dist.distance(rows[:brute]).min(1)
    return {
        "size": size, "geometry": geometry, "means": means, "form": form,
        "accuracy": round(float((found.index == label).float().mean()), 4),
        "common": round(common, 3),
        "per_cpu_second": {
            "search": round(latents / statistics.median(searching), 1), "all": round(brute / everything, 1)
        },
        "per_second": round(latents / statistics.median(by_clock), 1),
        "prepare_seconds": round(preparing, 1),
        "refined": round(found.refined / found.index.numel() / dist.clusters, 5),
        "evaluated": round(found.evaluated / found.index.numel() / dist.clusters, 6),
        "differ": int((found.index[:brute] != expected.indices).sum()),
        "error": float((found.distance[:brute] / expected.values - 1).abs().max()),
        "object_bytes": sum(part.nbytes for part in state.values()),
        "search_bytes": kept(dist._search, state),
        "grown_bytes": grown,
        "latents": latents, "all_latents": brute, "cores": cores, "product": str(dist._search.dtype),
    }  # fmt: skip


def draw(clusters: int, dim: int, rank: int, images: int, latents: int, share: float, means: str, form: str):
    """The state of fitted clusters; and latents, each with the cluster that it is from."""
    generator = torch.Generator().manual_seed(0)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator)

    law = 1 / torch.arange(1, dim + 1)
    factors, rest = torch.empty(clusters, rank, dim), torch.empty(clusters)
    # A covariance of one's own is the common one with its axes exchanged.
    order = torch.stack([torch.randperm(dim, generator=generator) for _ in range(clusters)])
    for k in range(clusters):
        deviations = (share * law + (1 - share) * law[order[k]]).sqrt()
        spectrum = fitted(normal(images, dim) * deviations, rank, form)
        factors[k] = torch.from_numpy(spectrum.axes / np.sqrt(spectrum.variances)[:, None])
        rest[k] = spectrum.rest**-0.5
    spread = (law.mean().expand(dim) if "spread" in means else law).sqrt()
    centres = torch.zeros(clusters, dim)
    for variance, size in zip(MEANS[means.split(",")[0]], (PER_GROUP, PER_CLASS, 1)):
        centres += (variance**0.5 * spread * normal(clusters // size, dim)).repeat_interleave(size, 0)
    label = torch.randint(clusters, (latents,), generator=generator)
    deviations = (share * law + (1 - share) * law[order[label]]).sqrt()
    return (
        {"means": centres, "factors": factors, "rest": rest},
        centres[label] + deviations * normal(latents, dim),
        label,
    )


def fitted(rows: Tensor, rank: int, form: str) -> Spectrum:
    """What ``ClusterDistributions.fit`` makes of a cluster, by the short side of ``rows``."""
    rows = rows - rows.mean(0)
    variances, vectors = torch.linalg.eigh((rows @ rows.T).double() / len(rows))
    variances, vectors = variances.flip(0)[:-1], vectors.flip(1)[:, :-1]
    axes = (vectors / (variances * len(rows)).sqrt()).T @ rows.double()
    fourth = float(rows.double().square().sum(1).square().sum())
    spectrum = truncate(shrink(Moments(Spectrum(axes.numpy(), variances.numpy(), 0.0), fourth, len(rows))), rank)
    return flatten(spectrum) if form == "ridge" else spectrum


def common_share(factors: Tensor, clusters: int = 128) -> float:
    """The share of the squared length of some clusters' axes in the best subspace of 2·rank dimensions."""
    axes = torch.nn.functional.normalize(factors[:: -(-len(factors) // clusters)], dim=2).flatten(0, 1)
    energy = torch.linalg.eigvalsh(axes.T @ axes)
    return float(energy[-2 * factors.shape[1] :].sum() / energy.sum())


def kept(search: NearestSearch, state: dict[str, Tensor]) -> int:
    given = {part.data_ptr() for part in state.values()}
    return sum(
        part.nbytes for part in vars(search).values() if isinstance(part, Tensor) and part.data_ptr() not in given
    )


def cpu_seconds(run: Callable) -> float:
    begun = time.process_time()
    run()
    return time.process_time() - begun


def seconds(run: Callable) -> float:
    begun = clock()
    run()
    return clock() - begun


def real(run_dir: Path, rank: int) -> dict:
    """How far the axes of real clusters agree, and what the search makes of them."""
    rng = np.random.default_rng(0)
    rows, labels, others, classes = [], [], [], []
    for number, (_, latents) in enumerate(class_latents(run_dir)):
        held = rng.random(len(latents)) < 0.1
        labels.append(np.asarray(fit_kmeans(latents[~held], REAL_K, n_init=1, seed=0).labels) + number * REAL_K)
        rows.append(latents[~held])
        others.append(torch.from_numpy(latents[held]))
        classes.append(torch.full((int(held.sum()),), number))
    dist = ClusterDistributions.fit(np.concatenate(rows), np.concatenate(labels), form="low_rank", rank=rank)
    latents, label = torch.cat(others), torch.cat(classes)
    found = NearestSearch(dist.means, dist._inverse_squared, dist.factors, dist.rest, dist._squared)(latents)
    distances = dist.distance(latents).sort(1).values.square()
    ratios = (distances[:, [1, 20, 100]] / distances[:, :1]).median(0).values
    return {
        "run": run_dir.name, "clusters": dist.clusters, "dim": dist.dim, "rank": rank,
        "accuracy_of_class": round(float((found.index // REAL_K == label).float().mean()), 4),
        "common": round(common_share(dist.factors, dist.clusters), 3),
        "refined": round(found.refined / len(latents) / dist.clusters, 5),
        "evaluated": round(found.evaluated / len(latents) / dist.clusters, 6),
        "squared_distance_over_least": {
            str(place): round(float(ratio), 2) for place, ratio in zip((2, 21, 101), ratios)
        },
        "latents": len(latents),
    }  # fmt: skip


def table(lines: list[dict]) -> str:
    """The results as Markdown: speed beside all distances, and memory."""
    rows = [
        "| covariances | form | right cluster | latents/s | latents per CPU-second | all distances, per CPU-second "
        "| kept | peak |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        kept, peak = line["object_bytes"] + line["search_bytes"], line["peak_bytes"] - line["base_bytes"]
        speed = line["per_cpu_second"]
        rows.append(
            f"| {line['geometry']}, means {line['means']} | {line['form']} | {100 * line['accuracy']:.0f} % "
            f"| {line['per_second']:,.0f} | {speed['search']:,.0f} | {speed['all']:,.0f} "
            f"| {kept / 1e9:.2f} GB | {peak / 1e9:.2f} GB |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
