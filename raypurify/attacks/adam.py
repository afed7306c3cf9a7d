"""Adam on a batch of which images can leave, for attacks that descend or climb by it."""

import torch
from torch import Tensor


class Adam:
    """Adam (Kingma and Ba, 2015) for variables (N, ...) that the caller holds.

    >>> Adam(torch.zeros(1, 2)).way(torch.tensor([[3.0, -0.5]])).round(decimals=3)
    tensor([[ 1., -1.]])
    """

    def __init__(self, like: Tensor):
        self._first, self._second, self._steps = torch.zeros_like(like), torch.zeros_like(like), 0

    def way(self, slope: Tensor) -> Tensor:
        """The step (N, ...) of rate 1 up along ``slope``, the gradient where the variables are; it counts as taken."""
        self._steps += 1
        self._first = 0.9 * self._first + 0.1 * slope
        self._second = 0.999 * self._second + 0.001 * slope * slope
        first, second = self._first / (1 - 0.9**self._steps), self._second / (1 - 0.999**self._steps)
        return first / (second.sqrt() + 1e-8)

    def keep(self, chosen: Tensor) -> None:
        """Let all but the images ``chosen`` (bool, (N,)) leave."""
        self._first, self._second = self._first[chosen], self._second[chosen]
