"""What every attack is: a callable that perturbs images within a budget."""

from collections.abc import Callable
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

Model: TypeAlias = Callable[[Tensor], Tensor]
"""A map from images (N, 3, H, W) in [0, 1] to logits (N, classes)."""

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""What an attack raises: a map from (logits, labels) to one value per image (N,), or to their sum."""


class Attack(Protocol):
    """The contract of an attack: it holds its settings and perturbs one batch per call.

    An untargeted attack looks for x′ with a high loss ℓ(f(x′), y), ‖x′ − x‖ ≤ eps in its norm and x′ in [0, 1]. The
    result is detached, in [0, 1], of the shape and dtype of ``images``, and within ``eps`` of them in ``norm`` (up to
    rounding of that dtype); an attack whose ``norm`` is none of ``budget.NORMS`` says what it bounds. With the same
    ``generator`` state the same images come out. The attack never writes ``.grad`` of the model's parameters and never
    switches the model between training and evaluation: in training mode its forward passes update batch-norm
    statistics, so switch to ``eval()`` where that is not wanted. Pass the bare module, not its
    ``DistributedDataParallel`` wrapper, which hooks into every backward pass. An attack that raises no
    loss (``DeepFool``, ``AutoAttack``) refuses one with ConfigError. One that is only itself by its own objective, as
    those and the margins of ``CW`` and ``Square``, says so by a class attribute ``own_objective = True``: a threat
    model that would give another loss then gives none. Images that are not floating point in [0, 1], and
    labels that do not fit them, raise DataError; settings out of range, and such as would ask
    about an image without end (``passes``), raise ConfigError when the attack is made.
    """

    @property
    def eps(self) -> float: ...
    @property
    def norm(self) -> str: ...

    def __call__(
        self,
        model: Model,
        images: Tensor,
        labels: Tensor,
        *,
        generator: torch.Generator | None = None,
        loss: Loss | None = None,
    ) -> Tensor: ...
