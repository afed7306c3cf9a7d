"""Epochs of training on one worker, for any objective; data parallel when the model is wrapped."""

import math
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raypurify.config import DecoderSettings, DenoisingSettings, RobustTrainingSettings, TrainingSettings
from raypurify.errors import TrainingError
from raypurify.training.augment import augmented
from raypurify.training.average import average_of, update_average
from raypurify.training.batch import Batch
from raypurify.training.checkpoint import Run, final_supervision, final_weights
from raypurify.training.guard import Guard
from raypurify.training.step import Objective, classification
from raypurify.training.supervision import Supervision

WARM_UP = 0.2
# Steps between looks at the loss: a look makes a GPU wait for the processor.
LOOK = 25


def train_epochs(
    model: nn.Module,
    epoch_batches: Callable[[int, int], Iterable[Batch]],
    settings: TrainingSettings,
    steps_per_epoch: int,
    *,
    objective: Objective = classification,
    validate: Callable[[nn.Module], dict[str, float]] | None = None,
    guard: Guard | None = None,
    supervision: Supervision | None = None,
    seed: int = 0,
    resume: dict[str, Any] | None = None,
    on_step: Callable[[int], None] = lambda images: None,
    on_checkpoint: Callable[[Callable[[], dict[str, Any]]], None] | None = None,
    on_epoch: Callable[[int, dict[str, Any], Callable[[], dict[str, Any]]], None],
) -> None:
    """Train ``model`` (bare or wrapped in DistributedDataParallel) in place.

    Minimises the ``objective`` of its batches (``step``) and weight decay; for the first ``warm_up`` epochs of a robust
    training cross-entropy instead. ``supervision``, which the objective has too, learns beside it. What stays in
    ``model`` is the last network, its average where ``settings.ema`` is on, or the best epoch's where ``settings.keep``
    says so or the guard stopped; and in ``supervision`` what learned beside that one.

    ``epoch_batches(epoch, first)`` yields this worker's batches from step ``first`` on. ``on_epoch(epoch, metrics,
    state)`` is called after each epoch with what ``run_epoch`` reports, what ``validate`` says (under the training's
    precision) of the network that would be kept, and a function that gives a checkpoint for ``resume``, to be called
    then and there; ``on_checkpoint(state)`` likewise, within epochs, every ``settings.checkpoint_steps``. ``guard``
    needs the figure that it goes ``by`` from ``validate``, and to stop a training ``validation_pgd_accuracy``, the same
    on every worker; when it stops, the metrics of that epoch say so under ``note``. It watches from the warm-up's
    end, as training on clean images takes robustness away. Augmentation, dropout, attack and noise are seeded by (seed,
    epoch, step): a resumed run repeats the uninterrupted one, on a CPU bit for bit, on a GPU to rounding.

    Raises TrainingError when an epoch has no batch, the loss is not finite or the checkpoint does not fit.
    """
    network = getattr(model, "module", model)
    device = next(network.parameters()).device
    branches = supervision.branches.parameters() if supervision else ()
    optimizer = optimizer_of([*model.parameters(), *branches], settings)
    total = settings.epochs * steps_per_epoch
    rise = settings.rise if isinstance(settings, DecoderSettings) else WARM_UP
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle(step, total, rise))
    average = average_of(network) if settings.ema else None
    centres = centres_optimizer(supervision, settings)
    run = Run(network, optimizer, schedule, average, guard, settings.keep, supervision, centres)
    warm_up = settings.warm_up if isinstance(settings, RobustTrainingSettings) else 0
    if resume is not None:
        run.restore(resume)
    # Dropout draws from torch's global generator: seeded here, given back as it was. All steps have one shape, so that
    # it pays to let cuDNN try its convolutions first.
    generators = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with generators, torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True):
        while run.epochs < settings.epochs and not run.stopped:
            batches = epoch_batches(run.epochs, run.step)
            minimised = classification if run.epochs < warm_up else objective
            metrics: dict[str, Any] = run_epoch(
                model, run, batches, steps_per_epoch, settings, minimised, seed, on_step, on_checkpoint
            )
            # In float32 a multi-step attack would be much of a small set's epoch.
            with precision(settings, device):
                metrics |= validate(run.kept) if validate else {}
            if guard is not None and run.epochs >= warm_up:
                run.stopped = guard.watch(run.epochs, metrics, run.kept.state_dict(), run.beside)
                metrics |= {"note": run.stopped} if run.stopped else {}
            run.epochs += 1
            run.move_to()
            on_epoch(run.epochs - 1, metrics, run.checkpoint)
    ended = run.checkpoint()
    network.load_state_dict(final_weights(ended))
    if supervision is not None:
        supervision.load_state_dict(final_supervision(ended))


