"""The precision of what a network gives: single where it computes in half, double where it is itself in double."""

import torch
from torch import Tensor


def at_least_single(x: Tensor) -> Tensor:
    """A tensor in float32 at least: of half precision, as autocast makes it, in float32; of float64 as it is.

    >>> [at_least_single(torch.zeros(1, dtype=kind)).dtype for kind in (torch.bfloat16, torch.float64)]
    [torch.float32, torch.float64]
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))
