"""Stage 5: a convolutional dictionary per cluster, learned in actors, one cluster each at a time."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file

from raypurify.config import Csc, Dictionaries
from raypurify.csc import learn_dictionary, tikhonov_split
from raypurify.errors import DataError
from raypurify.pipeline.prepared import TRAIN, read_pixels
from raypurify.pipeline.progress import shared_progress


def learn_dictionaries(
    folder: Path,
    prepared: Path,
    cluster_of_row: np.ndarray,
    cluster_class: list[int],
    side: int,
    csc: Csc,
    settings: Dictionaries,
    seed: int,
) -> dict[str, Any]:
    """Write ``folder/NNNNN.safetensors`` for every cluster, each as soon as it is learned; finished ones stay.

    A dictionary is learned from the high parts of a seeded sample of its cluster's images. Where they hold nothing to
    learn (constant images), the cluster takes over the dictionary of the largest cluster of its class, or of all, that
    has one; ``source`` in the report says whose dictionary each cluster has.
    """
    import ray
    from ray.util import ActorPool

    count = len(cluster_class)
    samples = choose_samples(cluster_of_row, count, settings.images, seed)
    wanted = [k for k in range(count) if not _path(folder, k).exists()]
    images = _fetch(prepared, {k: samples[k] for k in wanted}, side)
    total = settings.passes * sum(len(sample) for sample in samples)
    progress = shared_progress(
        folder, total, "images", start=settings.passes * sum(len(samples[k]) for k in range(count) if k not in images)
    )
    actors = max(1, min(settings.actors, len(wanted), int(ray.cluster_resources()["CPU"])))
    learner = ray.remote(num_cpus=1, max_restarts=3, max_task_retries=3)(_Learner)
    pool = ActorPool([learner.remote(folder, csc, settings, seed, progress) for _ in range(actors)])
    for _ in pool.map_unordered(lambda actor, k: actor.learn.remote(k, images[k]), wanted):
        pass
    return {"dictionaries": count, "source": _fill_gaps(folder, cluster_of_row, cluster_class)}


def choose_samples(cluster_of_row: np.ndarray, count: int, images: int, seed: int) -> list[np.ndarray]:
    """Rows of at most ``images`` images of each cluster, a seeded choice that does not depend on other clusters."""
    samples = []
    for k in range(count):
        rows = np.flatnonzero(cluster_of_row == k)
        samples.append(np.sort(np.random.default_rng((seed, k)).permutation(rows)[:images]))
    return samples


def load_dictionaries(folder: Path, source: list[str]) -> torch.Tensor:
    """The bank (K, M, 3, h, w), borrowed dictionaries filled in."""
    return torch.stack([load_file(_path(folder, int(owner)))["atoms"] for owner in source])


def _fetch(prepared: Path, samples: dict[int, np.ndarray], side: int) -> dict[int, Any]:
    """The sampled images of every cluster, by one streaming pass over the prepared files, in the object store."""
    import ray

    owner = {int(row): k for k, rows in samples.items() for row in rows}
    rows_of_interest = np.array(sorted(owner))
    found: dict[int, list] = {k: [] for k in samples}
    for path in sorted((prepared / TRAIN).glob("*.parquet")):
        for group in pq.ParquetFile(path).iter_batches(1024, columns=["row", "image"]):
            rows = group.column("row").to_numpy()
            hits = np.flatnonzero(np.isin(rows, rows_of_interest))
            if len(hits):
                table = pa.Table.from_batches([group]).take(hits)
                for row, pixels in zip(rows[hits], read_pixels(table, side)):
                    found[owner[int(row)]].append((row, pixels))
    ordered = {k: np.stack([pixels for _, pixels in sorted(pairs, key=lambda p: p[0])]) for k, pairs in found.items()}
    return {k: ray.put(stack) for k, stack in ordered.items()}


class _Learner:
    def __init__(self, folder: Path, csc: Csc, settings: Dictionaries, seed: int, progress):
        torch.set_num_threads(1)
        self.folder, self.csc, self.settings, self.seed, self.progress = folder, csc, settings, seed, progress

    def learn(self, k: int, images: np.ndarray) -> None:
        pixels = torch.from_numpy(images.copy()).float() / 255
        _, high = tikhonov_split(pixels, lmbda=self.csc.tikhonov, pad=self.csc.pad)
        try:
            atoms = learn_dictionary(
                high,
                atoms=self.settings.atoms,
                size=self.settings.size,
                lmbda=self.csc.lmbda,
                passes=self.settings.passes,
                seed=self.seed,
                progress=lambda done, total: self.progress.add.remote(1),
                engine=self.settings.engine,
            )
            tensors = {"atoms": atoms.contiguous()}
        except DataError:
            tensors = {}
        temporary = self.folder / f".{k}.{os.getpid()}"
        save_file(tensors, temporary)
        os.replace(temporary, _path(self.folder, k))


def _path(folder: Path, k: int) -> Path:
    return folder / f"{k:05d}.safetensors"


def _fill_gaps(folder: Path, cluster_of_row: np.ndarray, cluster_class: list[int]) -> list[str]:
    """For each cluster, the number of the cluster whose dictionary it uses: its own where it has one."""
    count = len(cluster_class)
    sizes = np.bincount(cluster_of_row[cluster_of_row >= 0], minlength=count)
    learned = [k for k in range(count) if load_file(_path(folder, k))]
    if not learned:
        raise DataError("no cluster holds an image with detail: there is nothing to learn a dictionary from")
    source = []
    for k in range(count):
        kin = [j for j in learned if cluster_class[j] == cluster_class[k]] or learned
        source.append(str(k if k in learned else max(kin, key=lambda j: sizes[j])))
    return source
