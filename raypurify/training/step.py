"""The objectives of one batch: what a step of each kind of training minimises, and what it tells.

An ``Objective`` is called with the model in training mode, bare or wrapped for data parallelism, the batch's augmented
images (N, 3, H, W) in [0, 1] on the model's device, the batch as it came, the precision's context for passes through
the model, and a generator on that device. It gives the loss, a scalar to differentiate, and scalars by name, means over
the batch. ``classification`` is one; ``robust`` and ``denoising.denoising`` are with their first argument, as
``kinds.kind_of`` gives it to them.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raypurify.attacks import PGD
from raypurify.attacks.base import Attack
from raypurify.attacks.tpgd import divergence_from
from raypurify.clusters import ClusterDistributions
from raypurify.config import AttackSettings, RobustTrainingSettings
from raypurify.errors import ConfigError
from raypurify.training.batch import Batch
from raypurify.training.losses import robust_semantic_loss, trades_loss

Figures: TypeAlias = dict[str, Tensor]
Autocast: TypeAlias = Callable[[], AbstractContextManager]
Objective: TypeAlias = Callable[[nn.Module, Tensor, Batch, Autocast, torch.Generator | None], tuple[Tensor, Figures]]

FAST_STEP = 1.25
CHECK_STEPS = 10


@dataclass(frozen=True)
class Semantic:
    """What robust training adds to a step: the inner attack, the clean cluster distributions (None where α is 0 and
    no distance is wanted), the weights of the objective."""

    attack: Attack
    distributions: ClusterDistributions | None
    alpha: float
    loss: Literal["ce", "trades"] = "ce"
    beta: float = 6.0


def semantic_of(settings: RobustTrainingSettings, distributions: ClusterDistributions | None = None) -> Semantic:
    """The settings of robust training as a step takes them. Raises ConfigError for α > 0 without distributions.

    >>> semantic_of(RobustTrainingSettings(alpha=0, attack={"steps": 1, "eps": 0.4})).attack.step_size
    0.5
    """
    if settings.alpha and distributions is None:
        raise ConfigError(f"robust.alpha is {settings.alpha}, but there are no clusters: give them, or set it to 0")
    return Semantic(inner_attack(settings.attack), distributions, settings.alpha, settings.loss, settings.beta)


def inner_attack(settings: AttackSettings) -> PGD:
    """The attack of the inner maximisation. One step without a size of its own is 1.25·ε long (Wong et al. 2020)."""
    fast = settings.steps == 1 and settings.step_size is None
    return PGD(**settings.model_dump() | ({"step_size": FAST_STEP * settings.eps} if fast else {}))


def check_attack(settings: AttackSettings) -> PGD:
    """A multi-step attack of the training's budget, to validate with: PGD-10 or as many steps as training takes.

    >>> check_attack(AttackSettings(eps=0.3, norm="l2", steps=1)).steps
    10
    """
    return PGD(settings.eps, settings.norm, max(CHECK_STEPS, settings.steps))


def classification(
    model: nn.Module, images: Tensor, batch: Batch, autocast: Autocast, generator: torch.Generator | None = None
) -> tuple[Tensor, Figures]:
    """Cross-entropy, eq. 1 of RSFP without its weight decay; an ``Objective``. Tells the ``accuracy``."""
    labels = batch.labels.to(images.device)
    with autocast():
        logits = model(images)
    logits = logits.float()
    return F.cross_entropy(logits, labels), {"accuracy": _accuracy(logits, labels)}


def robust(
    semantic: Semantic,
    model: nn.Module,
    images: Tensor,
    batch: Batch,
    autocast: Autocast,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Figures]:
    """PGD adversarial training or TRADES, plus α times the distances of the adversarial latents; with its first
    argument an ``Objective``. The attack sees batch-norm statistics frozen and leaves them alone.

    Tells the ``accuracy`` on the adversarial images, and where there are distributions the mean ``distance`` of their
    latents: ``model`` is then a WideResNet.
    """
    network = getattr(model, "module", model)
    labels = batch.labels.to(images.device)
    trades = semantic.loss == "trades"
    network.eval()
    rise = None
    if trades:
        # A context of its own: autocast would keep the weights cast here, without a gradient (pytorch#65766).
        with torch.no_grad(), autocast():
            reference = network(images).float()
        rise = divergence_from(reference)
    with autocast():
        adversarial = semantic.attack(network, images, labels, generator=generator, loss=rise)
        network.train()
        if semantic.distributions is None:
            logits = model(adversarial)
        else:
            logits, latents = model(adversarial, with_latents=True)
        # Past the wrapper, which writes to batch-norm's statistics before each of its passes, while the first pass
        # still holds them (pytorch#175024). The gradients of both meet in the parameters, where it averages them once.
        clean = network(images).float() if trades else None
    logits = logits.float()
    figures = {"accuracy": _accuracy(logits, labels)}
    distances = logits.new_zeros(len(labels))
    if semantic.distributions is not None:
        assert batch.clusters is not None  # a batch names them where there are distributions
        distances = semantic.distributions.own_distance(latents, batch.clusters.to(latents.device))
        figures["distance"] = distances.mean()
    if clean is not None:
        loss = trades_loss(clean, logits, labels, semantic.beta) + semantic.alpha * distances.mean()
    else:
        loss = robust_semantic_loss(logits, labels, distances, semantic.alpha)
    return loss, figures


def _accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(1) == labels).float().mean()
