"""Threat models: what an attacker differentiates, by what it knows of the purifier."""

from dataclasses import replace
from itertools import cycle

import torch
from torch import Tensor, nn

from raypurify.attacks import Attack, Model
from raypurify.attacks.adaptive import attack_choice, bpda, eot, smooth_surrogate, through_solver
from raypurify.attacks.joint import joint
from raypurify.purifiers import Purifier

DRAWS = 8


def perturb(
    attack: Attack,
    knows: str,
    network: nn.Module,
    purifier: Purifier,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """The images (N, 3, H, W) of an attacker who ``knows`` what :class:`~raypurify.evaluation.grid.AttackSpec` says.

    What a purifier cannot be differentiated by is passed as :func:`differentiated` says; of one with random choices the
    attacker averages ``DRAWS`` (EOT).
    """
    if differentiated(knows, purifier) == "choice":
        return attack_choice(attack, purifier, images, generator=generator)  # type: ignore[arg-type]  # it has clusters
    return attack(_model(knows, network, purifier), images, labels, generator=generator)


def differentiated(knows: str, purifier: Purifier) -> str:
    """What an attacker who ``knows`` this differentiates of this purifier, a name of ``grid.KNOWS``.

    That is ``knows`` itself where the purifier has what it takes. Without clusters "joint" becomes "solver", and
    without a solver of its own, or clusters for "choice", it becomes "bpda".

    >>> from raypurify.purifiers import PURIFIERS
    >>> differentiated("solver", PURIFIERS["jpeg"]())
    'bpda'
    """
    solver, clusters = hasattr(purifier, "purify_differentiably"), hasattr(purifier, "distributions")
    if knows == "joint" and not clusters:
        knows = "solver"
    missing = (knows in ("solver", "joint") and not solver) or (knows == "choice" and not clusters)
    return "bpda" if missing else knows


def _model(knows: str, network: nn.Module, purifier: Purifier) -> Model:
    passed = differentiated(knows, purifier)
    if passed == "classifier":
        return network
    if passed in ("solver", "joint"):
        return (joint if passed == "joint" else through_solver)(network, purifier)  # type: ignore[arg-type]  # it can
    surrogate = smooth_surrogate(purifier) if passed == "bpda-smooth" else "identity"
    if not hasattr(purifier, "seed"):
        return bpda(network, lambda images: purifier.purify(images).images, surrogate)
    # Seeds other than the one in use: the attacker knows that there is one.
    seeds = (purifier.seed + 1 + k for k in range(DRAWS))
    draws = cycle(replace(purifier, seed=seed) for seed in seeds)  # type: ignore[type-var]  # a dataclass, as all of them
    return eot(bpda(network, lambda images: next(draws).purify(images).images, surrogate), DRAWS)
