"""What one Ray Train worker does: its share of the batches, through the plain training loop, with checkpoints."""

import json
import os
import tempfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch

from raypurify.attacks import PGD
from raypurify.clusters import ClusterDistributions
from raypurify.config import RobustTraining, Training
from raypurify.errors import TrainingError
from raypurify.nets import WideResNet
from raypurify.nets.store import load_network
from raypurify.pipeline.prepared import VALIDATION, batches, read_part, read_pixels
from raypurify.training import Batch, measure, train_epochs
from raypurify.training.loop import Semantic

METRICS, CHECKPOINT = "metrics.jsonl", "checkpoint.pt"
SHUFFLE_ROWS, CHECKED_IMAGES = 8192, 1024


def work(config: dict[str, Any]) -> None:
    """The function that every Ray Train worker runs; ``config`` is what ``train`` made."""
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
        semantic = Semantic(PGD(**settings.attack.model_dump()), distributions.to(get_device()), settings.alpha)
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
            resume = load_checkpoint(Path(directory))
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


def load_checkpoint(directory: Path) -> dict[str, Any]:
    """What ``train_epochs`` can resume from. Raises TrainingError where it cannot be read."""
    try:
        return torch.load(directory / CHECKPOINT, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError) as e:
        raise TrainingError(f"cannot read the checkpoint in {directory}: {e}; remove it to train from the start") from e
