"""Training of the sparse front end's decoder (Bakiskan et al., section 5.1): alone to give images back, or with a
classifier to classify."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from raypurify.config import DecoderSettings, Settings
from raypurify.fronts import LEARNERS
from raypurify.nets.front_classifiers import start_from_pretrained
from raypurify.nets.front_end import DefendedClassifier, FrontEnd
from raypurify.training.batch import Batch
from raypurify.training.denoising import psnr, reconstruction_loss
from raypurify.training.start import drawn_network
from raypurify.training.step import Autocast, Figures, classification
from raypurify.training.together import frozen_statistics, mean_over_workers


def front_of(settings: Settings, atoms: Tensor, classes: int) -> FrontEnd | DefendedClassifier:
    """The network that training starts from: a front end over these ``atoms`` (L, 3, b, b), and where
    ``settings.decoder.supervised`` a classifier of so many classes behind it, weights drawn from ``settings.seed``;
    with ``settings.decoder.pretrained`` the classifier's are those of its package, but for its last layer's.

    Raises ConfigError where that classifier needs a package which is missing."""
    patches, how, decoder = settings.dictionary, settings.encoder, settings.decoder
    front = {
        "atoms": len(atoms),
        "size": patches.size,
        "stride": patches.stride,
        **how.model_dump(exclude={"seed"}),
        "channels": list(decoder.channels),
    }
    if decoder.supervised:
        about = decoder.depth, classes, decoder.classifier
        network = drawn_network(lambda: DefendedClassifier(front, *about), settings.seed)
        network.front.encoder.fill(atoms)
        if decoder.pretrained:
            head = LEARNERS[decoder.classifier].head
            start_from_pretrained(decoder.classifier, network.classifier, head)
        return network
    alone = drawn_network(lambda: FrontEnd(**front), settings.seed)
    alone.encoder.fill(atoms)
    return alone


def decoding(
    settings: DecoderSettings,
    model: nn.Module,
    images: Tensor,
    batch: Batch,
    autocast: Autocast,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Figures]:
    """The mean square of what a front end gives back less what it was given, or where ``settings.supervised`` the
    cross-entropy of a classifier behind it; with its first argument an ``Objective``.

    ``model`` takes images and what dropout draws from: ``nets.front_end.FrontEnd`` or ``DefendedClassifier``. The paper
    has ‖·‖₂² where the mean is here, whose gradient is steeper by the number of values.
    """
    if settings.supervised:
        return classification(lambda images: model(images, generator), images, batch, autocast)
    with autocast():
        reconstruction = model(images, generator)
    return reconstruction_loss(reconstruction.float(), images, "mse"), {}


@torch.no_grad()
def validate_decoding(
    settings: DecoderSettings,
    network: nn.Module,
    batches: Iterable[Batch],
    *,
    seed: int = 0,
    together: bool = False,
) -> dict[str, float]:
    """An epoch's figures on held-out images, each with a draw that every epoch repeats: ``validation_accuracy`` where
    ``settings.supervised``, else ``validation_loss``, the mean square, and the mean ``validation_psnr`` in dB.

    ``together`` is that of ``measure.validate``.
    """
    frozen_statistics(network, together)
    device, generator = next(network.parameters()).device, torch.Generator().manual_seed(seed)
    names = ("validation_accuracy",) if settings.supervised else ("validation_loss", "validation_psnr")
    figures, count = dict.fromkeys(names, 0.0), 0
    for batch in batches:
        images = batch.images.to(device, torch.float32).div_(255)
        output = network(images, torch.randint(1 << 62, (len(images),), generator=generator)).float()
        if settings.supervised:
            values = [(output.argmax(1) == batch.labels.to(device)).float()]
        else:
            values = [(output - images).square().flatten(1).mean(1), psnr(output, images)]
        for name, each in zip(names, values):
            figures[name] += float(each.sum())
        count += len(images)
    figures = {name: total / max(1, count) for name, total in figures.items()}
    return mean_over_workers(figures, count, network) if together else figures
