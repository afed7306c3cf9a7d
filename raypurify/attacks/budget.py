"""Perturbation budgets: how large a perturbation is, and how to stay within a bound on it.

Three norms, each measured per image over all channels and pixels of images in [0, 1]:

* ``"linf"``: max |δ|;
* ``"l2"``: ‖δ‖₂;
* ``"dissimilarity"``: ‖δ‖₂ / ‖x‖₂, the perturbation size of the image-purification papers (Guo et al., "Countering
  adversarial images using input transformations", ICLR 2018, section 3; Sun et al., CVPR 2019).

``eps`` and step sizes are always in the unit of their norm. A black image has dissimilarity 0 only when unperturbed,
so under that norm it cannot be perturbed at all.
"""

import math
from typing import Any

import torch
from torch import Tensor

from raypurify.errors import ConfigError

NORMS = ("linf", "l2", "dissimilarity")


def check_norm(norm: str) -> None:
    """Raise ConfigError unless ``norm`` is one of ``NORMS``."""
    if norm not in NORMS:
        raise ConfigError(f"unknown perturbation norm {norm!r}: choose one of {', '.join(NORMS)}")


def check_size(name: str, value: float) -> None:
    """Raise ConfigError unless ``value``, the setting called ``name``, is a finite number >= 0."""
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(f"{name}={value!r}: a perturbation size must be a finite number >= 0")


def size(delta: Tensor, images: Tensor, norm: str) -> Tensor:
    """The size of each perturbation, (N,), in the unit of ``norm``.

    ``delta`` and ``images`` are (N, ...); the images are used by ``"dissimilarity"`` only.

    >>> x = torch.full((1, 3, 2, 2), 0.5)
    >>> [round(float(size(torch.full_like(x, 0.1), x, norm)), 3) for norm in NORMS]
    [0.1, 0.346, 0.2]
    """
    check_norm(norm)
    flat = delta.flatten(1)
    if norm == "linf":
        return flat.abs().amax(1)
    length = flat.norm(dim=1)
    if norm == "l2":
        return length
    return torch.where(length > 0, length / images.flatten(1).norm(dim=1), 0)


def unit_length(images: Tensor, norm: str) -> Tensor:
    """The absolute length of one unit of ``norm`` for each image, shaped (N, 1, ...) to multiply perturbations with.

    1 for ``"linf"`` and ``"l2"``, ‖x‖₂ for ``"dissimilarity"``.
    """
    check_norm(norm)
    if norm == "dissimilarity":
        return per_image(images.flatten(1).norm(dim=1), images)
    return images.new_ones((len(images),) + (1,) * (images.ndim - 1))


def project(delta: Tensor, images: Tensor, eps: float, norm: str) -> Tensor:
    """The nearest perturbation (in L2) of size at most ``eps``; same shape as ``delta``.

    >>> x = torch.ones(1, 1, 1, 2)
    >>> project(torch.tensor([[[[3.0, 4.0]]]]), x, 1.0, "l2")
    tensor([[[[0.6000, 0.8000]]]])
    """
    check_norm(norm)
    if norm == "linf":
        return delta.clamp(-eps, eps)
    length = delta.flatten(1).norm(dim=1)
    limit = eps * unit_length(images, norm).flatten()
    # Inside the ball the factor is exactly 1, so that projecting twice equals projecting once.
    factor = torch.where(length > limit, limit / length, torch.ones_like(length))
    return delta * per_image(factor, delta)


def clip_to_ball(perturbed: Tensor, images: Tensor, eps: float, norm: str) -> Tensor:
    """Perturbed images (N, ...), those farther than ``eps`` from ``images`` cut to the ball and to [0, 1].

    For attacks that look for the shortest perturbation, whatever its size; ``eps`` may be infinite.

    >>> x = torch.full((2, 1, 1, 1), 0.5)
    >>> clip_to_ball(torch.tensor([0.6, 0.9]).reshape(2, 1, 1, 1), x, 0.25, "l2").flatten()
    tensor([0.6000, 0.7500])
    """
    delta = perturbed - images
    shorter = (images + project(delta, images, eps, norm)).clamp(0, 1)
    return torch.where(per_image(size(delta, images, norm) <= eps, images), perturbed, shorter)


