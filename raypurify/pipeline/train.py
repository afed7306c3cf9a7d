"""Stages 2 and 6: a network trained by Ray Train workers on the prepared images, plain or robust."""

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raypurify.config import Network, Training
from raypurify.errors import RaypurifyError, TrainingError
from raypurify.nets import WideResNet
from raypurify.nets.store import save_network
from raypurify.pictures import training_curve
from raypurify.pipeline.prepared import TRAIN
from raypurify.pipeline.progress import shared_progress
from raypurify.pipeline.train_worker import METRICS, load_checkpoint, work

NETWORK = "network.safetensors"


def train(
    folder: Path,
    prepared: Path,
    classes: int,
    rows: int,
    side: int,
    architecture: Network,
    settings: Training,
    seed: int,
    *,
    init: Path | None = None,
    clusters: Path | None = None,
) -> dict[str, Any]:
    """Train into ``folder/network.safetensors``; ``metrics.jsonl`` has a line per epoch, ``curve.png`` the picture.

    With RobustTraining settings, ``clusters`` is the folder of the clusters stage. An interrupted training goes on from
    the checkpoint of its last whole epoch. Raises TrainingError.
    """
    import ray
    from ray.train import CheckpointConfig, DataConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    batch = settings.batch_size // settings.workers
    steps = rows // settings.workers // max(1, batch)
    if not batch or not steps:
        raise TrainingError(
            f"{rows} images do not fill one batch of {settings.batch_size} over {settings.workers} workers"
        )
    done = len(_metrics(folder))
    counted = steps * batch * settings.workers
    config = {
        "folder": str(folder),
        "prepared": str(prepared),
        "side": side,
        "network": {
            "depth": architecture.depth,
            "width": architecture.width,
            "classes": classes,
            "dropout": architecture.dropout,
        },
        "settings": settings.model_dump(),
        "steps": steps,
        "seed": seed,
        "init": str(init) if init else None,
        "clusters": str(clusters) if clusters else None,
        "progress": shared_progress(folder, counted * settings.epochs, "images", start=counted * done),
    }
    gpus = ray.cluster_resources().get("GPU", 0) >= settings.workers
    cpus = int(ray.cluster_resources()["CPU"])
    if settings.workers >= cpus:
        # Not an error: a cluster may grow. But Ray would wait without a word.
        print(
            f"{folder.name}: waits for {settings.workers + 1} CPUs, there are {cpus}; or ask for fewer workers",
            flush=True,
        )
    trainer = TorchTrainer(
        work,
        train_loop_config=config,
        datasets={
            "train": ray.data.read_parquet(str(prepared / TRAIN), partitioning=None, columns=["row", "label", "image"])
        },
        dataset_config=DataConfig(datasets_to_split=["train"]),
        scaling_config=ScalingConfig(num_workers=settings.workers, use_gpu=gpus),
        run_config=RunConfig(
            name="ray_train",
            storage_path=str(folder.resolve()),
            failure_config=FailureConfig(max_failures=2),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        with _own_interrupt():
            result = trainer.fit()
    except Exception as e:
        raise _cause(e) from e
    network = WideResNet(**config["network"])
    with result.checkpoint.as_directory() as directory:
        network.load_state_dict(load_checkpoint(Path(directory))["network"])
    save_network(folder / NETWORK, network)
    lines = _metrics(folder)
    (folder / "curve.png").write_bytes(training_curve(lines))
    return {"epochs": settings.epochs, **{k: lines[-1][k] for k in ("loss", "validation_accuracy")}}


def _metrics(folder: Path) -> list[dict[str, float]]:
    """A line per epoch; an epoch done twice after a kill counts once, by its last line."""
    path = folder / METRICS
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [by for _, by in sorted({line["epoch"]: line for line in lines}.items())]


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
