"""Projected gradient ascent on the loss: the loop that FGSM, BIM, MIM, PGD and TPGD share."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from raypurify.attacks.base import Loss, Model
from raypurify.attacks.budget import per_image, project, step_direction, unit_length
from raypurify.attacks.expectation import Expectation
from raypurify.errors import DataError


def ascend(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: str,
    steps: int,
    step_size: float | Sequence[float],
    start: Callable[[Tensor], Tensor] | None = None,
    loss: Loss | None = None,
    momentum: float = 0.0,
) -> Tensor:
    """Take ``steps`` steps x' ← Π(x' + step_size · direction(∇ loss)) and return the last x'.

    ``step_size`` is one for all steps, or one for each. Π projects onto the ball of size ``eps`` around the images,
    then onto [0, 1]; the second projection only moves x' towards the image, so both hold at the end. The gradient is
    that of cross-entropy unless ``loss`` says otherwise, summed over the batch, so that the result for an image does
    not depend on its neighbours. Perturbations are kept in float32 or wider whatever the dtype of the images, or the
    autocast the model runs under.

    ``start`` gives the first perturbation of the images it is called with, inside the ball (none: zero). With
    ``momentum`` μ > 0 the direction is that of g ← μ·g + ∇ / ‖∇‖₁ (Dong et al. 2018, eq. 6) in the place of the
    gradient.

    Raises DataError when images are not floating point in [0, 1], or labels do not fit them.
    """
    check_batch(images, labels)
    if len(images) == 0:
        return images.detach().clone()
    with torch.inference_mode(False), torch.no_grad():
        clean = wide(images.detach().clone())
        unit = unit_length(clean, norm)
        perturbed = clean
        if start is not None:
            perturbed = (clean + start(clean)).clamp(0, 1)
        velocity = torch.zeros_like(clean)
        for step in [step_size] * steps if isinstance(step_size, int | float) else step_size:
            gradient, _ = input_gradient(model, perturbed, labels, images.dtype, loss)
            if momentum:
                gradient = velocity = momentum * velocity + _of_unit_sum(gradient)
            delta = perturbed + step * unit * step_direction(gradient, norm) - clean
            perturbed = (clean + project(delta, clean, eps, norm)).clamp(0, 1)
        return perturbed.to(images.dtype)


def _of_unit_sum(gradient: Tensor) -> Tensor:
    """∇ / ‖∇‖₁ per image; zero where the gradient is."""
    total = gradient.flatten(1).abs().sum(1)
    return gradient / per_image(torch.where(total > 0, total, 1), gradient)


def input_gradient(
    model: Model, images: Tensor, labels: Tensor, dtype: torch.dtype, loss: Loss | None
) -> tuple[Tensor, Tensor]:
    """The gradient of the loss, summed over the batch, at ``images``, and their logits; the model sees ``dtype``.

    Of an :class:`~raypurify.attacks.expectation.Expectation` that averages gradients it is their mean.
    """
    if isinstance(model, Expectation) and model.of_gradients:
        return _mean_gradient(model, images, labels, dtype, loss)
    with torch.enable_grad():
        inputs = images.detach().requires_grad_()
        logits = wide(model(inputs.to(dtype)))
        value = cross_entropy(logits, labels, reduction="sum") if loss is None else loss(logits, labels).sum()
        # Asking for the gradient of the input alone leaves every parameter's .grad as it was.
        return torch.autograd.grad(value, inputs)[0], logits.detach()


def _mean_gradient(
    model: Expectation, images: Tensor, labels: Tensor, dtype: torch.dtype, loss: Loss | None
) -> tuple[Tensor, Tensor]:
    total, logits = torch.zeros_like(images), None
    # One draw at a time: the graphs of all would need the memory of all.
    for _ in range(model.samples):
        gradient, output = input_gradient(model.model, images, labels, dtype, loss)
        total = total + (step_direction(gradient, "l2") if model.average == "directions" else gradient)
        logits = output if logits is None else logits + output
    assert logits is not None  # as there is at least one draw
    return total / model.samples, logits / model.samples


def logits_at(model: Model, images: Tensor, dtype: torch.dtype) -> Tensor:
    """Logits of ``images``, detached; the model sees ``dtype``."""
    # With gradients on: older PyTorch (pytorch/pytorch#158232) would keep the weights that autocast casts under no_grad
    # for the rest of the context, and a training step there would not reach the parameters.
    with torch.enable_grad():
        return wide(model(images.to(dtype))).detach()


def wide(values: Tensor) -> Tensor:
    """The values in float32, or in their own dtype where that is wider."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def check_batch(images: Tensor, labels: Tensor) -> None:
    """Raise DataError unless images are floating point in [0, 1], with one label each."""
    if not images.is_floating_point():
        raise DataError(f"attacked images have dtype {images.dtype}: pass floating-point images in [0, 1]")
    if labels.shape != images.shape[:1]:
        raise DataError(
            f"labels have shape {tuple(labels.shape)}, images {tuple(images.shape)}: pass one label per image"
        )
    if images.numel():
        low, high = images.detach().aminmax()
        # Written so that NaN fails too.
        if not (low >= 0 and high <= 1):
            raise DataError(f"attacked images span [{low:.4g}, {high:.4g}]: scale them to [0, 1]")


def step_sizes(eps: float, norm: str, steps: int, each: float | None = None) -> list[float]:
    """The size of every step of an attack of so many: ``each``, or 2.5·eps/steps, and under ``"dissimilarity"`` falling
    from eps by eps/steps (``PGD`` says why).

    >>> step_sizes(0.4, "dissimilarity", 4), step_sizes(0.4, "linf", 2)
    ([0.4, 0.30000000000000004, 0.2, 0.1], [0.5, 0.5])
    """
    if each is None and norm == "dissimilarity":
        return [eps * (1 - done / steps) for done in range(steps)]
    return [2.5 * eps / steps if each is None else each] * steps
