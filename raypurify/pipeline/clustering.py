"""Stage 4: per-class k-means with the elbow, one Ray task a class, and the distributions of all clusters."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from safetensors.torch import save_file

from raypurify.clusters import ClusterDistributions, choose_k, fit_kmeans
from raypurify.config import Clusters
from raypurify.pictures import elbow_curves
from raypurify.pipeline.latents import PARTS
from raypurify.pipeline.progress import shared_progress


def cluster(
    folder: Path, latents: Path, classes: list[str], source_rows: int, settings: Clusters, seed: int
) -> dict[str, Any]:
    """Write ``clusters.json``, ``distributions.safetensors``, ``cluster_of_row.npy`` and ``elbow.png`` into ``folder``.

    Clusters are numbered over all classes: class 0's first.
    """
    import ray

    progress = shared_progress(folder, len(classes), "classes")
    one_class = ray.remote(_cluster_class)
    found = ray.get(
        [one_class.remote(latents / PARTS / f"label={c}", settings, seed, progress) for c in range(len(classes))]
    )
    cluster_of_row = np.full(source_rows, -1, np.int64)
    cluster_class: list[int] = []
    for c, (rows, labels, _) in enumerate(found):
        cluster_of_row[rows] = labels + len(cluster_class)
        cluster_class += [c] * (int(labels.max()) + 1)
    vectors = [_read(latents / PARTS / f"label={c}") for c in range(len(classes))]
    rows, all_latents = (np.concatenate(part) for part in zip(*vectors))
    distributions = ClusterDistributions.fit(all_latents, cluster_of_row[rows], form=settings.form)
    save_file({k: v.contiguous() for k, v in distributions.state().items()}, folder / "distributions.safetensors")
    np.save(folder / "cluster_of_row.npy", cluster_of_row)
    sizes = np.bincount(cluster_of_row[rows], minlength=len(cluster_class)).tolist()
    curves = [curve for _, _, curve in found]
    facts = {"form": settings.form, "cluster_class": cluster_class, "sizes": sizes, "inertias": curves}
    (folder / "clusters.json").write_text(json.dumps(facts), "utf-8")
    chosen = np.bincount(cluster_class).tolist()
    (folder / "elbow.png").write_bytes(elbow_curves(classes, curves, chosen))
    return {"clusters": len(cluster_class), "smallest": min(sizes), "cluster_class": cluster_class}


def _cluster_class(folder: Path, settings: Clusters, seed: int, progress) -> tuple[np.ndarray, np.ndarray, list[float]]:
    rows, latents = _read(folder)
    candidates = [settings.k] if settings.k else range(1, settings.k_max + 1)
    # Never more clusters than images.
    fits = [fit_kmeans(latents, k, n_init=settings.n_init, seed=seed) for k in candidates if k <= len(latents)]
    if not fits:
        fits = [fit_kmeans(latents, len(latents), n_init=settings.n_init, seed=seed)]
    curve = [float(fit.inertia) for fit in fits]
    best = fits[0] if len(fits) == 1 else fits[choose_k(curve, first_k=1) - 1]
    progress.add.remote(1)
    return rows, np.asarray(best.labels, np.int64), curve


def _read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    table = pq.read_table(folder, columns=["row", "latent"], partitioning=None).sort_by("row")
    column = table.column("latent").combine_chunks()
    return table.column("row").to_numpy(), column.flatten().to_numpy().reshape(len(table), -1)
