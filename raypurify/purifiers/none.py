"""No purifier: what the others are compared with."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from raypurify.purifiers.transform import Transform


@dataclass(frozen=True)
class Unchanged(Transform):
    """No purification: gives back the images as they are.

    >>> import torch
    >>> Unchanged().purify(torch.rand(1, 3, 8, 8)).relative_change
    tensor([0.])
    """

    differentiable: ClassVar[bool] = True

    def transform(self, images: Tensor) -> Tensor:
        return images
