"""Passes through the model: how often an attack may ask about an image before it would never end."""

import math
from numbers import Integral

from raypurify.errors import ConfigError

MOST_PASSES = 1_000_000
"""Passes that an attack may make for an image in all. The search of Carlini and Wagner's own code takes 90,000, a
standard AutoAttack 10,000 or so."""


def check_passes(attack: str, **rounds: int) -> None:
    """Raise ConfigError unless each of ``rounds`` is a whole number ≥ 1, and all of them together, one within another,
    are at most ``MOST_PASSES``; ``attack`` is whose settings they are.

    >>> check_passes("CW", searches=9, steps=10_000)
    >>> check_passes("PGD", steps=10_000_000)
    Traceback (most recent call last):
    ...
    raypurify.errors.ConfigError: steps=10000000: 10,000,000 passes for an image, and 1,000,000 are the most: lower them
    """
    for name, value in rounds.items():
        if not isinstance(value, Integral) or value < 1:
            raise ConfigError(f"{name}={value!r}: {attack} needs a whole number of at least 1")
    if (passes := math.prod(map(int, rounds.values()))) > MOST_PASSES:
        settings = ", ".join(f"{name}={value}" for name, value in rounds.items())
        raise ConfigError(f"{settings}: {passes:,} passes for an image, and {MOST_PASSES:,} are the most: lower them")
