"""A value that goes forward with the gradient of another: the straight-through estimator."""

from typing import Any

import torch
from torch import Tensor


def straight_through(smooth: Tensor, value: Tensor) -> Tensor:
    """The tensor ``value``, to the bit, with the gradient of ``smooth``.

    >>> x = torch.tensor(3.0, requires_grad=True)
    >>> y = straight_through(2 * x, torch.tensor(7.0))
    >>> y.item(), torch.autograd.grad(y, x)[0].item()
    (7.0, 2.0)
    """
    return _Straight.apply(smooth, value)


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, smooth: Tensor, value: Tensor) -> Tensor:
        return value.to(smooth).clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
