"""Stage 4: per-class k-means with the elbow, and the distributions of all clusters, one class at a time."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from raypurify.clusters.fit import common, factors_of, unit
from raypurify.clusters.scatter import Scatter, merge
from raypurify.config import ClusterSettings
from raypurify.errors import ConfigError
from raypurify.fit.class_clusters import cluster_class, sums_of_class
from raypurify.fit.class_latents import RETRIES, Piece, pieces_of
from raypurify.fit.latents import PARTS
from raypurify.pictures import elbow_curves
from raypurify.runtime.progress import shared_progress

# Distance factors that a bundle may hold: the factors of 4,000 clusters × 2048 features at rank 64 are 2.1 GB.
MAX_BYTES = 4 << 30


def cluster(
    folder: Path, latents: Path, classes: list[str], source_rows: int, settings: ClusterSettings, seed: int
) -> dict[str, Any]:
    """Write ``clusters.json``, ``distributions.safetensors``, ``cluster_of_row.npy`` and ``elbow.png`` into ``folder``.

    Clusters are numbered over all classes: class 0's first. A class is a task, its result is a file of its own, and
    finished ones stay when the stage is interrupted. A class of more than ``settings.block_mb`` of latents spreads over
    the cluster block by block. Labels depend on the latents and the seed alone.

    Raises DataError for a latent that is not finite, by its row, and ConfigError where all factors would be too large.
    """
    import ray

    of_class = [pieces_of(latents / PARTS / f"label={c}") for c in range(len(classes))]
    if settings.form in ("pinv", "shrinkage"):
        # As many axes as a class's largest cluster has images, at least: known before the work.
        largest = max(sum(piece.rows for piece in pieces) for pieces in of_class) // (settings.k or settings.k_max)
        _check_bytes(len(classes), min(largest - 1, of_class[0][0].width), of_class[0][0].width)
    files = [folder / f"class-{c:05d}.safetensors" for c in range(len(classes))]
    rows = [sum(piece.rows for piece in pieces) for pieces in of_class]
    wanted = [c for c, file in enumerate(files) if not file.exists()]
    done = sum(rows) - sum(rows[c] for c in wanted)
    progress = shared_progress(folder, sum(rows), "images", start=done)
    task = ray.remote(cluster_class).options(max_retries=RETRIES)
    running = {task.remote(files[c], of_class[c], settings, seed, classes[c], progress): c for c in wanted}
    while running:
        (ready,), _ = ray.wait(list(running))
        ray.get(ready)
        c = running.pop(ready)
        ray.get(progress.add.remote(rows[c], f"classes {len(classes) - len(running)}/{len(classes)}"))
    return _assemble(folder, files, of_class, classes, source_rows, settings)


def _assemble(
    folder: Path,
    files: list[Path],
    of_class: list[list[Piece]],
    classes: list[str],
    source_rows: int,
    settings: ClusterSettings,
) -> dict[str, Any]:
    cluster_of_row = np.full(source_rows, -1, np.int64)
    owner: list[int] = []
    curves: list[dict[int, float]] = []
    for c, file in enumerate(files):
        with safe_open(file, "np") as one:
            cluster_of_row[one.get_tensor("rows")] = one.get_tensor("labels") + len(owner)
            curves.append(dict(zip(one.get_tensor("ks").tolist(), one.get_tensor("curve").tolist())))
            owner += [c] * one.get_slice("rest").get_shape()[0]
    sizes = np.bincount(cluster_of_row[cluster_of_row >= 0], minlength=len(owner))
    save_file(_distributions(files, of_class, sizes, settings), folder / "distributions.safetensors")
    np.save(folder / "cluster_of_row.npy", cluster_of_row)
    facts = {"form": settings.form, "cluster_class": owner, "sizes": sizes.tolist(), "wcss": curves}
    (folder / "clusters.json").write_text(json.dumps(facts), "utf-8")
    (folder / "elbow.png").write_bytes(elbow_curves(classes, curves, np.bincount(owner).tolist()))
    return {"clusters": len(owner), "smallest": int(sizes.min()), "cluster_class": owner}


def _distributions(
    files: list[Path], of_class: list[list[Piece]], sizes: np.ndarray, settings: ClusterSettings
) -> dict[str, np.ndarray]:
    """The state of ``ClusterDistributions``: means (K, d), factors (K, r, d), rest (K,)."""
    import ray

    width, rank, singular, squares = of_class[0][0].width, 1, False, 0.0
    for file in files:
        with safe_open(file, "np") as one:
            rank = max(rank, one.get_slice("factors").get_shape()[1])
            singular |= bool(one.get_tensor("singular").any())
            squares += float(one.get_tensor("squares"))
    if singular:
        task = ray.remote(sums_of_class).options(max_retries=RETRIES)
        sums = [task.remote(file, pieces) for file, pieces in zip(files, of_class)]

        def merged(which: int) -> Scatter:
            return merge(ray.get(both)[which] for both in sums)

        factor, substitute = factors_of([common(merged(0), lambda: merged(1), settings.form, settings.rank)])
        rank = max(rank, factor.shape[1])
    _check_bytes(len(sizes), rank, width)
    state = {
        "means": np.empty((len(sizes), width), np.float32),
        "factors": np.zeros((len(sizes), rank, width), np.float32),
        "rest": np.empty(len(sizes), np.float32),
    }
    start = 0
    for file in files:
        one = load_file(file)
        here = slice(start, start := start + len(one["rest"]))
        state["means"][here], state["rest"][here] = one["means"], one["rest"]
        state["factors"][here, : one["factors"].shape[1]] = one["factors"]
        for k in np.flatnonzero(one["singular"]):
            state["factors"][here][k, : factor.shape[1]] = factor[0]
            state["rest"][here][k] = substitute[0]
    scale = unit(settings.form, squares, state["means"].astype(np.float64), sizes)
    state["factors"] /= np.float32(scale)
    state["rest"] /= np.float32(scale)
    return state


def _check_bytes(clusters: int, rank: int, width: int) -> None:
    size = 4 * clusters * rank * width
    if size > MAX_BYTES:
        raise ConfigError(
            f"{clusters} clusters with {rank} axes of {width} features each would take {size / 1e9:.0f} GB: "
            "set clusters.form to ridge or low_rank, or a lower clusters.rank"
        )
