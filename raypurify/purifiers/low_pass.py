"""The Tikhonov low-pass alone: what RSFP leaves of an image when the code of its high part is zero."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from raypurify.config import MOST_PAD
from raypurify.csc import tikhonov_split
from raypurify.errors import ConfigError
from raypurify.purifiers.transform import Transform


@dataclass(frozen=True)
class LowPass(Transform):
    """Tikhonov low-pass: x_low = argmin_l ½‖l − x‖² + (λ_T/2) Σⱼ‖Gⱼ l‖² (RSFP, section III-E), no high part.

    ``tikhonov`` is λ_T, ``pad`` the mirrored border; the defaults are those of a fit (``csc.tikhonov``, ``csc.pad``):
    RSFP gives no values.

    >>> import torch
    >>> LowPass().purify(torch.full((1, 3, 8, 8), 0.5)).images.shape
    torch.Size([1, 3, 8, 8])
    """

    tikhonov: float = 5.0
    pad: int = 16

    differentiable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (0 <= self.tikhonov < math.inf and isinstance(self.pad, int) and 0 <= self.pad <= MOST_PAD):
            raise ConfigError(
                f"tikhonov={self.tikhonov!r}, pad={self.pad!r}: need a finite number ≥ 0 and a whole number from 0 to "
                f"{MOST_PAD}"
            )

    def transform(self, images: Tensor) -> Tensor:
        return tikhonov_split(images, lmbda=self.tikhonov, pad=self.pad)[0]
