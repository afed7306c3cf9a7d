"""Square Attack: Andriushchenko et al., "Square Attack: a query-efficient black-box adversarial attack via random
search", ECCV 2020.

It needs the scores of the classifier and no gradient, so that a defence without a useful gradient gains nothing.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from raypurify.attacks.ascent import check_batch, logits_at, wide
from raypurify.attacks.base import Loss, Model
from raypurify.attacks.budget import check_norm, check_size, per_image, project, unit_length
from raypurify.attacks.losses import margin, values
from raypurify.attacks.restarts import best_of
from raypurify.attacks.rounds import check_rounds
from raypurify.attacks.success import fooled
from raypurify.errors import ConfigError

# After how many of 10,000 queries the area of the square is halved, in the authors' code.
_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@dataclass(frozen=True)
class Square:
    """Square Attack: random search by square changes, each kept where it raises the margin (Algorithm 1).

    Under ``"linf"`` a square of x + {−eps, eps} per channel is tried at a random place, after a start of vertical
    stripes (Algorithm 2). Under ``"l2"``, and ``"dissimilarity"`` with each image's own radius, two squares give their
    share of the budget, and what is unused, to a random pattern in one of them, after a start of 5 × 5 such patterns
    (Algorithm 3, eq. 2). The squares cover the share ``area`` of the image at first (0.8 is AutoAttack's) and shrink
    over ``queries``, of which AutoAttack takes 5,000 too. Of several ``restarts`` each image keeps the best.

    An image is left alone once its class is not the label, also when rounded to 8 bits; one that is misclassified from
    the start comes back as it is. Places and signs are drawn once a query for all images of a call, so that an image's
    result does not depend on its company. A ``loss`` given to the call is raised in the margin's place with all the
    queries; it has to give one value per image, or DataError is raised.

    >>> from raypurify.attacks import Square
    >>> x = torch.full((1, 3, 4, 4), 0.5)
    >>> Square(eps=0.1, queries=5)(lambda x: x.mean((2, 3)), x, torch.tensor([0])).sub(x).abs().amax()
    tensor(0.1000)
    """

    own_objective: ClassVar[bool] = True
    eps: float
    norm: str = "linf"
    queries: int = 5000
    area: float = 0.8
    restarts: int = 1

    def __post_init__(self) -> None:
        check_norm(self.norm)
        check_size("eps", self.eps)
        check_rounds("Square", queries=self.queries, restarts=self.restarts)
        if not 0 < self.area <= 1:
            raise ConfigError(f"area={self.area}: the share of an image that a square covers is in (0, 1]")

    def __call__(
        self,
        model: Model,
        images: Tensor,
        labels: Tensor,
        *,
        generator: torch.Generator | None = None,
        loss: Loss | None = None,
    ) -> Tensor:
        """Adversarial images; the contract is ``attacks.base.Attack``'s."""
        check_batch(images, labels)

        def attempt(which: Tensor | slice) -> Tensor:
            return self._search(model, images[which], labels[which], generator, loss)

        return best_of(attempt, model, images, labels, self.restarts, loss or margin, leave=loss is None)

    def _search(
        self, model: Model, images: Tensor, labels: Tensor, generator: torch.Generator | None, loss: Loss | None
    ) -> Tensor:
        if len(images) == 0:
            return images.detach().clone()
        with torch.inference_mode(False), torch.no_grad():
            clean = wide(images.detach().clone())
            draw = _Draw(generator, clean)

            def score(x: Tensor, labels: Tensor) -> Tensor:
                return values(loss or margin, logits_at(model, x, images.dtype), labels)

            best, value = clean.clone(), score(clean, labels)
            todo = (value <= 0).nonzero().flatten() if loss is None else torch.arange(len(clean), device=clean.device)
            for query in range(self.queries + 1):
                if not len(todo):
                    break
                x, origin = best[todo], clean[todo]
                tried = self._changed(x, origin, query, draw) if query else self._start(origin, draw)
                found = score(tried, labels[todo])
                # The start is a start, better or not.
                better = found > value[todo] if query else torch.ones_like(found, dtype=torch.bool)
                best[todo] = torch.where(per_image(better, x), tried, x)
                value[todo] = torch.where(better, found, value[todo])
                # What is not better has been asked about.
                if loss is None and (out := better & (found > 0)).any():
                    out[out.clone()] = fooled(model, tried[out], labels[todo[out]], images.dtype)
                    todo = todo[~out]
            return best.to(images.dtype)

    def side(self, query: int, height: int, width: int) -> int:
        """Pixels along the side of the square at this query (from 1); odd and at least 3 for the L2 patterns."""
        passed = sum(query * 10_000 > after * self.queries for after in _HALVED_AFTER)
        side = round(math.sqrt(self.area / 2**passed * height * width))
        side = max(side, 1) if self.norm == "linf" else max(side, 3) | 1
        return min(side, height, width)

    def _start(self, clean: Tensor, draw: "_Draw") -> Tensor:
        channels, height, width = clean.shape[1:]
        if self.norm == "linf":
            return (clean + self.eps * draw.signs(channels, 1, width)).clamp(0, 1)
        tile = max(min(height, width) // 5, 1)
        delta = torch.zeros_like(clean[0])
        for top in range(height % tile // 2, height - tile + 1, tile):
            for left in range(width % tile // 2, width - tile + 1, tile):
                delta[:, top : top + tile, left : left + tile] = draw.signs(channels, 1, 1) * draw.pattern(tile)
        delta = self.eps * unit_length(clean, self.norm) * delta / delta.norm()
        return (clean + project(delta, clean, self.eps, self.norm)).clamp(0, 1)

    def _changed(self, x: Tensor, clean: Tensor, query: int, draw: "_Draw") -> Tensor:
        """The images with one square changed, within the ball."""
        channels, height, width = clean.shape[1:]
        side = self.side(query, height, width)
        place = draw.place(side, height, width)
        if self.norm == "linf":
            tried = x.clone()
            tried[place] = (clean[place] + self.eps * draw.signs(channels, 1, 1)).clamp(0, 1)
            return tried
        other = draw.place(side, height, width)
        delta = x - clean
        radius = self.eps * unit_length(clean, self.norm)
        unused = (radius.square() - delta.square().sum((1, 2, 3), keepdim=True)).clamp_min(0)
        covered = torch.zeros_like(delta[:1], dtype=torch.bool)
        covered[place] = covered[other] = True
        available = ((delta * covered).square().sum((2, 3), keepdim=True) + unused / channels).sqrt()
        pattern = draw.signs(channels, 1, 1) * draw.pattern(side) + _of_length(delta[place], 1)
        delta[other] = 0
        delta[place] = _of_length(pattern, available)
        return (clean + project(delta, clean, self.eps, self.norm)).clamp(0, 1)


class _Draw:
    """What is random in a query: drawn on the generator's device, returned on that of ``like`` and in its dtype."""

    def __init__(self, generator: torch.Generator | None, like: Tensor):
        device = like.device if generator is None else generator.device
        self._options: dict[str, Any] = {"generator": generator, "device": device}
        self._like = like

    def signs(self, *shape: int) -> Tensor:
        return (2 * torch.randint(2, shape, **self._options) - 1).to(self._like)

    def place(self, side: int, height: int, width: int) -> tuple:
        """Index of a square window of images (N, C, height, width)."""
        top, left = (int(torch.randint(end - side + 1, (), **self._options)) for end in (height, width))
        return (..., slice(top, top + side), slice(left, left + side))

    def pattern(self, side: int) -> Tensor:
        """η of eq. 2, (side, side) with ‖η‖₂ = 1: a bump beside its negative, lying or standing."""
        half = side // 2
        both = torch.cat([_bump(half, side), -_bump(side - half, side)])
        lying = bool(torch.randint(2, (), **self._options))
        return ((both if lying else both.T) / both.norm()).to(self._like)


def _bump(height: int, width: int) -> Tensor:
    """Σ_{j ≥ d} 1/(j + 1)² at Chebyshev distance d from the middle, j up to half the longer side; (height, width)."""
    rows, columns = ((torch.arange(end) - end // 2).abs() for end in (height, width))
    distance = torch.maximum(rows[:, None], columns[None, :])
    tails = (1 / torch.arange(1, max(height, width) // 2 + 2).double().square()).flip(0).cumsum(0).flip(0)
    return tails[distance]


def _of_length(delta: Tensor, length: Tensor | float) -> Tensor:
    """Each channel of each image (N, C, h, w) scaled to that L2 length; zeros stay zeros."""
    norm = torch.linalg.vector_norm(delta, dim=(2, 3), keepdim=True)
    return length * delta / torch.where(norm > 0, norm, 1)
