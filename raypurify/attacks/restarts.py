"""Restarts of an attack: the best of several attempts for each image, at the price of those that still withstand."""

from collections.abc import Callable

import torch
from torch import Tensor

from raypurify.attacks.ascent import logits_at, wide
from raypurify.attacks.base import Loss, Model
from raypurify.attacks.budget import per_image
from raypurify.attacks.losses import values
from raypurify.attacks.success import fooled
from raypurify.errors import ConfigError


def check_restarts(restarts: int, random_start: bool) -> None:
    """Raise ConfigError for several restarts of an attack that always starts the same."""
    if restarts > 1 and not random_start:
        raise ConfigError(f"restarts={restarts} are all the same without a random start: set random_start")


def best_of(
    attempt: Callable[[Tensor | slice], Tensor],
    model: Model,
    images: Tensor,
    labels: Tensor,
    restarts: int,
    raised: Loss,
    leave: bool,
) -> Tensor:
    """The best of ``restarts`` attempts for each image: one that fools the model, else the one of the highest loss.

    ``attempt(which)`` attacks ``images[which]``. With ``leave`` an image that is fooled takes part in no further one.
    """
    best = attempt(slice(None))
    if restarts == 1 or not len(images):
        return best
    with torch.inference_mode(False), torch.no_grad():
        value = _value(model, best, images, labels, raised)
        done = fooled(model, best, labels, images.dtype) if leave else torch.zeros_like(labels, dtype=torch.bool)
        for _ in range(restarts - 1):
            todo = (~done).nonzero().flatten()
            if not len(todo):
                break
            found = attempt(todo)
            height = _value(model, found, images, labels[todo], raised)
            now = fooled(model, found, labels[todo], images.dtype) if leave else torch.zeros_like(done[todo])
            better = now | (height > value[todo])
            best[todo] = torch.where(per_image(better, found), found, best[todo])
            value[todo] = torch.where(better, height, value[todo])
            done[todo] |= now
        return best


def _value(model: Model, found: Tensor, images: Tensor, labels: Tensor, raised: Loss) -> Tensor:
    return values(raised, logits_at(model, wide(found), images.dtype), labels)
