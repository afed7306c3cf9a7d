"""Stages 2 and 6: a network trained by Ray Train workers on the prepared images, plain or robust."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raypurify.attacks import PGD
from raypurify.clusters import ClusterDistributions
from raypurify.config import Attack, Network, RobustTraining, Training
from raypurify.errors import RaypurifyError, TrainingError
from raypurify.nets import WideResNet
from raypurify.nets.store import load_network, save_network
from raypurify.pipeline.prepare import TRAIN, VALIDATION, read_part, read_pixels
from raypurify.pipeline.progress import shared_progress
from raypurify.training import Batch, measure, train_epochs
from raypurify.training.loop import Semantic

NETWORK, METRICS, CHECKPOINT = "network.safetensors", "metrics.jsonl", "checkpoint.pt"
SHUFFLE_ROWS, CHECKED_IMAGES = 8192, 1024


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
    trainer = TorchTrainer(
        _worker,
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
        result = trainer.fit()
    except Exception as e:
        raise _cause(e) from e
    network = WideResNet(**config["network"])
    with result.checkpoint.as_directory() as directory:
        network.load_state_dict(_load_checkpoint(Path(directory))["network"])
    save_network(folder / NETWORK, network)
    lines = _metrics(folder)
    _draw(folder / "curve.png", lines)
    return {"epochs": settings.epochs, **{k: lines[-1][k] for k in ("loss", "validation_accuracy")}}


def make_attack(settings: Attack) -> PGD:
    """The attack object of typed settings."""
    return PGD(**settings.model_dump())


def batches(table, side: int, size: int = 256):
    """A small table of prepared images as batches, in its order."""
    images, labels = (
        torch.from_numpy(read_pixels(table, side).copy()),
        torch.from_numpy(table.column("label").to_numpy()),
    )
    for start in range(0, len(labels), size):
        yield Batch(images[start : start + size], labels[start : start + size])


def _worker(config: dict[str, Any]) -> None:
    import ray.train
    from ray.train.torch import get_device, prepare_model

    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // context.get_local_world_size()))
    torch.manual_seed(config["seed"])
    robust = "attack" in config["settings"]
    settings = (RobustTraining if robust else Training)(**config["settings"])
    folder, side = Path(config["folder"]), config["side"]

    network = load_network(Path(config["init"])) if config["init"] else WideResNet(**config["network"])
    model = prepare_model(network.to(memory_format=torch.channels_last))
    semantic, cluster_of_row = None, None
    if robust:
        distributions, cluster_of_row = load_clusters(Path(config["clusters"]))
        semantic = Semantic(make_attack(settings.attack), distributions.to(get_device()), settings.alpha)
    checked = read_part(Path(config["prepared"]), VALIDATION)[:CHECKED_IMAGES] if rank == 0 else None
    shard = ray.train.get_dataset_shard("train")

    def epoch_batches(epoch: int):
        tables = shard.iter_batches(
            batch_size=settings.batch_size // world,
            batch_format="pyarrow",
            drop_last=True,
            local_shuffle_buffer_size=SHUFFLE_ROWS,
            local_shuffle_seed=config["seed"] * 1009 + epoch,
        )
        for step, table in enumerate(tables):
            # Every worker takes the same number of steps, or the others would wait for ever in the gradient sum.
            if step == config["steps"]:
                break
            clusters = (
                None if cluster_of_row is None else torch.from_numpy(cluster_of_row[table.column("row").to_numpy()])
            )
            labels = torch.from_numpy(table.column("label").to_numpy().copy())
            yield Batch(torch.from_numpy(read_pixels(table, side).copy()), labels, clusters)

    def on_epoch(epoch: int, metrics: dict[str, float], state) -> None:
        if rank:
            ray.train.report(metrics)
            return
        metrics = metrics | {"validation_accuracy": measure(network, batches(checked, side))["accuracy"]}
        with tempfile.TemporaryDirectory() as directory:
            torch.save(state(), Path(directory) / CHECKPOINT)
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(directory))
        with (folder / METRICS).open("a") as file:
            file.write(json.dumps({"epoch": epoch, **{k: round(v, 5) for k, v in metrics.items()}}) + "\n")

    latest = ray.train.get_checkpoint()
    resume = None
    if latest:
        with latest.as_directory() as directory:
            resume = _load_checkpoint(Path(directory))
    train_epochs(
        model,
        epoch_batches,
        settings,
        config["steps"],
        semantic=semantic,
        # Workers draw different crops and attack starts.
        seed=config["seed"] * 1009 + rank,
        resume=resume,
        on_step=lambda images: config["progress"].add.remote(images),
        on_epoch=on_epoch,
    )


def load_clusters(folder: Path) -> tuple[ClusterDistributions, np.ndarray]:
    """Distributions, and the global cluster index of every source row (-1: not a training image)."""
    from safetensors.torch import load_file

    form = json.loads((folder / "clusters.json").read_text("utf-8"))["form"]
    distributions = ClusterDistributions.from_state(load_file(folder / "distributions.safetensors"), form=form)
    return distributions, np.load(folder / "cluster_of_row.npy", allow_pickle=False)


def _load_checkpoint(directory: Path) -> dict[str, Any]:
    try:
        return torch.load(directory / CHECKPOINT, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError) as e:
        raise TrainingError(f"cannot read the checkpoint in {directory}: {e}; remove it to train from the start") from e


def _metrics(folder: Path) -> list[dict[str, float]]:
    """A line per epoch; an epoch done twice after a kill counts once, by its last line."""
    path = folder / METRICS
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [by for _, by in sorted({line["epoch"]: line for line in lines}.items())]


def _cause(error: BaseException) -> BaseException:
    """Our own error inside Ray Train's wrapping, if there is one."""
    inner = [error, *getattr(error, "worker_failures", {}).values()]
    for e in inner:
        while e is not None:
            if isinstance(e, RaypurifyError):
                return type(e)(str(e))
            e = e.__cause__ or getattr(e, "cause", None)
    return error


def _draw(path: Path, lines: list[dict[str, float]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    epochs = [line["epoch"] + 1 for line in lines]
    left.plot(epochs, [line["loss"] for line in lines])
    left.set(xlabel="epoch", ylabel="training loss")
    for key, name in (("accuracy", "training batches"), ("validation_accuracy", "validation, clean")):
        right.plot(epochs, [line[key] for line in lines], label=name)
    right.set(xlabel="epoch", ylabel="accuracy", ylim=(0, 1))
    right.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)
