"""Threat models: what an attacker differentiates, by what it knows of the purifier."""

from collections.abc import Callable
from itertools import cycle
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from raypurify.attacks import Attack, Loss, Model
from raypurify.attacks.adaptive import bpda, cluster_scores, eot, smooth_surrogate, through_solver
from raypurify.attacks.budget import eight_bit
from raypurify.attacks.front_end import SIGMA, is_front, near_full_gradient
from raypurify.attacks.joint import joint
from raypurify.attacks.losses import margin
from raypurify.errors import ConfigError
from raypurify.evaluation.centres import Supervised, joint_loss
from raypurify.evaluation.specs import NFGA, USUAL_EXPECTATION
from raypurify.fronts import BackwardSettings
from raypurify.nets.straight import straight_through
from raypurify.purifiers import Purifier
from raypurify.purifiers.draws import draws_of, is_random


class Draws(NamedTuple):
    """What an attacker averages over a random purifier: ``samples`` draws, of what ``average`` says
    (``attacks.expectation.Expectation``). ``skip`` are the first seeds, which are in use: the attacker knows that there
    are such."""

    samples: int = USUAL_EXPECTATION[0]
    average: str = USUAL_EXPECTATION[1]
    skip: int = 1


USUAL = Draws()


class Sight(NamedTuple):
    """What an attacker looks at: a model to differentiate, the ``labels`` (N,) to lead it away from, and the loss that
    says how far, None for the attack's own."""

    model: Model
    labels: Tensor
    loss: Loss | None


def differentiated(knows: str, purifier: Purifier) -> str:
    """What an attacker who ``knows`` this differentiates of this purifier, a case of :func:`sight`.

    That is ``knows`` itself where the purifier has what it takes: a solver, two clusters or more to choose from, for
    "joint" clusters that are each of a class, and for "nfga" the encoder of a sparse front end. Without them "joint",
    "choice" and "nfga" become "solver", which of a sparse front end is "nfga". Without a solver the purifier's own
    "gradient" is taken where it can be differentiated, and else it is passed as in "bpda".

    >>> from raypurify.purifiers import PURIFIERS
    >>> differentiated("solver", PURIFIERS["jpeg"]())
    'bpda'
    """
    classes = getattr(purifier, "classes_of_cluster", [None])
    # Of one cluster alone there is no other to lead to: its margin has no gradient.
    if knows in ("choice", "joint") and (len(classes) < 2 or (knows == "joint" and None in classes)):
        knows = "solver"
    if knows in NFGA and not is_front(purifier):
        knows = "solver"
    elif knows == "solver" and is_front(purifier):
        return "nfga"
    if knows in ("solver", "joint") and not hasattr(purifier, "purify_differentiably"):
        return "gradient" if getattr(purifier, "differentiable", False) else "bpda"
    return knows


def done_about(knows: str, purifier: Purifier) -> str:
    """What an attacker who ``knows`` this does about the purifier: what it differentiates, and whether it takes for
    constants atoms that are refined on the image (``csc.refine``), as every gradient through the solver does.

    >>> from raypurify.purifiers import PURIFIERS
    >>> done_about("solver", PURIFIERS["jpeg"]())
    'bpda'
    """
    passed = differentiated(knows, purifier)
    csc = getattr(getattr(purifier, "settings", purifier), "csc", None)
    held = passed in ("solver", "joint") and csc is not None and csc.refine
    return f"{passed}, refined atoms held" if held else passed


def perturb(
    attack: Attack,
    knows: str,
    network: nn.Module,
    purifier: Purifier,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    draws: Draws = USUAL,
    backward: BackwardSettings | None = None,
    rounded: bool = True,
) -> Tensor:
    """The images (N, 3, H, W) of an attacker who ``knows`` what :class:`~raypurify.evaluation.specs.AttackSpec` says.

    What it does where the purifier lacks what that takes, says :func:`differentiated`; of a purifier with random
    choices it averages ``draws`` (EOT), and of a sparse front end "nfga" takes the gradient of ``backward``. With
    ``rounded`` the classifier is shown purified images of 8 bits.
    """
    model, labels, loss = sight(knows, network, purifier, images, labels, draws, backward, rounded)
    if getattr(attack, "own_objective", False):
        loss = None
    return attack(model, images, labels, generator=generator, loss=loss)


def sight(
    knows: str,
    network: nn.Module,
    purifier: Purifier,
    images: Tensor,
    labels: Tensor,
    draws: Draws = USUAL,
    backward: BackwardSettings | None = None,
    rounded: bool = True,
) -> Sight:
    """What an attacker who ``knows`` looks at on ``images`` (N, 3, H, W) of these ``labels`` (N,).

    Purified images are files before the classifier sees them: with ``rounded`` the attacker's model rounds them to 8
    bits, too, or attacks that stop at a success would take for one what rounding undoes. Its gradient is passed on.
    """
    passed = differentiated(knows, purifier)
    if passed == "classifier":
        return Sight(network, labels, None)
    if passed == "centres":
        if not isinstance(network, Supervised):
            raise ConfigError("who knows centres needs a classifier with them: name its file of centres in the grid")
        model, loss = joint_loss(network)
        return Sight(model, labels, loss)
    if passed == "choice":
        scores = cluster_scores(purifier)  # type: ignore[arg-type]  # it has clusters
        # As attack_choice has it, and why.
        with torch.no_grad():
            own = scores(images).argmax(1)
        return Sight(scores, own, margin)
    classifier = _of_files(network) if rounded else network
    return Sight(_drawn(purifier, draws, lambda one: _passed(passed, classifier, one, backward)), labels, None)


def _of_files(classifier: Model) -> Model:
    return lambda purified: classifier(straight_through(purified, eight_bit(purified)))


def _passed(passed: str, network: Model, purifier: Any, backward: BackwardSettings | None) -> Model:
    """Classifier ∘ purifier, the purifier passed by its own gradient or by a surrogate."""
    if passed in ("solver", "joint"):
        return (joint if passed == "joint" else through_solver)(network, purifier)
    if passed in NFGA:
        how = backward or BackwardSettings()
        smooth, sigma = passed == "nfga-smooth", how.sigma or SIGMA
        return near_full_gradient(network, purifier, smooth, sigma, how.top, how.dropped)
    if passed == "gradient":
        return lambda images: network(purifier.transform(images).clamp(0, 1))
    surrogate = smooth_surrogate(purifier) if passed == "bpda-smooth" else "identity"
    return bpda(network, lambda images: purifier.purify(images).images, surrogate)


def _drawn(purifier: Purifier, draws: Draws, model: Callable[[Purifier], Model]) -> Model:
    """The model of a purifier, or the mean over ``draws`` of one that draws."""
    if not is_random(purifier):
        return model(purifier)
    each = cycle([model(one) for one in draws_of(purifier, draws.samples, draws.skip)])
    return eot(lambda images: next(each)(images), draws.samples, average=draws.average)
