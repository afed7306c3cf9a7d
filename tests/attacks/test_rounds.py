"""No attack of the registry runs for ever: what it counts by is whole, and bounded."""

from dataclasses import fields

import pytest

from raypurify.attacks import ATTACKS, CW, PGD, Square
from raypurify.attacks.rounds import MOST_ROUNDS
from raypurify.errors import ConfigError

COUNTS = [(name, field.name) for name, attack in ATTACKS.items() for field in fields(attack) if field.type is int]


def test_every_attack_that_goes_round_counts():
    assert {name for name, _ in COUNTS} == set(ATTACKS) - {"fgsm", "autoattack"}


@pytest.mark.parametrize(("name", "count"), COUNTS)
@pytest.mark.parametrize("value", [0, 2.5, MOST_ROUNDS + 1, 10**12, float("inf")])
def test_a_count_that_would_never_end_or_is_none_is_named(name, count, value):
    with pytest.raises(ConfigError, match=f"{count}={value}"):
        ATTACKS[name](eps=0.1, **{count: value})


def test_rounds_within_rounds_are_bounded_together():
    PGD(eps=0.1, steps=1000, restarts=1000)
    CW(eps=0.1, searches=9, steps=10_000)
    with pytest.raises(ConfigError, match="steps=1000, restarts=1001: 1,001,000 rounds"):
        PGD(eps=0.1, steps=1000, restarts=1001)
    with pytest.raises(ConfigError, match="searches=101"):
        CW(eps=0.1, searches=101, steps=10_000)
    with pytest.raises(ConfigError, match="restarts=201"):
        Square(eps=0.1, restarts=201)
