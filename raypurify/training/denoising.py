"""Training of a network that takes Gaussian noise away: the noise, the objective of a batch, figures of an epoch."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raypurify.config import DenoisingSettings
from raypurify.training.batch import Batch
from raypurify.training.step import Autocast, Figures
from raypurify.training.together import frozen_statistics, mean_over_workers


def noised(images: Tensor, sigma: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Images (N, C, H, W) in [0, 1] plus Gaussian noise of standard deviation ``sigma`` (N,), clipped to [0, 1].

    >>> noised(torch.full((2, 3, 1, 1), 0.5), torch.tensor([0.0, 1.0]))[0].unique()
    tensor([0.5000])
    """
    noise = torch.randn(images.shape, generator=generator, device=images.device)
    return (images + sigma.view(-1, 1, 1, 1) * noise).clamp(0, 1)


def training_sigma(
    settings: DenoisingSettings, count: int, device: torch.device, generator: torch.Generator | None = None
) -> Tensor:
    """The standard deviations (N,) of a batch's noise, as ``settings.levels`` says.

    ``"half"``: 0 for every other image, ``noise`` for the rest: STL trains "on both natural images and their
    noise-perturbed versions" (Sun et al., section 3.4) and names no share, so neither has more say; each batch has
    both, for one statistic of batch norm. ``"all"``: ``noise``, as MagNet. ``"range"``: uniform between 0 and
    ``noise``, for noise of unknown size (Zhang et al. 2017, section III-D).

    >>> training_sigma(DenoisingSettings(noise=0.5), 3, torch.device("cpu"))
    tensor([0.0000, 0.5000, 0.0000])
    """
    if settings.levels == "range":
        return settings.noise * torch.rand(count, generator=generator, device=device)
    sigma = torch.full((count,), settings.noise, device=device)
    if settings.levels == "half":
        sigma[::2] = 0
    return sigma


def reconstruction_loss(reconstruction: Tensor, images: Tensor, loss: str) -> Tensor:
    """The loss of reconstructions (N, …) of images (N, …) in [0, 1], the mean over all values: a scalar.

    ``"bce"``, binary cross-entropy −x log y − (1 − x) log(1 − y), for reconstructions in [0, 1]; ``"mse"``, (y − x)².
    The least expected loss of both is at y = E[x | input], so they ask for the same network; cross-entropy, which the
    authors of STL take, has the steeper slope where a sigmoid is flat. Its least value for images is above 0, their
    entropy −x log x − (1 − x) log(1 − x).

    >>> reconstruction_loss(torch.tensor([0.5]), torch.tensor([1.0]), "mse").item()
    0.25
    """
    compare = F.binary_cross_entropy if loss == "bce" else F.mse_loss
    # On CUDA autocast refuses the cross-entropy of probabilities, whatever their precision.
    with torch.autocast(images.device.type, enabled=False):
        return compare(reconstruction, images)


def psnr(reconstruction: Tensor, images: Tensor) -> Tensor:
    """The peak signal-to-noise ratio of each image (N, C, H, W) in [0, 1], (N,) in dB: −10 log₁₀ mean (y − x)²;
    at most 100.

    >>> psnr(torch.full((1, 3, 2, 2), 0.5), torch.full((1, 3, 2, 2), 0.6)).round(decimals=2)
    tensor([20.])
    """
    return -10 * (reconstruction - images).square().flatten(1).mean(1).clamp(min=1e-10).log10()


def denoising(
    settings: DenoisingSettings,
    model: nn.Module,
    images: Tensor,
    batch: Batch,
    autocast: Autocast,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Figures]:
    """The loss of reconstructing clean images from noised ones; with its first argument an ``Objective``.

    ``model`` gives reconstructions (N, 3, H, W) of images (N, 3, H, W).
    """
    sigma = training_sigma(settings, len(images), images.device, generator)
    with autocast():
        reconstruction = model(noised(images, sigma, generator))
    return reconstruction_loss(reconstruction.float(), images, settings.loss), {}


@torch.no_grad()
def validate_denoising(
    settings: DenoisingSettings,
    network: nn.Module,
    batches: Iterable[Batch],
    *,
    seed: int = 0,
    together: bool = False,
) -> dict[str, float]:
    """An epoch's figures on held-out images with noise on all of them, of σ ``settings.noise`` or, for levels
    ``"range"``, of one each: ``validation_loss``, and the mean ``validation_psnr`` in dB.

    ``together`` is that of ``measure.validate``.
    """
    frozen_statistics(network, together)
    device = next(network.parameters()).device
    # On the CPU, so that every device sees the same noise.
    generator = torch.Generator().manual_seed(seed)
    every = settings.model_copy(update={"levels": "range" if settings.levels == "range" else "all"})
    loss, ratio, count = 0.0, 0.0, 0
    for batch in batches:
        images = batch.images.to("cpu", torch.float32).div_(255)
        inputs = noised(images, training_sigma(every, len(images), images.device, generator), generator)
        reconstruction, images = network(inputs.to(device)).float(), images.to(device)
        loss += float(reconstruction_loss(reconstruction, images, settings.loss)) * len(images)
        ratio += float(psnr(reconstruction, images).sum())
        count += len(images)
    figures = {"validation_loss": loss / max(1, count), "validation_psnr": ratio / max(1, count)}
    return mean_over_workers(figures, count, network) if together else figures
