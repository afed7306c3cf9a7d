"""What the page says of the sparse front end is what its committed bits say."""

from pathlib import Path

import numpy as np
import pytest

from raypurify.evaluation.bits import BITS, read_bits
from raypurify.evaluation.grid import CellName
from raypurify.evaluation.intervals import paired

REPOSITORY = Path(__file__).resolve().parents[2]
WHITE = ("W-NFGA, identity", "W-NFGA, smooth", "W-AIGA")
TRANSFER = ("PW-T, AIGA", "PW-T, NFGA")
COMPLETE, ALONE, ROBUST = ("complete", "complete"), ("twin", "alone"), ("robust", "none")


@pytest.fixture(scope="module")
def right():
    """Which images a classifier behind a purifier has right under all of some attacks."""
    bits = read_bits(REPOSITORY / "benchmarks" / "results" / "front-end-small" / BITS)

    def of(row, *attacks):
        classifier, purifier = row
        return np.logical_and.reduce([bits[CellName(classifier, one, purifier)]["correct"] for one in attacks])

    return of


@pytest.fixture(scope="module")
def said():
    text = (REPOSITORY / "docs" / "results.md").read_text("utf-8")
    return " ".join(text.partition("What of the paper's claims is seen at this size:")[2].partition("\n## ")[0].split())


def share(images) -> str:
    return f"{100 * images.mean():.1f}"


def apart(one, other) -> str:
    found = paired(one, other)
    return f"{100 * found.value:.1f} points {{}} ({100 * found.low:.1f} to {100 * found.high:.1f})"


def test_who_takes_it_for_the_identity(right, said):
    alone, complete = (share(right(row, "W-AIGA")) for row in (ALONE, COMPLETE))
    assert f"{alone} % and {complete} % are left" in said


def test_white_boxes_and_the_transfer_from_the_twin(right, said):
    white, transfer = (right(COMPLETE, *attacks) for attacks in (WHITE, TRANSFER))
    assert f"leave {share(white)} % and PW-T {share(transfer)} %, which is" in said
    assert apart(transfer, white).format("more") in said


def test_worst_cases_beside_adversarial_training(right, said):
    attacks = (*WHITE, *TRANSFER, "B-T", "PGD")
    complete, alone, robust = (right(row, *attacks) for row in (COMPLETE, ALONE, ROBUST))
    assert f"*Complete* is left {share(complete)} % and the robust network {share(robust)} %" in said
    assert apart(robust, complete).format("apart") in said
    assert apart(robust, alone).format("behind") in said
    clean = [share(right(row, "clean")) for row in (ROBUST, COMPLETE, ALONE)]
    assert "the robust network has {} %, *complete* {} and *alone* {}".format(*clean) in said
