"""The clusters of one class in a file: k-means for every candidate k, the elbow, the distribution of each cluster."""

import itertools
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from raypurify.clusters import choose_k
from raypurify.clusters.blocks import EachBlock, Frame
from raypurify.clusters.candidates import assign, fit_candidates
from raypurify.clusters.covariance import Spectrum, moments, moments_of
from raypurify.clusters.fit import Scatters, estimate, factors_of, squares, within
from raypurify.clusters.lloyd import stack
from raypurify.clusters.scatter import Scatter, merge, scatter
from raypurify.config import ClusterSettings
from raypurify.files import replacing
from raypurify.fit.class_latents import Piece, open_class

# Bytes of d × d matrices that one pass over a class of many blocks may return.
_SUMS = 1 << 27


def cluster_class(file: Path, pieces: list[Piece], settings: ClusterSettings, seed: int, name: str, progress) -> None:
    """Write the clusters of one class: ``rows`` (n,) ascending, ``labels`` (n,), ``curve`` of WCSS at ``ks``, ``means``
    (k, d), ``factors`` (k, r, d), ``rest`` (k,), ``singular`` (k,), 1 where a cluster has no distribution of its own,
    and ``squares``: Σ‖x − μ‖².
    """
    latents = open_class(pieces, settings.block_mb << 20)
    each_block = latents.each_block if latents.whole else _told(latents.each_block, name, progress)
    # Never more clusters than images.
    count = sum(piece.rows for piece in pieces)
    least, most = (min(k, count) for k in (settings.k or settings.k_min, settings.k or settings.k_max))
    ks = range(least, most + 1)
    frame, candidates = fit_candidates(each_block, ks, n_init=settings.n_init, seed=seed)
    curve = [candidate.inertia for candidate in candidates]
    rows, labels, centroids = assign(each_block, frame, candidates[choose_k(curve, first_k=0)].centroids)
    sums: dict[str, np.ndarray] = {}
    if latents.whole:
        of_cluster = [latents.whole.latents[labels == k] for k in range(len(centroids))]
        means = [part.mean(0, dtype=np.float64) for part in of_cluster]
        samples = [moments(part) for part in of_cluster]
    else:
        scatters = _scatters(each_block, frame, centroids)
        means, samples = [part.mean for part in scatters], [moments_of(part) for part in scatters]
        sums = _to_tensors("within", within(scatters)) | _to_tensors("total", merge(scatters))
    spectra = [estimate(sample, settings.form, settings.rank) for sample in samples]
    nothing = Spectrum(np.empty((0, pieces[0].width)), np.empty(0), 0.0)
    factors, rest = factors_of([spectrum or nothing for spectrum in spectra])
    tensors = sums | {
        "rows": rows,
        "labels": labels,
        "ks": np.array(ks),
        "curve": np.array(curve),
        "means": np.array(means, np.float32),
        "factors": factors.astype(np.float32),
        "rest": rest.astype(np.float32),
        "squares": np.array(sum(squares(sample) for sample in samples)),
        "singular": np.array([spectrum is None for spectrum in spectra], np.uint8),
    }
    with replacing(file) as temporary:
        save_file(tensors, temporary)


def sums_of_class(file: Path, pieces: list[Piece]) -> tuple[Scatter, Scatter]:
    """The sums of a class's latents about the means of their clusters, and about the mean of the class."""
    tensors = load_file(file)
    if "total.mean" in tensors:
        return _from_tensors("within", tensors), _from_tensors("total", tensors)
    whole, labels = open_class(pieces, sys.maxsize).whole, tensors["labels"]
    scatters = [scatter(whole.latents[labels == k]) for k in range(len(tensors["means"]))]
    return within(scatters), merge(scatters)


def _scatters(each_block: EachBlock, frame: Frame, centroids: np.ndarray) -> list[Scatter]:
    """The moments of every cluster, as many clusters in a pass as may return their matrices together."""
    at_once = max(1, _SUMS // (8 * centroids.shape[1] ** 2))
    of, found = stack({0: centroids}), []
    for start in range(0, len(centroids), at_once):
        some = range(start, min(start + at_once, len(centroids)))
        parts = zip(*each_block(Scatters(frame, of, some)))
        found += [merge(part for part in of_cluster if part) for of_cluster in parts]
    return found


def _told(each_block: EachBlock, name: str, progress) -> EachBlock:
    """The same, with the number of the pass in the stage's progress: a large class takes long."""
    passes = itertools.count(1)

    def counted(look):
        progress.add.remote(0, f"class {name}: pass {next(passes)}")
        return each_block(look)

    return counted


def _to_tensors(prefix: str, sums: Scatter) -> dict[str, np.ndarray]:
    return {f"{prefix}.{name}": np.asarray(value) for name, value in sums._asdict().items()}


def _from_tensors(prefix: str, tensors: dict[str, np.ndarray]) -> Scatter:
    values = (tensors[f"{prefix}.{name}"] for name in Scatter._fields)
    return Scatter(*(value if value.ndim else value.item() for value in values))
