"""Rounds of an attack: how many its settings may ask for before it would never end."""

import math
from numbers import Integral

from raypurify.errors import ConfigError

MOST_ROUNDS = 1_000_000
"""Rounds that the settings of an attack may ask for in all, each of a pass or a few through the model, and of a random
purifier as many as it has draws. The search of Carlini and Wagner's own code takes 90,000, a standard AutoAttack 10,000
or so."""


def check_rounds(attack: str, **rounds: int) -> None:
    """Raise ConfigError unless each of ``rounds`` is a whole number ≥ 1, and all of them together, one within another,
    are at most ``MOST_ROUNDS``; ``attack`` is whose settings they are.

    >>> check_rounds("CW", searches=9, steps=10_000)
    >>> check_rounds("PGD", steps=10_000_000)
    Traceback (most recent call last):
    ...
    raypurify.errors.ConfigError: steps=10000000: 10,000,000 rounds, and 1,000,000 are the most: lower them
    """
    for name, value in rounds.items():
        if not isinstance(value, Integral) or value < 1:
            raise ConfigError(f"{name}={value!r}: {attack} needs a whole number of at least 1")
    if (asked := math.prod(map(int, rounds.values()))) > MOST_ROUNDS:
        settings = ", ".join(f"{name}={value}" for name, value in rounds.items())
        raise ConfigError(f"{settings}: {asked:,} rounds, and {MOST_ROUNDS:,} are the most: lower them")