def stretch(perturbed: Tensor, images: Tensor, eps: float, norm: str, rounds: int = 30) -> Tensor:
    """The perturbed images (N, ...), each perturbation lengthened along its direction until its size is ``eps``.

    What [0, 1] cuts off is made up for by the values that still have room, where there are such. A perturbation that is
    zero, or not shorter than ``eps``, stays as it is.

    >>> x = torch.tensor([[[[0.5, 0.9]]]])
    >>> stretch(x + 0.03, x, 0.2, "l2").round(decimals=3)
    tensor([[[[0.6730, 1.0000]]]])
    """
    delta, found = perturbed - images, perturbed
    for _ in range(rounds):
        # The size grows more slowly than the factor, so the factor comes near its goal from below.
        length = size(found - images, images, norm)
        short = (length > 0) & (length < eps)
        delta = delta * per_image(torch.where(short, eps / _nonzero(length), 1), delta)
        found = torch.where(per_image(short, found), (images + delta).clamp(0, 1), found)
    return clip_to_ball(found, images, eps, norm)


def eight_bit(images: Tensor) -> Tensor:
    """Images in [0, 1] as a file with 8 bits a value holds them: the nearest multiples of 1/255.

    >>> (255 * eight_bit(torch.tensor([0.1, 0.9]))).tolist()
    [26.0, 230.0]
    """
    return (images * 255).round() / 255


# In grey levels: 0.031 is written for 8/255.
_NEARLY = 0.1


def whole_levels(eps: float) -> int:
    """How many grey levels of 8 bits an L∞ budget has room for; what is a tenth of a level short counts as whole.

    >>> whole_levels(8 / 255), whole_levels(0.031), whole_levels(0.01)
    (8, 8, 2)
    """
    return math.floor(min(255 * eps + _NEARLY, 255))


def as_file(perturbed: Tensor, images: Tensor, eps: float, norm: str) -> Tensor:
    """The perturbed images (N, ...) in [0, 1] as files of 8 bits hold them, within an L∞ budget of ``eps``.

    There rounding keeps to the :func:`whole_levels` of the budget; under other norms it may lengthen a perturbation,
    and shortens others. ``images`` are those before, of 8 bits.

    >>> x = torch.full((1, 3, 2, 2), 100 / 255)
    >>> (255 * (as_file(x + 0.01, x, 0.01, "linf") - x)).round().unique()
    tensor([2.])
    """
    if norm != "linf":
        return eight_bit(perturbed)
    most = whole_levels(eps)
    levels = ((perturbed * 255).round() - (images * 255).round()).clamp(-most, most)
    return ((images * 255).round() + levels) / 255


def step_direction(grad: Tensor, norm: str) -> Tensor:
    """The direction of size 1 that raises a linear function with gradient ``grad`` the most, per image.

    sign(g) for ``"linf"`` (Goodfellow et al., 2015), g / ‖g‖₂ otherwise (for ``"dissimilarity"`` the caller multiplies
    by ``unit_length(images, norm)``). A zero gradient gives a zero direction.

    >>> step_direction(torch.tensor([[[[3.0, -4.0]]]]), "l2")
    tensor([[[[ 0.6000, -0.8000]]]])
    """
    check_norm(norm)
    if norm == "linf":
        return grad.sign()
    # Gradients of a confident network reach 1e-30, whose square is 0 in float32: scale to max 1 before taking the norm.
    scaled = over_largest(grad)
    return scaled / per_image(_nonzero(scaled.flatten(1).norm(dim=1)), grad)


def over_largest(values: Tensor) -> Tensor:
    """The values (N, ...) of each image over the largest of their magnitudes; zeros where all are.

    >>> over_largest(torch.tensor([[[[3.0, -4.0]]]]))
    tensor([[[[ 0.7500, -1.0000]]]])
    """
    return values / per_image(_nonzero(values.flatten(1).abs().amax(1)), values)


def random_in_ball(images: Tensor, eps: float, norm: str, generator: torch.Generator | None = None) -> Tensor:
    """A perturbation drawn uniformly from the ball of size ``eps``; shape, dtype and device of ``images``.

    Uniform by volume: for the L2 balls a Gaussian direction times a radius eps·u^(1/d). The draw happens on the
    generator's device, so one CPU generator gives the same start on every machine.
    """
    check_norm(norm)
    device = images.device if generator is None else generator.device
    options: dict[str, Any] = {"generator": generator, "device": device, "dtype": images.dtype}
    if norm == "linf":
        return (torch.rand(images.shape, **options) * 2 - 1).to(images.device) * eps
    direction = step_direction(torch.randn(images.shape, **options), norm)
    radius = torch.rand(len(images), **options) ** (1 / max(1, images[:1].numel()))
    return (direction * per_image(radius, direction)).to(images.device) * eps * unit_length(images, norm)


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """The ``values`` (N,) reshaped to (N, 1, ...), so that they broadcast against ``like`` (N, ...)."""
    return values.reshape((-1,) + (1,) * (like.ndim - 1))


def _nonzero(values: Tensor) -> Tensor:
    return torch.where(values > 0, values, torch.ones_like(values))
