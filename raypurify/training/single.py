"""A whole training on one machine: the same steps as the Ray workers take, on one device, from images in memory."""

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from raypurify.clusters.files import load_clusters
from raypurify.config import Settings, TrainingSettings
from raypurify.errors import ConfigError, DataError, TrainingError, of_file
from raypurify.files import read_object, write_json
from raypurify.nets.store import save_network
from raypurify.pictures import training_curve
from raypurify.supervision import OF_CLASSES
from raypurify.training.batch import Batch
from raypurify.training.checkpoint import read_checkpoint, write_checkpoint
from raypurify.training.data import ImageSet, clusters_of, count_classes
from raypurify.training.guard import guard_of
from raypurify.training.kinds import kind_of
from raypurify.training.loop import train_epochs
from raypurify.training.order import CHECKED_IMAGES, epoch_order, some_of
from raypurify.training.record import add_line, device_name, ended_lines, keep_lines
from raypurify.training.start import starting_network
from raypurify.training.supervision import save_supervision

NETWORK, CHECKPOINT, IDENTITY, CURVE = "network.safetensors", "checkpoint.pt", "training.json", "curve.png"


def _say(line: str) -> None:
    print(line, flush=True)


def train_here(
    out: Path,
    images: ImageSet,
    held_out: ImageSet,
    settings: Settings,
    *,
    robust: bool = False,
    clusters: Path | None = None,
    baseline: Path | None = None,
    every: int = 1,
    say: Callable[[str], None] = _say,
) -> list[dict[str, Any]]:
    """Train into ``out``: ``network.safetensors``, ``metrics.jsonl``, ``curve.png``; the metrics come back.

    The baseline by default, by ``settings.baseline``; with ``robust`` the robust network by ``settings.robust``, with
    the pull to ``clusters`` (the folder of the clusters stage) where it is given. A checkpoint is written ``every``
    so many epochs, and within them every ``checkpoint_steps``; called again after an interruption, the training goes on
    from it, and on a CPU comes to the same network bit for bit. ``say`` is told a line an epoch.

    Raises ConfigError, also for settings of another method than rsfp, DataError, or TrainingError, also when ``out``
    holds a training of other settings or images.
    """
    if settings.method != "rsfp":
        raise ConfigError(
            f"the settings are of the method {settings.method}, and here the networks of rsfp are trained: "
            "set method to rsfp, or train by raypurify fit with --until"
        )
    part: TrainingSettings = settings.robust if robust else settings.baseline
    classes = count_classes(images.labels, held_out.labels)
    architecture = {**settings.network.model_dump(), "classes": classes}
    network = starting_network(settings.robust.init if robust else "random", architecture, settings.seed, baseline)
    return train_network_here(
        out,
        network,
        images,
        held_out,
        part,
        settings.seed,
        architecture=architecture,
        clusters=clusters,
        every=every,
        say=say,
    )


