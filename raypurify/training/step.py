"""The objectives of one batch: what a step of each kind of training minimises, and what it tells.

An ``Objective`` is called with the model in training mode, bare or wrapped for data parallelism, the batch's augmented
images (N, 3, H, W) in [0, 1] on the model's device, the batch as it came, the precision's context for passes through
the model, and a generator on that device. It gives the loss, a scalar to differentiate, and scalars by name, means over
the batch. ``classification`` is one; ``robust`` and ``denoising.denoising`` are with their first argument, as
``kinds.kind_of`` gives it to them.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raypurify.attacks import PGD
from raypurify.attacks.base import Attack
from raypurify.attacks.tpgd import divergence_from
from raypurify.clusters import ClusterDistributions
from raypurify.config import AttackSettings, RobustTrainingSettings
from raypurify.nets.places import features_at
from raypurify.training.batch import Batch
from raypurify.training.losses import robust_semantic_loss, trades_loss
from raypurify.training.ranged import Ranged
from raypurify.training.supervision import Supervision, supervision_of

Figures: TypeAlias = dict[str, Tensor]
Autocast: TypeAlias = Callable[[], AbstractContextManager]
Objective: TypeAlias = Callable[[nn.Module, Tensor, Batch, Autocast, torch.Generator | None], tuple[Tensor, Figures]]

FAST_STEP = 1.25
CHECK_STEPS = 10


@dataclass(frozen=True)
class Semantic:
    """What robust training adds to a step: the inner attack, what holds features where they belong (None for nothing),
    the weights of the objective, and which images it learns from."""

    attack: Attack
    supervision: Supervision | None
    alpha: float
    loss: Literal["ce", "trades"] = "ce"
    beta: float = 6.0
    images: Literal["attacked", "clean", "both"] = "attacked"


def semantic_of(
    settings: RobustTrainingSettings,
    distributions: ClusterDistributions | None = None,
    network: nn.Module | None = None,
    seed: int = 0,
) -> Semantic:
    """The settings of robust training as a step takes them. Raises what ``supervision_of`` raises.

    >>> semantic_of(RobustTrainingSettings(alpha=0, attack={"steps": 1, "eps": 0.4})).attack.step_size
    0.5
    """
    supervision = supervision_of(settings, distributions, network, seed)
    attack: Attack = inner_attack(settings.attack)
    if settings.eps_from:
        attack = Ranged(partial(inner_attack, settings.attack), settings.eps_from, attack.eps, attack.norm)
    return Semantic(attack, supervision, settings.alpha, settings.loss, settings.beta, settings.images)


def inner_attack(settings: AttackSettings, eps: float | None = None) -> PGD:
    """The attack of the inner maximisation, of another size where ``eps`` is given. One step without a size of its own
    is 1.25·ε long (Wong et al. 2020); without a random start that is FGSM, as the step ends at the ball's edge."""
    how = settings if eps is None else settings.model_copy(update={"eps": eps})
    fast = how.steps == 1 and how.step_size is None
    return PGD(**how.model_dump() | ({"step_size": FAST_STEP * how.eps} if fast else {}))


def check_attack(settings: AttackSettings) -> PGD:
    """A multi-step attack of the training's budget, to validate with: PGD-10 or as many steps as training takes.

    >>> check_attack(AttackSettings(eps=0.3, norm="l2", steps=1)).steps
    10
    """
    return PGD(settings.eps, settings.norm, max(CHECK_STEPS, settings.steps))


def classification(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    batch: Batch,
    autocast: Autocast,
    generator: torch.Generator | None = None,
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
    """PGD adversarial training or TRADES, plus α times the semantic losses, and the branches' cross-entropies; with its
    first argument an ``Objective``. The attack sees batch-norm statistics frozen and leaves them alone.

    Tells the ``accuracy`` on the images that are learned from, and means of what holds features, such as the
    ``distance`` of latents to their clusters: ``model`` is then one of ``nets.places``.
    """
    network, held = getattr(model, "module", model), semantic.supervision
    labels = batch.labels.to(images.device)
    trades = semantic.loss == "trades"
    network.eval()
    rise = None
    if trades:
        # A context of its own: autocast would keep the weights cast here, without a gradient (pytorch#65766).
        with torch.no_grad(), autocast():
            reference = network(images).float()
        rise = divergence_from(reference)
    seen, shown, clusters = images, labels, batch.clusters
    with autocast():
        if semantic.images != "clean":
            seen = semantic.attack(network, images, labels, generator=generator, loss=rise)
        if semantic.images == "both":
            seen, shown = torch.cat([images, seen]), labels.repeat(2)
            clusters = None if clusters is None else clusters.repeat(2)
        network.train()
        looking: AbstractContextManager[Any] = features_at(network, held.places) if held else nullcontext()
        with looking as found:
            logits = model(seen)
        # Past the wrapper, which writes to batch-norm's statistics before each of its passes, while the first pass
        # still holds them (pytorch#175024). The gradients of both meet in the parameters, where it averages them once.
        clean = network(images).float() if trades else None
    logits = logits.float()
    figures, values, entropies = {"accuracy": _accuracy(logits, shown)}, logits.new_zeros(len(shown)), None
    if held is not None:
        values, entropies, told = held(found, shown, clusters)
        figures |= told
    if clean is not None:
        loss = trades_loss(clean, logits, labels, semantic.beta) + semantic.alpha * values.mean()
    else:
        loss = robust_semantic_loss(logits, shown, values, semantic.alpha)
    return loss if entropies is None else loss + entropies.mean(), figures


def _accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(1) == labels).float().mean()
