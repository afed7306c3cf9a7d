"""PD-Ens: pixel deflection under a robust activation map, averaged over draws (Prakash et al., CVPR 2018)."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from raypurify.errors import ConfigError, RaypurifyError
from raypurify.nets.activations import robust_activation_map
from raypurify.nets.kinds import NETWORKS
from raypurify.nets.state import state_digest
from raypurify.purifiers.learned import placed
from raypurify.purifiers.pixel_deflection import PixelDeflection
from raypurify.purifiers.transform import check_whole, each_image, generator_of

# A map of each class is held for the whole batch; draws are averaged as they come, and cost time alone.
MOST_CLASSES, MOST_DRAWS = 100, 1000


@dataclass(frozen=True)
class DeflectionEnsemble(PixelDeflection):
    """Pixel deflection that spares what a classifier looks at, as the mean of ``draws`` draws: "PD-Ens" of STL.

    1. The robust activation map of the ``classes`` likeliest classes (``nets.activations``), of the image as it came.
    2. :class:`~raypurify.purifiers.pixel_deflection.PixelDeflection`, whose settings it has, but that a pixel is
       passed over with the probability that the map has there; ``draws`` times.
    3. The mean of these images.

    The classifier of the map is the one that is defended, so it has to be named, as in a grid: ``kind`` (cifar-resnet,
    wide-resnet, vgg16, bottleneck-resnet, cnn6, torchvision, efficientnet-lite), ``classifier``, the file or name of
    it, and ``weights`` for torchvision's. ``digest`` is that of its weights. Prakash et al. average what the classifier
    says of each draw; a purifier gives one image, so here the images are averaged: to first order the same, and the
    mean of many draws has less of the deflections' own noise. ``draws`` are 1000 at most, in the memory of one, and
    ``classes`` 100. Needs the extra ``evaluation``.

    >>> DeflectionEnsemble()
    Traceback (most recent call last):
    ...
    raypurify.errors.ConfigError: classifier=None: the map needs one: name the file of the classifier that is defended
    """

    classes: int = 5
    draws: int = 10
    kind: str = "cifar-resnet"
    classifier: str | Path | None = None
    weights: str | Path | None = None
    digest: str = field(init=False, default="")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("classes", self.classes, 1, MOST_CLASSES)
        check_whole("draws", self.draws, 1, MOST_DRAWS)
        if self.kind not in NETWORKS:
            raise ConfigError(f"kind={self.kind!r}: choose one of {', '.join(NETWORKS)}")
        if self.classifier is None:
            raise ConfigError("classifier=None: the map needs one: name the file of the classifier that is defended")
        weights = None if self.weights is None else str(self.weights)
        try:
            network = NETWORKS[self.kind](str(self.classifier), weights)
        except (OSError, RaypurifyError) as error:
            raise ConfigError(f"classifier={str(self.classifier)!r}: {error}") from error
        object.__setattr__(self, "digest", state_digest(network))
        object.__setattr__(self, "_network", network.eval().requires_grad_(False))

    def transform(self, images: Tensor) -> Tensor:
        if not len(images):
            return images.clone()
        network: nn.Module = self._network  # type: ignore[attr-defined]  # frozen: set above
        spared = robust_activation_map(placed(network, images.device), images, self.classes)
        return each_image(images, self._mean, spared.cpu().numpy())

    def _mean(self, image: np.ndarray, spared: np.ndarray) -> np.ndarray:
        rng = generator_of(image, self.seed)
        total = self._purified(image, rng, spared)
        for _ in range(self.draws - 1):
            total = total + self._purified(image, rng, spared)
        return total / self.draws
