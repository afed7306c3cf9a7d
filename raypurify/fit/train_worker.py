"""One Ray Train worker: its share of the batches, through the plain training loop, with checkpoints."""

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raypurify.clusters.files import load_clusters
from raypurify.config import TrainingSettings
from raypurify.errors import TrainingError
from raypurify.fit.feed import epoch_tables, steps_of, training_units
from raypurify.runtime.resources import local_cores
from raypurify.storage import Place
from raypurify.training import Batch, train_epochs
from raypurify.training.checkpoint import read_checkpoint, write_checkpoint
from raypurify.training.data import VALIDATION, clusters_of, read_part, read_pixels
from raypurify.training.guard import guard_of
from raypurify.training.kinds import kind_of
from raypurify.training.order import CHECKED_IMAGES, some_of
from raypurify.training.record import add_line, device_name, keep_lines

CHECKPOINT = "checkpoint.pt"


def work(config: dict[str, Any]) -> None:
    """The function that every Ray Train worker runs; ``config`` is what ``train`` made."""
    import ray.train
    from ray.train.torch import get_device, prepare_model

    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(max(1, local_cores() // context.get_local_world_size()))
    settings: TrainingSettings = config["settings"]
    folder, prepared, side, seed = (config[name] for name in ("folder", "prepared", "side", "seed"))
    units = training_units(prepared)
    steps, batch = steps_of(sum(unit.rows for unit in units), settings.batch_size, world)

    model = prepare_model(config["start"]().to(memory_format=torch.channels_last))
    distributions, cluster_of_row = None, None
    if config["clusters"]:
        distributions, cluster_of_row = load_clusters(config["clusters"])
        distributions = distributions.to(get_device())
    kind = kind_of(settings, distributions, getattr(model, "module", model), seed)
    latest = ray.train.get_checkpoint()
    resume = None
    if latest:
        with latest.as_directory() as directory:
            resume = read_checkpoint(Path(directory) / CHECKPOINT, folder)
    if rank == 0:
        keep_lines(folder, resume["epochs"] if resume else 0)

    def epoch_batches(epoch: int, first: int) -> Iterator[Batch]:
        for table in epoch_tables(units, side, batch, steps, epoch, seed, rank, world, first):
            images, labels = read_pixels(table, side).copy(), table.column("label").to_numpy().copy()
            clusters = None
            if distributions is not None and cluster_of_row is not None:
                own = clusters_of(table.column("row").to_numpy(), cluster_of_row, distributions.clusters)
                clusters = torch.from_numpy(own)
            yield Batch(torch.from_numpy(images), torch.from_numpy(labels), clusters)

    count = _counter(config["progress"])

    def on_epoch(epoch: int, metrics: dict[str, Any], state: Callable[[], dict[str, Any]]) -> None:
        count(0, now=True)
        # The line first: a checkpoint never knows of an epoch that the metrics lack.
        if not rank:
            add_line(folder, epoch, metrics | {"workers": world, "device": device_name(get_device())})
            numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
            config["progress"].measure.remote(epochs=epoch + 1, **numbers)
        report(metrics, state)

    def report(metrics: dict[str, Any], state: Callable[[], dict[str, Any]]) -> None:
        if rank:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as directory:
            write_checkpoint(Path(directory) / CHECKPOINT, state())
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(directory))

    train_epochs(
        model,
        epoch_batches,
        settings,
        steps,
        objective=kind.objective,
        validate=partial(kind.validate, batches=_checked(prepared, side, seed, rank, world), together=world > 1),
        guard=guard_of(settings),
        supervision=kind.supervision,
        # Workers draw different crops, attack starts and noise.
        seed=seed * 1009 + rank,
        resume=resume,
        on_step=count,
        on_checkpoint=lambda state: report({}, state),
        on_epoch=on_epoch,
    )


def _counter(progress: Any) -> Callable[..., None]:
    """Tells the progress actor of images once a second, or ``now``: the steps of a small network are many."""
    waiting, told = 0, time.monotonic()

    def add(images: int, now: bool = False) -> None:
        nonlocal waiting, told
        waiting += images
        if now or time.monotonic() - told >= 1:
            progress.add.remote(waiting)
            waiting, told = 0, time.monotonic()

    return add


def _checked(prepared: Place, side: int, seed: int, rank: int, world: int) -> list[Batch]:
    """This worker's share of the validation images that every epoch looks at."""
    rows = read_part(prepared, VALIDATION, ["row"])["row"].to_numpy()
    if not len(rows):
        raise TrainingError("there are no validation images: raise data.validation")
    own = rows[some_of(len(rows), CHECKED_IMAGES, seed)[rank::world]]
    table = read_part(prepared, VALIDATION, ["row", "label", "image"], own)
    images, labels = read_pixels(table, side).copy(), np.array(table.column("label"))
    return [
        Batch(torch.from_numpy(images[at : at + 256]), torch.from_numpy(labels[at : at + 256]))
        for at in range(0, len(labels), 256)
    ]
