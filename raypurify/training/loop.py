"""Epochs of training on one worker; data parallel when the model is wrapped, robust when an attack is given."""

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raypurify.attacks.base import Attack
from raypurify.clusters import ClusterDistributions
from raypurify.config import Training
from raypurify.errors import TrainingError
from raypurify.training.augment import flip_and_crop
from raypurify.training.losses import robust_semantic_loss

WARM_UP = 0.2


@dataclass(frozen=True)
class Batch:
    """Images (N, 3, S, S) uint8, labels (N,), and for robust training the global index of each image's cluster (N,)."""

    images: Tensor
    labels: Tensor
    clusters: Tensor | None = None


@dataclass(frozen=True)
class Semantic:
    """What robust semantic training adds to a step: the inner attack and the clean cluster distributions."""

    attack: Attack
    distributions: ClusterDistributions
    alpha: float


def train_epochs(
    model: nn.Module,
    epoch_batches: Callable[[int], Iterable[Batch]],
    settings: Training,
    steps_per_epoch: int,
    *,
    semantic: Semantic | None = None,
    seed: int = 0,
    resume: dict[str, Any] | None = None,
    on_step: Callable[[int], None] = lambda images: None,
    on_epoch: Callable[[int, dict[str, float], Callable[[], dict[str, Any]]], None],
) -> None:
    """Train ``model`` (a WideResNet, bare or wrapped in DistributedDataParallel) in place.

    Minimises eq. 1 of RSFP (cross-entropy and weight decay), or eq. 7 when ``semantic`` is given: each batch is
    replaced by its adversarial images, made against the current weights with batch-norm statistics frozen.

    ``epoch_batches(epoch)`` yields this worker's batches; ``on_epoch(epoch, metrics, state)`` is called after each
    with the mean ``loss``, ``accuracy`` (on what was trained on) and ``distance``, and a function that gives a
    checkpoint for ``resume``. Augmentation and attack are seeded by (seed, epoch): a resumed run repeats the
    uninterrupted one.

    Raises TrainingError when an epoch has no batch or the loss is not finite.
    """
    network = getattr(model, "module", model)
    device = next(network.parameters()).device
    optimizer = torch.optim.SGD(
        model.parameters(),
        settings.lr,
        settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.momentum > 0,
    )
    total = settings.epochs * steps_per_epoch
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle(step, total))
    start = 0
    if resume is not None:
        start = _restore(resume, network, optimizer, schedule)
    for epoch in range(start, settings.epochs):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        # The attack draws its start on the device it works on.
        attack_generator = torch.Generator(device).manual_seed(seed * 1_000_003 + epoch)
        sums, count = torch.zeros(3), 0
        model.train()
        for batch in epoch_batches(epoch):
            images = batch.images.to(device, torch.float32).div_(255)
            labels = batch.labels.to(device)
            if settings.augment:
                images = flip_and_crop(images, generator)
            with precision(settings, device):
                if semantic is not None:
                    network.eval()
                    images = semantic.attack(network, images, labels, generator=attack_generator)
                    network.train()
                logits, latents = model(images, with_latents=True)
                logits = logits.float()
            distances = latents.new_zeros(())
            if semantic is None:
                loss = F.cross_entropy(logits, labels)
            else:
                distances = semantic.distributions.own_distance(latents, batch.clusters.to(device))
                loss = robust_semantic_loss(logits, labels, distances, semantic.alpha)
            if not math.isfinite(loss.item()):
                raise TrainingError(
                    f"the loss became {loss.item()} in epoch {epoch}: lower the learning rate (now {settings.lr})"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                hits = (logits.argmax(1) == labels).float().mean()
                sums += torch.stack([loss.detach(), hits, distances.detach().mean()]).cpu() * len(labels)
            count += len(labels)
            on_step(len(labels))
        if not count:
            raise TrainingError(f"epoch {epoch} had no batch: fewer images than workers × batch size")
        metrics = dict(zip(("loss", "accuracy", "distance"), (sums / count).tolist()))
        done = epoch + 1
        on_epoch(epoch, metrics, lambda done=done: _checkpoint(done, network, optimizer, schedule))


def one_cycle(step: int, total: int) -> float:
    """Learning-rate factor: linear rise over the first fifth of the steps, then linear to 0 (Smith 2018's 1cycle).

    >>> [one_cycle(s, 10) for s in (0, 2, 6, 10)]
    [0.5, 1.0, 0.5, 0.0]
    """
    rise = max(1, round(WARM_UP * total))
    return (step + 1) / rise if step < rise else max(0.0, (total - step) / max(1, total - rise))


def precision(settings: Training, device: torch.device) -> AbstractContextManager:
    """The autocast context of the configured precision; master weights stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16")


def _checkpoint(epochs: int, network: nn.Module, optimizer, schedule) -> dict[str, Any]:
    return {
        "epochs": epochs,
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.last_epoch,
    }


def _restore(checkpoint: dict[str, Any], network: nn.Module, optimizer, schedule) -> int:
    try:
        network.load_state_dict(checkpoint["network"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        schedule.last_epoch = checkpoint["schedule"]
        for group, factor in zip(optimizer.param_groups, schedule.lr_lambdas):
            group["lr"] = group["initial_lr"] * factor(schedule.last_epoch)
        return checkpoint["epochs"]
    except (KeyError, RuntimeError, ValueError) as e:
        raise TrainingError(f"the checkpoint does not fit this network: {e}; train into a new run directory") from e
