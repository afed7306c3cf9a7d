"""Stages that train a network on the prepared images, by Ray Train workers: baseline, robust_first, robust, dae."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from raypurify.config import TrainingSettings
from raypurify.errors import RaypurifyError, TrainingError
from raypurify.fit.feed import steps_of
from raypurify.fit.train_worker import CHECKPOINT, work
from raypurify.fit.units import prepared_files
from raypurify.nets.store import save_network
from raypurify.pictures import training_curve
from raypurify.runtime.events import log_event
from raypurify.runtime.progress import shared_progress
from raypurify.runtime.resources import cluster_resources
from raypurify.storage import Place
from raypurify.supervision import OF_CLASSES
from raypurify.training.checkpoint import final_supervision, final_weights, read_checkpoint
from raypurify.training.data import TRAIN, VALIDATION
from raypurify.training.record import ended_lines, read_lines
from raypurify.training.supervision import save_supervision

NETWORK = "network.safetensors"
REPORTED = (
    "loss",
    *OF_CLASSES,
    "validation_accuracy",
    "validation_pgd_accuracy",
    "validation_loss",
    "validation_psnr",
    "workers",
    "device",
    "note",
)
# Workers or nodes that may be lost before a training gives up.
FAILURES = 4
# Workers of a cluster without GPUs, unless the settings say otherwise.
WORKERS = 2


def train(
    folder: Place,
    prepared: Place,
    rows: int,
    side: int,
    start: Callable[[], nn.Module],
    settings: TrainingSettings,
    seed: int,
    *,
    clusters: Place | None = None,
) -> dict[str, Any]:
    """Train into ``folder/network.safetensors``; ``metrics.jsonl`` has a line per epoch, ``curve.png`` the picture.

    ``start`` makes the network with the weights that training starts from, on every worker, whose working directory is
    not this one. The type of ``settings`` says what is trained for (``training.kinds``); with RobustTrainingSettings,
    ``clusters`` is the folder of the clusters stage. A training that was interrupted goes on from the checkpoint of its
    last whole epoch, and so does one that lost a worker or a node, with the workers there is room for,
    ``settings.min_workers`` at least.

    Raises TrainingError, ConfigError, or SourceError naming a prepared file that is damaged.
    """
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from raypurify.fit.meeting import HostsTorchConfig

    has = cluster_resources()
    workers = settings.workers or has.gpus or WORKERS
    steps, batch = steps_of(rows, settings.batch_size, workers)
    if not batch or not steps:
        raise TrainingError(
            f"{rows} images do not fill one batch of {settings.batch_size} over {workers} workers; "
            "lower batch_size or workers"
        )
    for part in (TRAIN, VALIDATION):
        # Raises where a file is damaged, before workers fail over it one after the other.
        prepared_files(prepared / part)
    done = len(read_lines(folder))
    counted = steps * batch * workers
    config = {
        "folder": folder,
        "prepared": prepared,
        "side": side,
        "start": start,
        "settings": settings,
        "seed": seed,
        "clusters": clusters,
        "progress": shared_progress(folder, counted * settings.epochs, "images", start=counted * done),
    }
    least = min(settings.min_workers or workers, workers)
    if 0 < has.gpus < least:
        _say(folder, f"on CPUs, as {least} workers are asked for and there are {has.gpus} GPUs")
    if least > has.cpus:
        # Not an error: a cluster may grow. But Ray would wait without a word.
        _say(folder, f"waits for {least} CPUs, there are {has.cpus}; or ask for fewer workers")
    trainer = TorchTrainer(
        work,
        train_loop_config=config,
        torch_config=HostsTorchConfig(),
        scaling_config=ScalingConfig(
            num_workers=workers if least == workers else (least, workers),  # type: ignore[arg-type]  # Ray takes a range
            use_gpu=has.gpus >= least,
        ),
        run_config=RunConfig(
            name="ray_train",
            storage_path=folder.path,
            storage_filesystem=folder.remote,
            failure_config=FailureConfig(max_failures=FAILURES),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        with _own_interrupt():
            result = trainer.fit()
    except Exception as e:
        raise _cause(e) from e
    network = start()
    assert result.checkpoint is not None  # the training has ended
    with result.checkpoint.as_directory() as directory:
        ended = read_checkpoint(Path(directory) / CHECKPOINT, folder)
    network.load_state_dict(final_weights(ended))
    save_network(folder / NETWORK, network)
    save_supervision(folder, final_supervision(ended), settings)
    lines = ended_lines(folder)
    (folder / "curve.png").write(training_curve(lines))
    return {"epochs": len(lines), **{k: v for k, v in lines[-1].items() if k in REPORTED}}


def _say(folder: Place, text: str) -> None:
    log_event("no_room", f"{folder.name}: {text}", logging.WARNING, text=text)


@contextmanager
def _own_interrupt() -> Iterator[None]:
    """Ray Train ends the process on Ctrl-C, and its handler outlives the training: make it the usual interrupt."""
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if main else None
    try:
        yield
    except SystemExit as e:
        raise KeyboardInterrupt from e
    finally:
        if main:
            signal.signal(signal.SIGINT, handler)


def _cause(error: BaseException) -> BaseException:
    """Our own error inside Ray Train's wrapping, if there is one."""
    inner = [error, *getattr(error, "worker_failures", {}).values()]
    for e in inner:
        while e is not None:
            if isinstance(e, RaypurifyError):
                return type(e)(str(e))
            e = e.__cause__ or getattr(e, "cause", None)
    return error
