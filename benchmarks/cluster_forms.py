"""How often the nearest cluster is one of the right class, for every form of cluster distribution.

    python benchmarks/cluster_forms.py --run-dir RUN [--attacked 1000] [--draws 3]

RUN is the directory of a ``raypurify fit``. Distributions are fitted again from its latents (the baseline network's)
and asked about validation images (through the bundle's robust network, as in purification): clean, attacked on the
baseline network (gray-box) and attacked on the robust network itself, by the attack of the run's calibration. Every
form sees the same images and the same clusters. Besides the run's own clusters there are other numbers of clusters per
class, and clusters of few images, whose covariance has fewer axes than the latents. ``--table`` prints the results as
Markdown. OMP_NUM_THREADS=1 is fastest where other work is running.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from elbow import class_latents
from torch import Tensor

import raypurify
from raypurify.attacks import PGD
from raypurify.clusters import ClusterDistributions, choose_k, fit_kmeans
from raypurify.evaluation.intervals import wilson
from raypurify.nets.store import load_network
from raypurify.training.data import VALIDATION, batches, read_part

RESULTS = Path(__file__).parent / "results" / "cluster_forms.json"
RANKS = (8, 16, 32, 64)
FORMS = (
    {"pinv": {"form": "pinv"}, "shrinkage": {"form": "shrinkage"}}
    | {f"low_rank {rank}": {"form": "low_rank", "rank": rank} for rank in RANKS}
    | {f"ridge {rank}": {"form": "ridge", "rank": rank} for rank in (8, 64)}
)
REFERENCE = "shrinkage"
# As in the calibration, so that the images attacked are the same.
BATCH = 64
# A distance that is zero but for float32 rounding; the clean ones are around 4.
ZERO = 1e-3


@dataclass(frozen=True)
class Regime:
    """Clusters to fit: from how many images of a class, and how many of a class; None: all images, the elbow's k."""

    name: str
    images: int | None = None
    k: int | None = None


