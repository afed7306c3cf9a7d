"""Training of ComDefend's networks: images from codes that noise has all but made binary."""

import torch
from torch import Tensor, nn

from raypurify.config import CompressionSettings
from raypurify.training.batch import Batch
from raypurify.training.denoising import noised, reconstruction_loss, training_sigma
from raypurify.training.step import Autocast, Figures


def compression(
    settings: CompressionSettings,
    model: nn.Module,
    images: Tensor,
    batch: Batch,
    autocast: Autocast,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Figures]:
    """The loss of reconstructing images from noisy codes, loss(y, x) + ``code_weight`` · mean c²; with its first
    argument an ``Objective``.

    ``model`` is a ``nets.compression.CompressionNetwork``, which gives both y and c. Jia et al. sum squares over an
    image and over its code where means are here, as in their released code, which has the weight 1e-4 too. The noise
    of ``settings.noise``, theirs being 0, is on the images that are coded, and not on x.
    """
    sigma = training_sigma(settings, len(images), images.device, generator)
    with autocast():
        reconstruction, code = model(noised(images, sigma, generator), noisy=True, generator=generator)
    loss = reconstruction_loss(reconstruction.float(), images, settings.loss)
    return loss + settings.code_weight * code.float().square().mean(), {}
