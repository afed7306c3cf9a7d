"""Threat models: what an attacker differentiates, by what it knows of the purifier."""

from dataclasses import replace
from itertools import cycle

import torch
from torch import Tensor, nn

from raypurify.attacks import Attack, Model
from raypurify.attacks.adaptive import attack_choice, bpda, eot, through_solver
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

    A purifier without a solver, or without clusters, is passed as in "bpda" where those are what is asked for; of one
    with random choices the attacker averages ``DRAWS`` (EOT).
    """
    if knows == "choice" and hasattr(purifier, "distributions"):
        return attack_choice(attack, purifier, images, generator=generator)  # type: ignore[arg-type]  # it has clusters
    return attack(_model(knows, network, purifier), images, labels, generator=generator)


def _model(knows: str, network: nn.Module, purifier: Purifier) -> Model:
    if knows == "classifier":
        return network
    if knows == "solver" and hasattr(purifier, "purify_differentiably"):
        return through_solver(network, purifier)  # type: ignore[arg-type]  # it has a solver
    surrogate = "lowpass" if knows == "bpda-smooth" else "identity"
    if not hasattr(purifier, "seed"):
        return bpda(network, lambda images: purifier.purify(images).images, surrogate)
    # Seeds other than the one in use: the attacker knows that there is one.
    seeds = (purifier.seed + 1 + k for k in range(DRAWS))
    draws = cycle(replace(purifier, seed=seed) for seed in seeds)  # type: ignore[type-var]  # a dataclass, as all of them
    return eot(bpda(network, lambda images: next(draws).purify(images).images, surrogate), DRAWS)
