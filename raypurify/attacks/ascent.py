"""Projected gradient ascent on the loss: the loop that FGSM, BIM and PGD share."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from raypurify.attacks.base import Loss, Model
from raypurify.attacks.budget import project, random_start, step_direction, unit
from raypurify.errors import DataError


def ascend(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: str,
    steps: int,
    step_size: float,
    start_at_random: bool = False,
    generator: torch.Generator | None = None,
    loss: Loss | None = None,
) -> Tensor:
    """Take ``steps`` steps x' ← Π(x' + step_size · direction(∇ loss)) and return the last x'.

    Π projects onto the ball of size ``eps`` around the images, then onto [0, 1]; the second projection only moves x'
    towards the image, so both hold at the end. The gradient is that of cross-entropy unless ``loss`` says otherwise,
    summed over the batch, so that the result for an image does not depend on its neighbours. Perturbations are kept in
    float32 or wider whatever the dtype of the images, or the autocast the model runs under.

    Raises DataError when images are not floating point in [0, 1], or labels do not fit them.
    """
    _check(images, labels)
    if len(images) == 0:
        return images.detach().clone()
    with torch.inference_mode(False), torch.no_grad():
        clean = images.detach().to(torch.promote_types(images.dtype, torch.float32), copy=True)
        step = step_size * unit(clean, norm)
        perturbed = clean
        if start_at_random:
            perturbed = (clean + random_start(clean, eps, norm, generator)).clamp(0, 1)
        for _ in range(steps):
            gradient = _gradient(model, perturbed, labels, images.dtype, loss)
            delta = perturbed + step * step_direction(gradient, norm) - clean
            perturbed = (clean + project(delta, clean, eps, norm)).clamp(0, 1)
        return perturbed.to(images.dtype)


def _gradient(model: Model, perturbed: Tensor, labels: Tensor, dtype: torch.dtype, loss: Loss | None) -> Tensor:
    with torch.enable_grad():
        inputs = perturbed.detach().requires_grad_()
        logits = model(inputs.to(dtype))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        value = cross_entropy(logits, labels, reduction="sum") if loss is None else loss(logits, labels).sum()
        # Asking for the gradient of the input alone leaves every parameter's .grad as it was.
        return torch.autograd.grad(value, inputs)[0]


def _check(images: Tensor, labels: Tensor) -> None:
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
