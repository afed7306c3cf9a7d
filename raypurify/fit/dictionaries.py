"""The dictionaries stage: a convolutional dictionary per cluster, learned in actors, one cluster each at a time."""

from typing import Any

import numpy as np
import torch
from safetensors.torch import load

from raypurify.config import CscSettings, DictionarySettings
from raypurify.errors import DataError
from raypurify.files import reading
from raypurify.fit.learner import Learner, dictionary_path
from raypurify.fit.samples import choose_samples, draw, fetch_samples
from raypurify.runtime.pool import work_off
from raypurify.runtime.progress import Progress
from raypurify.runtime.resources import cluster_resources
from raypurify.storage import Place, overlapped
from raypurify.training.data import TRAIN

GLOBAL, FETCHED = "global", "samples"
# Learners that share a GPU: a step, of four small images, leaves most of it idle.
GPU_LEARNERS = 4


def learn_dictionaries(
    folder: Place,
    prepared: Place,
    cluster_of_row: np.ndarray,
    cluster_class: list[int | None],
    side: int,
    csc: CscSettings,
    settings: DictionarySettings,
    seed: int,
) -> dict[str, Any]:
    """Write ``folder/NNNNN.safetensors`` for every cluster, each as soon as it is learned; finished ones stay.

    A dictionary is learned from the high parts of a seeded sample of its cluster's images; one image is enough. Where
    none of them varies there is nothing to learn, and the file is empty: the cluster uses the dictionary of the largest
    cluster of its class that has one, else a global one, learned from a seeded sample of all those clusters' samples.
    Clusters of no class use that of the largest of them.

    Args:
        folder: of the stage, on storage that all nodes share.
        prepared: the folder that ``prepare`` wrote, images of 3 × ``side`` × ``side``.
        cluster_of_row: (rows of the source,) integers, the cluster of each image, −1 for none.
        cluster_class: the class of each cluster, None for one of no class.

    Returns:
        ``source``: for each cluster, whose dictionary it uses: a cluster's number, its own where it has one, or
        ``"global"``. ``borrowed``: how many use another's than their own.

    Raises:
        DataError: no sampled image varies, or ``learn_dictionary`` refuses the settings.
        TrainingError: actors died over one cluster again and again.
    """
    count = len(cluster_class)
    chosen = choose_samples(cluster_of_row, count, settings.images, seed)
    samples = {str(k): rows for k, rows in enumerate(chosen)}

    def learn() -> None:
        _learn(folder, prepared, samples, len(cluster_of_row), side, csc, settings, seed)

    learn()
    learned = overlapped(lambda k: _load(folder, str(k)), range(count))
    own = [k for k, tensors in enumerate(learned) if tensors]
    if not own:
        raise DataError("no cluster holds an image with detail: there is nothing to learn a dictionary from")
    sizes = np.bincount(cluster_of_row[cluster_of_row >= 0], minlength=count)
    by_size = sorted(own, key=lambda k: -sizes[k])
    largest = {cluster_class[k]: str(k) for k in reversed(by_size)}
    source = [str(k) if k in own else largest.get(cluster_class[k], GLOBAL) for k in range(count)]
    if GLOBAL in source:
        samples[GLOBAL] = draw(np.concatenate([chosen[k] for k in own]), settings.images, (seed, count))
        learn()
        if not _load(folder, GLOBAL):  # it happened to hold constant images only
            source = [str(by_size[0]) if owner == GLOBAL else owner for owner in source]
    (folder / FETCHED).delete_folder()
    borrowed = sum(owner != str(k) for k, owner in enumerate(source))
    return {"dictionaries": count, "borrowed": borrowed, "source": source}


def load_dictionaries(folder: Place, source: list[str]) -> torch.Tensor:
    """The bank (K, M, 3, h, w) float32, for each cluster the dictionary that it uses."""

    def used(owner: str) -> torch.Tensor:
        with reading(dictionary_path(folder, owner)):
            return _load(folder, owner)["atoms"]

    owners = list(dict.fromkeys(source))
    atoms = dict(zip(owners, overlapped(used, owners)))
    return torch.stack([atoms[owner] for owner in source])


def _load(folder: Place, name: str) -> dict[str, torch.Tensor]:
    file = dictionary_path(folder, name)
    with reading(file):
        return load(file.read())


def _learn(
    folder: Place,
    prepared: Place,
    samples: dict[str, np.ndarray],
    source_rows: int,
    side: int,
    csc: CscSettings,
    settings: DictionarySettings,
    seed: int,
) -> None:
    """Learn what is not there yet: fetch the images first, then start the actors, so that neither waits for a CPU that
    the other holds."""
    import ray

    there = set(folder.names())
    wanted = [name for name in samples if dictionary_path(folder, name).name not in there]
    images = {name: settings.passes * len(rows) for name, rows in samples.items()}
    finished, total = len(samples) - len(wanted), sum(images.values())
    progress = Progress(folder, total, "images", start=total - sum(images[name] for name in wanted))
    if not wanted:
        return
    number = {name: n for n, name in enumerate(wanted)}
    files, rows = (prepared / TRAIN).files(".parquet"), [samples[name] for name in wanted]
    copies = fetch_samples(folder / FETCHED, files, rows, source_rows, lambda note: progress.add(0, note))
    room, asks, device = _room(settings)
    learner, arguments = ray.remote(**asks)(Learner), (folder, copies, side, csc, settings, seed, device)

    def start() -> Any:
        return learner.remote(*arguments)

    def call(actor: Any, name: str) -> Any:
        return actor.learn.remote(name, number[name])

    progress.add(0, f"clusters {finished}/{len(samples)}")
    progress.measure(clusters=finished)
    # Images are counted when their cluster is done, so that one begun again after a death does not count twice.
    for name in work_off(wanted, "cluster", start, min(room, len(wanted)), call):
        finished += 1
        progress.measure(clusters=finished)
        progress.add(images[name], f"clusters {finished}/{len(samples)}")


def _room(settings: DictionarySettings) -> tuple[int, dict[str, Any], str]:
    """For how many learners the Ray cluster has room, what each asks of it, and on which device it learns."""
    has = cluster_resources()
    gpus = has.gpus if settings.engine == "torch" else 0
    room = GPU_LEARNERS * gpus or max(1, has.cpus - 1)
    asks = {"num_gpus": 1 / GPU_LEARNERS, "num_cpus": 0} if gpus else {"num_cpus": 1}
    return min(room, settings.actors or room), asks, "cuda" if gpus else "cpu"