def train_network_here(
    out: Path,
    network: nn.Module,
    images: ImageSet,
    held_out: ImageSet,
    settings: TrainingSettings,
    seed: int = 0,
    *,
    architecture: dict[str, Any],
    clusters: Path | None = None,
    every: int = 1,
    say: Callable[[str], None] = _say,
) -> list[dict[str, Any]]:
    """Train any ``network``, in place, for what the type of ``settings`` says (``training.kinds``), as ``train_here``.

    ``architecture`` says in JSON what is trained, so that no checkpoint of another network is gone on from.

    Raises ConfigError, DataError, or TrainingError, also when ``out`` holds a training of other settings or images.
    """
    steps = len(images) // settings.batch_size
    if not steps:
        raise DataError(f"{len(images)} images do not fill one batch of {settings.batch_size}: lower batch_size")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    distributions, own, inputs = None, None, [*vars(images).values(), *vars(held_out).values()]
    if clusters:
        distributions, cluster_of_row = load_clusters(clusters)
        own = clusters_of(images.rows, cluster_of_row, distributions.clusters)
        inputs += [own, *(tensor.numpy() for tensor in distributions.state().values())]
        distributions = distributions.to(device)
        if distributions.dim != network.dim:
            raise ConfigError(f"the clusters have {distributions.dim} features, the network {network.dim}")
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    kind = kind_of(settings, distributions, network, seed)
    digests = [hashlib.sha256(np.ascontiguousarray(array).data).hexdigest() for array in inputs]
    # As the file has it, which is compared with: JSON knows no tuples.
    decisive = settings.model_dump(mode="json", exclude={"checkpoint_steps"})
    identity = {"settings": decisive, "network": architecture, "seed": seed, "images": digests}
    resume = _resume(out, identity, say)
    checked = held_out.take(some_of(len(held_out), CHECKED_IMAGES, seed))

    def epoch_batches(epoch: int, first: int) -> Iterator[Batch]:
        order = epoch_order(len(images), epoch, seed)[first * settings.batch_size : steps * settings.batch_size]
        return images.batches(order, settings.batch_size, own)

    def on_epoch(epoch: int, metrics: dict[str, Any], state: Callable[[], dict[str, Any]]) -> None:
        # The line first: a checkpoint never knows of an epoch that the metrics lack.
        add_line(out, epoch, metrics | {"device": device_name(device)})
        say(_line(epoch, settings.epochs, metrics))
        if (epoch + 1) % every == 0 or epoch + 1 == settings.epochs or "note" in metrics:
            write_checkpoint(out / CHECKPOINT, state())

    train_epochs(
        network,
        epoch_batches,
        settings,
        steps,
        objective=kind.objective,
        validate=partial(kind.validate, batches=list(checked.batches(np.arange(len(checked)), 256))),
        guard=guard_of(settings),
        supervision=kind.supervision,
        seed=seed,
        resume=resume,
        on_checkpoint=lambda state: write_checkpoint(out / CHECKPOINT, state()),
        on_epoch=on_epoch,
    )
    save_network(out / NETWORK, network)
    if kind.supervision is not None:
        save_supervision(out, kind.supervision.state_dict(), settings)
    lines = ended_lines(out)
    (out / CURVE).write_bytes(training_curve(lines))
    return lines


def _resume(out: Path, identity: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any] | None:
    """The checkpoint to go on from, None where there is none; afterwards the folder is this training's."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        resume = None
        if (out / CHECKPOINT).exists():
            found = _identity(out)
            differs = [key for key in identity if found.get(key) != identity[key]]
            if differs:
                raise TrainingError(f"{out} holds a training of other {', '.join(differs)}: choose another folder")
            resume = read_checkpoint(out / CHECKPOINT)
            step = resume.get("within", {}).get("step", 0)
            say(f"going on after epoch {resume['epochs']}" + (f", step {step}" if step else ""))
        else:
            write_json(out / IDENTITY, identity)
        keep_lines(out, resume["epochs"] if resume else 0)
    except OSError as e:
        raise TrainingError(f"cannot go on in {out}: {e}; choose another folder") from e
    return resume


def _identity(out: Path) -> dict[str, Any]:
    """Of which settings and images the checkpoint is that lies in a folder."""
    try:
        found, why = read_object(out / IDENTITY), "is missing"
    except ValueError as e:
        found, why = None, f"is damaged ({of_file(e)})"
    if found is None:
        raise TrainingError(
            f"{out / IDENTITY} {why}, which says of what training {CHECKPOINT} there is: delete {out / CHECKPOINT} to "
            "train from the start, or choose another folder"
        )
    return found


def _line(epoch: int, epochs: int, metrics: dict[str, Any]) -> str:
    names = {
        "loss": "loss",
        "distance": "distance",
        **{name: name for name in OF_CLASSES},
        "validation_accuracy": "accuracy",
        "validation_pgd_accuracy": "under PGD",
        "validation_psnr": "PSNR",
    }
    told = {name: metrics[key] for key, name in names.items() if key in metrics}
    # The mean square of a denoiser is small.
    facts = ", ".join(f"{name} {value:.3f}" if value >= 0.1 else f"{name} {value:.2g}" for name, value in told.items())
    text = f"epoch {epoch + 1}/{epochs}: {facts}, {metrics['images_per_second']:,.0f} images/s"
    return text + (f"\n{metrics['note']}" if "note" in metrics else "")
