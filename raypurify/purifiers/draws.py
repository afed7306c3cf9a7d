"""Other draws of a random purifier: itself under another seed."""

from copy import copy
from dataclasses import is_dataclass, replace
from typing import Any, TypeVar

import torch

from raypurify.errors import ConfigError
from raypurify.purifiers.base import Purifier

Same = TypeVar("Same", bound=Purifier)


def is_random(purifier: Purifier) -> bool:
    """Whether a purifier may draw: it has a ``seed``, and no attribute ``random`` that says it draws nothing as it is
    set.

    >>> from raypurify.purifiers import JPEG, ResizePad
    >>> is_random(JPEG()), is_random(ResizePad())
    (False, True)
    """
    return hasattr(purifier, "seed") and bool(getattr(purifier, "random", True))


def draws_of(purifier: Same, count: int, skip: int = 0) -> list[Same]:
    """The purifier under ``count`` seeds from its own on, without the first ``skip`` of them.

    Of its own seed it is the purifier itself; the purifier stays as it is.

    >>> from raypurify.purifiers import ResizePad
    >>> [one.seed for one in draws_of(ResizePad(seed=3), 2)], [one.seed for one in draws_of(ResizePad(seed=3), 2, 1)]
    ([3, 4], [4, 5])
    """
    return [_with_seed(purifier, k) if k else purifier for k in range(skip, skip + count)]


def check_draws(where: str, purifier: Purifier) -> None:
    """Raise ConfigError unless another seed gives other images; ``where`` names the purifier for the message."""
    side = max(32, purifier.min_size)
    images = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    if is_random(purifier):
        first, *others = (one.purify(images).images for one in draws_of(purifier, 4))
        if any(not torch.equal(first, other) for other in others):
            return
    raise ConfigError(
        f"{where} draws nothing at random as it is set, so that an ensemble of it is itself: leave ensemble out, "
        "or take settings under which it draws"
    )


def _with_seed(purifier: Any, more: int) -> Any:
    seed = purifier.seed + more
    if is_dataclass(purifier):
        return replace(purifier, seed=seed)  # type: ignore[type-var]  # no class
    other = copy(purifier)
    other.seed = seed
    return other
