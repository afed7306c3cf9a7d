"""The sparse front end (Bakiskan et al.): an encoder that is not trained, and the decoder that makes images of it."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from raypurify.nets.front_classifiers import NETWORKS
from raypurify.nets.front_decoder import FrontDecoder
from raypurify.nets.front_encoder import Draws, FrontEncoder


class FrontEnd(nn.Module):
    """The front end: images through an ``encoder`` (``FrontEncoder``), whose codes a ``decoder`` (``FrontDecoder``)
    makes images of.

    Bakiskan et al., section 2. ``encoder`` are the settings of the one, ``channels`` that of the other. Only the
    decoder has parameters.

    ``network(images, draws)`` gives images (N, 3, H, W) in [0, 1], float32, of images (N, 3, H, W) in [0, 1], no side
    below ``size``; ``draws`` are those of :meth:`FrontEncoder.survivors`. No gradient comes through equation 3, whose
    slope is 0 where it has one.

    >>> import torch
    >>> network = FrontEnd(atoms=20, top=5, dropout=0.5, channels=(8, 4))
    >>> network(torch.rand(2, 3, 9, 9), torch.Generator()).shape
    torch.Size([2, 3, 9, 9])
    """

    def __init__(self, channels: Sequence[int] = (300, 100), **encoder: Any):
        super().__init__()
        self.encoder = FrontEncoder(**encoder)
        how = self.encoder.settings
        self.settings = how | {"channels": list(channels)}
        self.decoder = FrontDecoder(how["atoms"], how["size"], how["stride"], channels)

    def forward(self, images: Tensor, draws: Draws | None = None) -> Tensor:
        height, width = images.shape[-2:]
        return self.decoder(self.encoder.code(images, draws), (height, width))


class DefendedClassifier(nn.Module):
    """A front end and the classifier that its decoder learns with: supervised training (Bakiskan et al., section 2.3).

    ``network(images, draws)`` gives logits (N, classes) float32 of images (N, 3, H, W) in [0, 1]; ``front`` is the
    ``FrontEnd`` of the settings ``front``, ``classifier`` the one of that name in ``front_classifiers.NETWORKS``: the
    paper's ResNet-32 by its number of layers and channels, ``depth``, or its EfficientNet-B0. What ``front`` gives is
    for this classifier alone: nothing asks that it looks like the image.

    >>> import torch
    >>> network = DefendedClassifier({"atoms": 20, "top": 5, "dropout": 0.5, "channels": [8, 4]}, depth=8, classes=3)
    >>> network(torch.rand(2, 3, 9, 9), torch.Generator()).shape
    torch.Size([2, 3])
    """

    def __init__(self, front: dict[str, Any], depth: int = 32, classes: int = 10, classifier: str = "cifar-resnet"):
        super().__init__()
        self.front, self.classifier = FrontEnd(**front), NETWORKS[classifier](depth, classes)
        self.settings = {"front": self.front.settings, "depth": depth, "classes": classes, "classifier": classifier}

    def forward(self, images: Tensor, draws: Draws | None = None) -> Tensor:
        return self.classifier(self.front(images, draws))
