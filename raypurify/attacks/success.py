"""Success of an attack: told by what is deployed, of images as files hold them."""

import torch
from torch import Tensor

from raypurify.attacks.ascent import logits_at
from raypurify.attacks.base import Model
from raypurify.attacks.budget import clip_to_ball, eight_bit, per_image, stretch
from raypurify.attacks.losses import margin


def fooled(
    model: Model, perturbed: Tensor, labels: Tensor, dtype: torch.dtype, beyond: float = 0.0, rounded: bool = True
) -> Tensor:
    """Whether the model gives each perturbed image (N,) another class than its label, by more than ``beyond``.

    Unless told otherwise the image is rounded to 8 bits: images become files, and a success that rounding undoes is
    none. The images require no gradient, by which ``adaptive.through_solver`` knows to answer as deployed.
    """
    shown = eight_bit(perturbed) if rounded else perturbed
    return margin(logits_at(model, shown, dtype), labels) > beyond


def slack(logits: Tensor) -> Tensor:
    """How far below a success logits (N, classes) may be for the image to be tried as it is judged, (N,).

    A fiftieth of their spread: codes that are solved more tightly, and rounding, move them by about
    as much.
    """
    return 0.02 * (logits.amax(1) - logits.amin(1))


def confirmed(
    model: Model,
    x: Tensor,
    logits: Tensor,
    labels: Tensor,
    dtype: torch.dtype,
    beyond: float = 0.0,
    rounded: bool = True,
) -> Tensor:
    """Which images (N,) are :func:`fooled`, of those whose ``logits`` of the gradient's pass at x say so, or nearly.

    Only these are asked about again: passes are dear, and most images are far from a success most of the time.
    """
    beaten = margin(logits, labels)
    found = beaten > beyond - slack(logits)
    if found.any():
        found[found.clone()] = fooled(model, x[found], labels[found], dtype, beyond, rounded)
    if rounded and (near := found & (beaten <= beyond)).any():
        # Rounding alone may have brought it over the border.
        found[near] = fooled(model, x[near], labels[near], dtype, beyond, rounded=False)
    return found


def lengthened(
    model: Model, found: Tensor, clean: Tensor, labels: Tensor, eps: float, norm: str, dtype: torch.dtype, rounded: bool
) -> Tensor:
    """The images found, each perturbation lengthened along its direction to ``eps`` where no success is lost by that.

    A success within the ball whose lengthened image, as a file with ``rounded``, is none stays as it was found.
    """
    short, long = clip_to_ball(found, clean, eps, norm), stretch(found, clean, eps, norm)
    lost = fooled(model, short, labels, dtype, rounded=rounded) & ~fooled(model, long, labels, dtype, rounded=rounded)
    return torch.where(per_image(lost, clean), short, long)
