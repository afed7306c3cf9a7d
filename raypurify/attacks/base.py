"""What every attack is: a callable that perturbs images within a budget."""

from collections.abc import Callable
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

Model: TypeAlias = Callable[[Tensor], Tensor]
"""Images (N, 3, H, W) in [0, 1] to logits (N, classes)."""

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(logits, labels) to one value per image (N,), or to their sum. What the attack raises."""


class Attack(Protocol):
    """An attack holds its settings and perturbs one batch per call.

    The result is detached, in [0, 1], of the shape and dtype of ``images``, and within ``eps`` of them in ``norm``
    (up to rounding of that dtype). With the same ``generator`` state the same images come out. The attack never writes
    ``.grad`` of the model's parameters and never switches the model between training and evaluation: in training mode
    its forward passes update batch-norm statistics, so switch to ``eval()`` where that is not wanted. Pass the bare
    module, not its ``DistributedDataParallel`` wrapper, which hooks into every backward pass. An attack that raises no
    loss (``DeepFool``, ``AutoAttack``) refuses one with ConfigError.
    """

    eps: float
    norm: str

    def __call__(
        self,
        model: Model,
        images: Tensor,
        labels: Tensor,
        *,
        generator: torch.Generator | None = None,
        loss: Loss | None = None,
    ) -> Tensor: ...
