"""What every semantic loss is: a module that tells, for each image, how far its features are from where they belong."""

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor, nn


class SemanticLoss(nn.Module):
    """The contract of a semantic loss, which holds the features at one place of a network.

    Called with features (N, d) float32, the labels (N,) of their images, and for the loss that pulls to clusters the
    index (N,) of each image's own one, it gives one value for each image, (N,), which training averages and weighs by
    ``robust.alpha``. Parameters, if it has any, are centres: they have an optimiser of their own, plain SGD at
    ``robust.centres_lr``, whose steps do not change with α.

    ``figure`` is the name that the mean is told under.
    """

    figure: ClassVar[str]

    @abstractmethod
    def forward(self, features: Tensor, labels: Tensor, clusters: Tensor | None = None) -> Tensor: ...

    def settle(self, together: bool) -> None:
        """Make of the centres' gradients, the means over the workers by now, what their optimiser steps by.

        They stay as they are, unless a loss has a rule of its own. ``together`` says that there are several workers.
        """