REGIMES = (
    Regime("run's clusters"),
    Regime("k = 1", k=1),
    Regime("k = 8", k=8),
    Regime("k = 32", k=32),
    Regime("100 images a class", images=100),
    Regime("50 images a class", images=50),
    Regime("20 images a class", images=20),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--attacked", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=3, help="random choices of few images")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(json.loads(arguments.out.read_text())))
        return
    if arguments.run_dir is None:
        parser.error("give --run-dir")
    results = measure(arguments.run_dir, arguments.attacked, arguments.draws)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


def measure(run: Path, attacked: int, draws: int) -> dict:
    purifier = raypurify.load(run / "bundle")
    settings, seed = purifier.settings, purifier.settings.seed
    seen = {name: validation_latents(run, purifier, name, attacked) for name in ("clean", "baseline", "robust")}
    classes = list(class_latents(run))
    own = np.load(run / "clusters" / "cluster_of_row.npy")
    regimes = {}
    for regime in REGIMES:
        if regime == REGIMES[0]:
            clusterings = [own_clusters(classes, own)]
        else:
            count = draws if regime.images else 1
            clusterings = [clusters_of(classes, regime, settings.clusters, seed + draw) for draw in range(count)]
        regimes[regime.name] = {"images_per_class": regime.images, "k": regime.k} | compare(clusterings, seen)
        print(regime.name, regimes[regime.name]["sets"]["clean"], flush=True)
    return {
        "command": f"python benchmarks/cluster_forms.py --run-dir RUN --attacked {attacked} --draws {draws}",
        "run": settings.name,
        "bundle": purifier.digest,
        "latent_dim": purifier.distributions.dim,
        "settings": settings.clusters.model_dump(),
        "attack": settings.calibration.attack.model_dump(),
        "set": "validation images, held out from every stage",
        "images": {name: len(labels) for name, (_, labels, _) in seen.items()},
        "network": {name: share(hits) for name, (_, _, hits) in seen.items()},
        "zero_below": ZERO,
        "regimes": regimes,
    }


def validation_latents(run: Path, purifier, attacked_on: str, attacked: int) -> tuple[Tensor, Tensor, np.ndarray]:
    """Robust latents, labels, and whether the robust network itself is right; ``attacked_on`` "clean" attacks none."""
    images = read_part(run / "prepare", VALIDATION)
    attack = PGD(**purifier.settings.calibration.attack.model_dump())
    target = purifier.network if attacked_on == "robust" else load_network(run / "baseline" / "network.safetensors")
    latents, labels, hits = [], [], []
    chosen = images if attacked_on == "clean" else images[:attacked]
    for batch in batches(chosen, purifier.settings.data.image_size, BATCH):
        shown = batch.images.float() / 255
        if attacked_on != "clean":
            shown = attack(target, shown, batch.labels, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            latents.append(purifier.latents(shown))
            hits.append(purifier.network(shown).argmax(1) == batch.labels)
        labels.append(batch.labels)
    print(f"{attacked_on}: {len(chosen)} images", flush=True)
    return torch.cat(latents), torch.cat(labels), torch.cat(hits).numpy()


Clustering = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Latents (N, d), the cluster of each (N,), the class of each cluster (K,)."""


def own_clusters(classes: list, cluster_of_row: np.ndarray) -> Clustering:
    labels = [cluster_of_row[rows] for rows, _ in classes]
    cluster_class = np.zeros(max(map(np.max, labels)) + 1, np.int64)
    for label, of_class in enumerate(labels):
        cluster_class[of_class] = label
    return np.concatenate([latents for _, latents in classes]), np.concatenate(labels), cluster_class


def clusters_of(classes: list, regime: Regime, settings, seed: int) -> Clustering:
    """Clustered as the stage of a fit does it."""
    rng = np.random.default_rng(seed)
    vectors, labels, cluster_class = [], [], []
    for label, (_, latents) in enumerate(classes):
        chosen = latents[rng.permutation(len(latents))[: regime.images]] if regime.images else latents
        candidates = [regime.k] if regime.k else range(1, settings.k_max + 1)
        fits = [fit_kmeans(chosen, k, n_init=settings.n_init, seed=seed) for k in candidates]
        best = fits[0] if regime.k else fits[choose_k([fit.inertia for fit in fits]) - 1]
        vectors.append(chosen)
        labels.append(best.labels + len(cluster_class))
        cluster_class += [label] * len(best.centroids)
    return np.concatenate(vectors), np.concatenate(labels), np.array(cluster_class)


def compare(clusterings: list[Clustering], seen: dict) -> dict:
    """Every form on every set; hits are (draws, images)."""
    hits: dict[str, dict[str, list[np.ndarray]]] = {name: {} for name in seen}
    facts = []
    for vectors, labels, cluster_class in clusterings:
        for form, nearest in fitted_forms(vectors, labels):
            for name, (latents, truth, _) in seen.items():
                right = cluster_class[nearest(latents).numpy()] == truth.numpy()
                hits[name].setdefault(form, []).append(right)
        facts.append(unseen_directions(vectors, labels, seen["clean"][0]))
    sizes = [np.bincount(labels) for _, labels, _ in clusterings]
    sets = {name: {form: figures(rows, by_form[REFERENCE]) for form, rows in by_form.items()}
            for name, by_form in hits.items()}  # fmt: skip
    return {
        "draws": len(clusterings),
        "clusters": [len(of_draw) for of_draw in sizes],
        "smallest_cluster": int(min(of_draw.min() for of_draw in sizes)),
        "median_cluster": float(np.median(np.concatenate(sizes))),
        "sets": sets,
        "pinv_on_clean": {key: round(float(np.mean([fact[key] for fact in facts])), 4) for key in facts[0]},
    }


def fitted_forms(vectors: np.ndarray, labels: np.ndarray) -> Iterator[tuple]:
    """Each form with the function that gives the nearest cluster of latents."""
    for form, settings in FORMS.items():
        distributions = ClusterDistributions.fit(vectors, labels, **settings)
        yield form, lambda latents, fitted=distributions: fitted.nearest(latents)[0]
    yield "Euclidean", lambda latents, means=distributions.means: torch.cdist(latents, means).argmin(1)


def figures(draws: list[np.ndarray], reference: list[np.ndarray]) -> dict:
    """The share of hits, and its paired difference from the reference form on the same images and clusters."""
    rows = np.array(draws, float)
    difference = (rows - np.array(reference, float)).mean(0)
    error = 1.96 * difference.std(ddof=1) / np.sqrt(len(difference))
    found = share(rows.mean(0)) | {
        f"minus_{REFERENCE}": [round(float(difference.mean() + side * error), 4) for side in (0, -1, 1)]
    }
    if len(rows) > 1:
        found["lowest_and_highest_draw"] = [round(float(of(rows.mean(1))), 4) for of in (np.min, np.max)]
    return found


def share(hits: np.ndarray) -> dict:
    return {"right_class": round(float(hits.mean()), 4), "interval": _interval(hits)}


def _interval(hits) -> list[float]:
    return [round(bound, 4) for bound in wilson(round(float(hits.sum())), len(hits))]


def unseen_directions(vectors: np.ndarray, labels: np.ndarray, latents: Tensor) -> dict:
    """What the pseudo-inverse leaves out: of an image's squared offset from its nearest mean, what part counts."""
    pinv = ClusterDistributions.fit(vectors, labels, form="pinv")
    nearest, distance = pinv.nearest(latents)
    squared = pinv.factors.square().sum(2)
    counted = torch.zeros(len(latents))
    for cluster in nearest.unique():
        of_cluster = nearest == cluster
        offsets = latents[of_cluster] - pinv.means[cluster]
        axes = pinv.factors[cluster][squared[cluster] > 0]
        units = axes / axes.norm(dim=1, keepdim=True)
        counted[of_cluster] = (offsets @ units.T).square().sum(1) / offsets.square().sum(1)
    sizes = np.bincount(labels)
    return {
        "median_axes": float((squared > 0).sum(1).double().median()),
        "clusters_without_full_rank": float(((squared > 0).sum(1) < pinv.dim).double().mean()),
        "part_of_offset_that_counts": float(counted.mean()),
        "images_at_distance_zero": float((distance < ZERO).double().mean()),
        "median_size_of_nearest": float(np.median(sizes[nearest.numpy()])),
    }


def table(results: dict) -> str:
    """Right class in percent: every set for the run's clusters, clean images for the others."""
    forms = ["Euclidean", *FORMS]
    lines = ["| clusters | images | " + " | ".join(forms) + " |", "|---|---|" + "---|" * len(forms)]
    shown = {"clean": "clean", "baseline": "attacked, baseline", "robust": "attacked, robust"}
    for number, (name, regime) in enumerate(results["regimes"].items()):
        for which in shown if number == 0 else ["clean"]:
            cells = [f"{100 * regime['sets'][which][form]['right_class']:.1f}" for form in forms]
            lines.append(f"| {name} | {shown[which]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
