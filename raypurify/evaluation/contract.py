"""Checks that code of a user's own keeps the contracts of classifiers, attacks and purifiers."""

import math
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raypurify.attacks import NORMS
from raypurify.attacks.budget import size
from raypurify.errors import ConfigError
from raypurify.evaluation.own import told
from raypurify.purifiers import Purified, Purifier

# How far a perturbation may lie beyond its budget, by float32 and by rounding to files of 8 bits.
SLACK = 1e-4


def check_classifier(name: str, network: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Ask a classifier about some images (N, 3, H, W) of a grid. Raises ConfigError unless it gives finite logits
    (N, classes) that have a place for each of ``labels``, those of all images."""
    where, shape = f"classifier {name!r}", tuple(images.shape)
    try:
        with torch.no_grad():
            logits = network(images)
    except Exception as error:
        raise ConfigError(
            f"{where} cannot take images of shape {shape}, {told(error)}; let it take batches of any length, "
            "and give size where it needs another"
        ) from error
    if not isinstance(logits, Tensor):
        raise ConfigError(f"{where} gives a {type(logits).__name__}; it has to give a tensor of logits (N, classes)")
    if logits.ndim != 2 or len(logits) != len(images) or not logits.is_floating_point():
        raise ConfigError(
            f"{where} gives {logits.dtype} of shape {tuple(logits.shape)} for images of shape {shape}; "
            "it has to give logits (N, classes)"
        )
    if not logits.isfinite().all():
        raise ConfigError(f"{where} gives logits that are not finite; let it take images in [0, 1]")
    if (most := int(labels.max())) >= logits.shape[1]:
        raise ConfigError(f"{where} tells {logits.shape[1]} classes apart, the images have a label {most}; use another")
    if (least := int(labels.min())) < 0:
        raise ConfigError(f"the images have a label {least}, and classes count from 0; give every image its class")


def check_attack(where: str, attack: Any) -> None:
    """Raise ConfigError unless an object has what :class:`~raypurify.attacks.Attack` asks for."""
    eps, norm = getattr(attack, "eps", None), getattr(attack, "norm", None)
    if not callable(attack):
        raise ConfigError(f"{where}: a {type(attack).__name__} cannot be called; give its class a __call__")
    if not isinstance(norm, str) or not isinstance(eps, float | int) or math.isnan(eps) or eps < 0:
        raise ConfigError(
            f"{where}: a {type(attack).__name__} has eps={eps!r} and norm={norm!r}; "
            f"give it the attributes eps, a number ≥ 0, and norm, one of {', '.join(NORMS)} or a name of your own"
        )


def check_attacked(name: str, attack: Any, attacked: Any, images: Tensor) -> Tensor:
    """Attacked images as they came, detached. Raises ConfigError unless they are of the shape of ``images``, in [0, 1],
    and within the budget where its norm is one of ``NORMS``."""
    checked = _image_like(f"attack {name!r}", attacked, images)
    if attack.norm in NORMS and len(images):
        most = float(size(checked - images, images, attack.norm).amax())
        if most > attack.eps * (1 + SLACK) + SLACK:
            raise ConfigError(
                f"attack {name!r} went {most:.4g} far in {attack.norm}, its eps is {attack.eps:.4g}; "
                "let it stay within, as by attacks.budget.project"
            )
    return checked


def check_purifier(where: str, purifier: Any) -> None:
    """Raise ConfigError unless an object has what :class:`~raypurify.purifiers.Purifier` asks for."""
    least = getattr(purifier, "min_size", None)
    if not callable(getattr(purifier, "purify", None)) or not isinstance(least, int):
        raise ConfigError(
            f"{where}: a {type(purifier).__name__} has no purify and min_size; "
            "make it a subclass of raypurify.purifiers.transform.Transform"
        )
    if hasattr(purifier, "seed") and not is_dataclass(purifier):
        raise ConfigError(
            f"{where}: a {type(purifier).__name__} has a seed; make it a dataclass, so that attacks can draw another"
        )


def check_purified(name: str, purifier: Purifier, images: Tensor) -> None:
    """Purify some images (N, 3, H, W). Raises ConfigError unless a Purified of as many comes out, images in [0, 1]."""
    where = f"purifier {name!r}"
    purified = purifier.purify(images)
    if not isinstance(purified, Purified):
        raise ConfigError(
            f"{where} gives a {type(purified).__name__}; it has to give a Purified, "
            "as raypurify.purifiers.transform.Transform does"
        )
    _image_like(where, purified.images, images)
    for fact in ("cluster", "distance", "flagged", "relative_change"):
        if getattr(getattr(purified, fact), "shape", None) != (len(images),):
            raise ConfigError(f"{where} gives no {fact} of shape ({len(images)},); it needs one value of each image")


def _image_like(where: str, found: Any, images: Tensor) -> Tensor:
    if not isinstance(found, Tensor) or found.shape != images.shape or not found.is_floating_point():
        what = f"{found.dtype} of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ConfigError(
            f"{where} gives {what} for images of shape {tuple(images.shape)}; it has to give images again"
        )
    if len(found) and not (found.amin() >= 0 and found.amax() <= 1):
        raise ConfigError(f"{where} gives values outside [0, 1]; it has to stay within, as by clamp(0, 1)")
    return found.detach()
