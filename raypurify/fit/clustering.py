"""The clusters stage: per-class k-means with the elbow, and the distributions of all clusters, a Ray task a class."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from raypurify.clusters.class_clusters import ClassClusters, ClassSums, cluster_class, estimate_class, sum_class
from raypurify.clusters.covariance import Spectrum
from raypurify.clusters.estimates import assemble, common_spectrum
from raypurify.clusters.files import class_path, read_estimates, read_labels, read_sums, write_class, write_clusters
from raypurify.clusters.scatter import Scatter, merge_scatters
from raypurify.config import ClusterSettings
from raypurify.errors import ConfigError
from raypurify.fit.class_latents import RETRIES, Piece, open_class, pieces_of, telling_passes
from raypurify.fit.latents import PARTS
from raypurify.pictures import elbow_curves
from raypurify.runtime.progress import shared_progress
from raypurify.storage import Place, overlapped

# Distance factors that a bundle may hold: the factors of 4,000 clusters × 2048 features at rank 64 are 2.1 GB.
MAX_BYTES = 4 << 30


def cluster(
    folder: Place,
    latents: Place,
    classes: list[str],
    source_rows: int,
    settings: ClusterSettings,
    seed: int,
    known: Place | None = None,
) -> dict[str, Any]:
    """Write the files of all clusters (see ``clusters.files``) and ``elbow.png`` into ``folder``.

    Clusters are numbered over all classes: class 0's first. A class is a task, its result is a file of its own, and
    finished ones stay when the stage is interrupted. A class of more than ``settings.block_mb`` of latents spreads over
    the cluster block by block. Labels depend on the latents and the seed alone.

    With ``known``, the folder of clusters that were found in other latents of the same images, these are kept, and only
    their distributions are of ``latents``.

    Raises DataError for a latent that is not finite, by its row, and for ``known`` clusters of other images;
    ConfigError where all factors would be too large.
    """
    import ray

    of_class = list(overlapped(pieces_of, [latents / PARTS / f"label={c}" for c in range(len(classes))]))
    rows = [sum(piece.rows for piece in pieces) for pieces in of_class]
    if settings.form in ("pinv", "shrinkage"):
        # As many axes as a class's largest cluster has images, at least: known before the work.
        largest = max(rows) // (settings.k or settings.k_max)
        _check_bytes(len(classes), min(largest - 1, of_class[0][0].width), of_class[0][0].width)
    files = [class_path(folder, c) for c in range(len(classes))]
    there = set(folder.names())
    wanted = [c for c, file in enumerate(files) if file.name not in there]
    done = sum(rows) - sum(rows[c] for c in wanted)
    progress = shared_progress(folder, sum(rows), "images", start=done)
    task = ray.remote(_cluster_class).options(max_retries=RETRIES)
    running = {
        task.remote(files[c], of_class[c], settings, seed, classes[c], progress, known and class_path(known, c)): c
        for c in wanted
    }
    while running:
        (ready,), _ = ray.wait(list(running))
        ray.get(ready)
        c = running.pop(ready)
        finished = len(classes) - len(running)
        progress.measure.remote(classes=finished)
        ray.get(progress.add.remote(rows[c], f"classes {finished}/{len(classes)}"))
    return _put_together(folder, files, of_class, classes, source_rows, settings)


def _cluster_class(
    file: Place,
    pieces: list[Piece],
    settings: ClusterSettings,
    seed: int,
    name: str,
    progress: Any,
    known: Place | None,
) -> None:
    latents = open_class(pieces, settings.block_mb << 20)
    each_block = latents.each_block if latents.whole else telling_passes(latents.each_block, f"class {name}", progress)
    if known:
        found = read_labels(known)
        ks, curve = range(min(found.curve), max(found.curve) + 1), [*found.curve.values()]
        again = estimate_class(each_block, latents.whole, found.rows, found.labels, settings)
        write_class(file, ClassClusters(found.rows, found.labels, ks, curve, *again))
        return
    count = sum(piece.rows for piece in pieces)
    write_class(file, cluster_class(each_block, latents.whole, count, settings, seed))


def _put_together(
    folder: Place,
    files: list[Place],
    of_class: list[list[Piece]],
    classes: list[str],
    source_rows: int,
    settings: ClusterSettings,
) -> dict[str, Any]:
    cluster_of_row = np.full(source_rows, -1, np.int64)
    owner: list[int] = []
    curves: list[dict[int, float]] = []
    axes, singular, common, width = 1, False, None, of_class[0][0].width
    for c, one in enumerate(overlapped(read_labels, files)):
        cluster_of_row[one.rows] = one.labels + len(owner)
        curves.append(one.curve)
        owner += [c] * one.clusters
        axes, singular = max(axes, one.axes), singular or one.singular
    if singular:
        common = _common(files, of_class, settings)
        axes = max(axes, len(common.variances))
    _check_bytes(len(owner), axes, width)
    sizes = np.bincount(cluster_of_row[cluster_of_row >= 0], minlength=len(owner))
    state = assemble(overlapped(read_estimates, files), sizes, axes, common, settings.form, np.float32)
    write_clusters(folder, settings.form, state, cluster_of_row, owner, sizes, curves)
    (folder / "elbow.png").write(elbow_curves(classes, curves, np.bincount(owner).tolist()))
    return {"clusters": len(owner), "smallest": int(sizes.min()), "cluster_class": owner}


def _common(files: list[Place], of_class: list[list[Piece]], settings: ClusterSettings) -> Spectrum:
    """The covariance of clusters that have none of their own, from the sums of every class."""
    import ray

    task = ray.remote(_sum_class).options(max_retries=RETRIES)
    sums = [task.remote(file, pieces) for file, pieces in zip(files, of_class)]

    def merged(part: Callable[[ClassSums], Scatter]) -> Scatter:
        return merge_scatters(part(ray.get(one)) for one in sums)

    within = merged(lambda one: one.within)
    return common_spectrum(within, lambda: merged(lambda one: one.total), settings.form, settings.rank)


def _sum_class(file: Place, pieces: list[Piece]) -> ClassSums:
    if sums := read_sums(file):
        return sums
    # A class in one block has none in its file: they are quickly had from its latents.
    whole = open_class(pieces, sys.maxsize).whole
    assert whole is not None
    return sum_class(whole.latents, read_labels(file).labels)


def _check_bytes(clusters: int, rank: int, width: int) -> None:
    size = 4 * clusters * rank * width
    if size > MAX_BYTES:
        raise ConfigError(
            f"{clusters} clusters with {rank} axes of {width} features each would take {size / 1e9:.0f} GB: "
            "set clusters.form to ridge or low_rank, or a lower clusters.rank"
        )