def run_epoch(
    model: nn.Module,
    run: Run,
    batches: Iterable[Batch],
    steps: int,
    settings: TrainingSettings,
    objective: Objective,
    seed: int,
    on_step: Callable[[int], None],
    on_checkpoint: Callable[[Callable[[], dict[str, Any]]], None] | None,
) -> dict[str, float]:
    """The rest of an epoch's steps. Reports, over this worker's images, the mean ``loss`` and means of what the
    objective tells, ``seconds`` and ``images_per_second``.
    """
    device = next(run.network.parameters()).device
    # An objective draws on the device it works on, and must not repeat the numbers of the augmentation.
    crops, draws = torch.Generator(), torch.Generator(device)
    begun, count = time.perf_counter() - run.seconds, run.images
    names, sums = list(run.sums), torch.tensor(list(run.sums.values()), device=device)
    model.train()
    for step, batch in enumerate(batches, run.step):
        first, second, third = np.random.SeedSequence((seed % 2**32, run.epochs, step)).generate_state(3).tolist()
        crops.manual_seed(first)
        draws.manual_seed(second)
        torch.manual_seed(third)
        images = batch.images.to(device, torch.float32).div_(255)
        images = augmented(images, settings.augment, crops)
        loss, figures = objective(model, images, batch, lambda: precision(settings, device), draws)
        run.zero_grad()
        loss.backward()
        if run.supervision is not None:
            run.supervision.settle(together=model is not run.network)
        run.optimizer.step()
        if run.centres is not None:
            run.centres.step()
        if run.average is not None:
            update_average(run.average, run.network, settings.ema, run.schedule.last_epoch)
        run.schedule.step()
        told = {"loss": loss, **figures}
        means = torch.stack([figure.detach() for figure in told.values()])
        if names != list(told):
            names, sums = list(told), torch.tensor([run.sums.get(name, 0.0) for name in told], device=device)
        sums += means * len(images)
        count += len(images)
        if step % LOOK == 0:
            _check(sums, run.epochs, settings)
        on_step(len(images))
        due = settings.checkpoint_steps and (step + 1) % settings.checkpoint_steps == 0 and step + 1 < steps
        if on_checkpoint is not None and due:
            run.move_to(step + 1, dict(zip(names, sums.tolist())), count, time.perf_counter() - begun)
            on_checkpoint(run.checkpoint)
    if not count:
        raise TrainingError(f"epoch {run.epochs} had no batch: fewer images than workers × batch size")
    _check(sums, run.epochs, settings)
    seconds = time.perf_counter() - begun
    metrics = dict(zip(names, (sums / count).tolist()))
    return metrics | {"seconds": seconds, "images_per_second": count / seconds}


def optimizer_of(parameters: list[nn.Parameter], settings: TrainingSettings) -> torch.optim.Optimizer:
    """Adam for a denoiser whose settings ask for it, with ``momentum`` as its β₁; otherwise SGD, Nesterov's where it
    has momentum."""
    how: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    if isinstance(settings, DenoisingSettings) and settings.optimizer == "adam":
        return torch.optim.Adam(parameters, betas=(settings.momentum, 0.999), **how)
    return torch.optim.SGD(parameters, momentum=settings.momentum, nesterov=settings.momentum > 0, **how)


def centres_optimizer(supervision: Supervision | None, settings: TrainingSettings) -> torch.optim.Optimizer | None:
    """Plain SGD for the centres of semantic losses, at one rate throughout; None where there are none.

    α, which weighs their gradient with the loss, is divided out, as in Mustafa et al.'s code.
    """
    if supervision is None or not supervision.centres:
        return None
    assert isinstance(settings, RobustTrainingSettings)  # only these have a supervision
    return torch.optim.SGD(supervision.centres, lr=settings.centres_lr / settings.alpha)


def one_cycle(step: int, total: int, share: float = WARM_UP) -> float:
    """Learning-rate factor: linear rise over a ``share`` of the steps, then linear to 0 (Smith 2018's 1cycle).

    With ½ it is one cycle of Smith 2017.

    >>> [one_cycle(s, 10) for s in (0, 2, 6, 10)]
    [0.5, 1.0, 0.5, 0.0]
    """
    rise = max(1, round(share * total))
    return (step + 1) / rise if step < rise else max(0.0, (total - step) / max(1, total - rise))


def precision(settings: TrainingSettings, device: torch.device) -> AbstractContextManager:
    """The autocast context of the configured precision; master weights stay float32. A processor without instructions
    that bfloat16 is fast by computes in float32 all the same."""
    return torch.autocast(
        device.type, torch.bfloat16, enabled=settings.precision == "bfloat16" and has_bfloat16(device)
    )


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is worth it: not on GPUs of NVIDIA before Ampere, which emulate it, nor on processors that have
    AVX2 or less, where a network takes several times as long as in float32.

    >>> has_bfloat16(torch.device("cpu")) in (True, False)
    True
    """
    if device.type == "cuda" and torch.version.cuda:
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type != "cpu" or torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "NO AVX", "AVX2")


def _check(sums: Tensor, epoch: int, settings: TrainingSettings) -> None:
    total = float(sums[0])
    if not math.isfinite(total):
        raise TrainingError(f"the loss became {total} in epoch {epoch}: lower the learning rate (now {settings.lr})")
