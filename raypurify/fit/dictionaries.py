"""The dictionaries stage: a convolutional dictionary per cluster, learned in actors, one cluster each at a time."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load

from raypurify.config import CscSettings, DictionarySettings
from raypurify.errors import DataError
from raypurify.fit.learner import Learner, dictionary_path
from raypurify.fit.overlap import Handover
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
    clusters: Handover,
    side: int,
    csc: CscSettings,
    settings: DictionarySettings,
    seed: int,
) -> dict[str, Any]:
    """Write ``folder/NNNNN.safetensors`` for every cluster, each as soon as it is learned; finished ones stay.

    A dictionary is learned from the high parts of a seeded sample of its cluster's images; one image is enough. Where
    none of them varies there is nothing to learn, and the file is empty: the cluster uses the dictionary of the largest
    cluster of its class that has one, else a global one, learned from a seeded sample of all those clusters' samples.

    Args:
        folder: of the stage, on storage that all nodes share.
        prepared: the folder that ``prepare`` wrote, images of 3 × ``side`` × ``side``.
        clusters: all of them, or as they become known; while k-means goes on, learners leave it half of the CPUs.

    Returns:
        ``source``: for each cluster, whose dictionary it uses: a cluster's number, its own where it has one, or
        ``"global"``. ``borrowed``: how many use another's than their own.

    Raises:
        DataError: no sampled image varies, or ``learn_dictionary`` refuses the settings.
        TrainingError: actors died over one cluster again and again.
        OtherEnded: ``clusters`` was stopped.
    """
    progress, known, finished = Progress(folder, 0, "images"), 0, 0

    def learn(samples: dict[str, np.ndarray], rows: int, more: bool = False) -> None:
        nonlocal known, finished
        there = set(folder.names())
        todo = {name: chosen for name, chosen in samples.items() if dictionary_path(folder, name).name not in there}
        images = {name: settings.passes * len(chosen) for name, chosen in samples.items()}
        total, known = sum(images.values()), known + len(samples)
        finished += len(samples) - len(todo)
        progress.grow(total, total - sum(images[name] for name in todo), more)
        # Images are counted when their cluster is done, so that one begun again after a death does not count twice.
        for name in _learn(folder, prepared, todo, rows, side, csc, settings, seed, clusters, progress):
            finished += name is not None
            progress.measure(clusters=finished)
            progress.add(images[name] if name else 0, f"clusters {finished}/{known}")

    chosen: list[np.ndarray] = []
    for found in clusters.groups(partial(_has_room, settings, clusters)):
        before, chosen = len(chosen), choose_samples(found.of_row, len(found.owner), settings.images, seed)
        learn({str(k): chosen[k] for k in range(before, len(chosen))}, len(found.of_row), found.more)
    count = len(found.owner)
    learned = overlapped(lambda k: _load(folder, str(k)), range(count))
    own = [k for k, tensors in enumerate(learned) if tensors]
    if not own:
        raise DataError("no cluster holds an image with detail: there is nothing to learn a dictionary from")
    sizes = np.bincount(found.of_row[found.of_row >= 0], minlength=count)
    by_size = sorted(own, key=lambda k: -sizes[k])
    largest = {found.owner[k]: str(k) for k in reversed(by_size)}
    source = [str(k) if k in own else largest.get(found.owner[k], GLOBAL) for k in range(count)]
    if GLOBAL in source:
        some = draw(np.concatenate([chosen[k] for k in own]), settings.images, (seed, count))
        learn({GLOBAL: some}, len(found.of_row))
        if not _load(folder, GLOBAL):  # it happened to hold constant images only
            source = [str(by_size[0]) if owner == GLOBAL else owner for owner in source]
    (folder / FETCHED).delete_folder()
    borrowed = sum(owner != str(k) for k, owner in enumerate(source))
    return {"dictionaries": count, "borrowed": borrowed, "source": source}


def await_clusters(clusters: Handover, settings: DictionarySettings) -> None:
    """Wait until there are clusters to learn from, and room for learners. Raises OtherEnded."""
    next(clusters.groups(partial(_has_room, settings, clusters)))


def load_dictionaries(folder: Place, source: list[str]) -> torch.Tensor:
    """The bank (K, M, 3, h, w) float32, for each cluster the dictionary that it uses."""
    owners = list(dict.fromkeys(source))
    atoms = dict(zip(owners, overlapped(lambda owner: _load(folder, owner)["atoms"], owners)))
    return torch.stack([atoms[owner] for owner in source])


def _load(folder: Place, name: str) -> dict[str, torch.Tensor]:
    return load(dictionary_path(folder, name).read())


def _learn(
    folder: Place,
    prepared: Place,
    samples: dict[str, np.ndarray],
    source_rows: int,
    side: int,
    csc: CscSettings,
    settings: DictionarySettings,
    seed: int,
    clusters: Handover,
    progress: Progress,
) -> Iterator[str | None]:
    """Learn from ``samples``, and give None when that begins, and each name when it is done.

    The images are fetched first, then the actors start, so that neither waits for a CPU that the other holds.
    """
    import ray

    if not samples:
        return

    def say(note: str) -> None:
        clusters.check()
        progress.add(0, note)

    number = {name: n for n, name in enumerate(samples)}
    # A network file system may show for a while what was in a file of the same name before.
    place = folder / FETCHED / next(iter(samples))
    copies = fetch_samples(place, (prepared / TRAIN).files(".parquet"), list(samples.values()), source_rows, say)
    yield None
    _, asks, device = _room(settings, clusters.tasks())
    learner, arguments = ray.remote(**asks)(Learner), (folder, copies, side, csc, settings, seed, device)

    def start() -> Any:
        return learner.remote(*arguments)

    def size() -> int:
        return max(1, min(_room(settings, clusters.tasks()).learners, len(samples)))

    def call(actor: Any, name: str) -> Any:
        return actor.learn.remote(name, number[name])

    yield from work_off(samples, "cluster", start, size, call)
    place.delete_folder()


def _has_room(settings: DictionarySettings, clusters: Handover) -> bool:
    return _room(settings, clusters.tasks()).learners > 0


class _Room(NamedTuple):
    """For how many learners the Ray cluster has room, what each asks of it, and on which device it learns."""

    learners: int
    asks: dict[str, Any]
    device: str


def _room(settings: DictionarySettings, tasks: int) -> _Room:
    """The room for learners beside so many tasks of k-means, which keep half of the CPUs if they can use them."""
    has = cluster_resources()
    gpus = has.gpus if settings.engine == "torch" else 0
    cpus = has.cpus - min(tasks, -(-has.cpus // 2)) if tasks else max(1, has.cpus - 1)
    room = GPU_LEARNERS * gpus or cpus
    asks = {"num_gpus": 1 / GPU_LEARNERS, "num_cpus": 0} if gpus else {"num_cpus": 1}
    return _Room(min(room, settings.actors or room), asks, "cuda" if gpus else "cpu")
