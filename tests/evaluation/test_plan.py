"""A plan names every file of a grid by a digest of what decides its content, and what of it is missing."""

import json

import numpy as np
import pytest

from raypurify.evaluation.batches import GridBatch
from raypurify.evaluation.grid import CellName, load_grid
from raypurify.evaluation.plan import CellUnit, CheckUnit, make_plan, read_checks
from raypurify.storage import resolve


@pytest.fixture
def tree(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).write_text(name)
    kind = {"kind": "wide-resnet"}
    return {
        "images": {"paths": "unread"},
        "classifiers": {name: {**kind, "path": str(tmp_path / name)} for name in ("first", "second")},
        "attacks": {"clean": {"attack": "clean"}, "checks": {"attack": "pgd", "eps": 0.1}},
        "purifiers": {"none": {"purifier": "none"}, "JPEG": {"purifier": "jpeg"}},
        "sanity": 2,
    }


@pytest.fixture
def plan(tmp_path):
    batches = [GridBatch((f"{k}",), np.array([k]), np.full((1, 3, 8, 8), k, np.uint8)) for k in range(2)]
    return lambda tree: make_plan(load_grid(tree), resolve(tmp_path / "out"), batches)


def make(file, text=""):
    file.write(text.encode())


def test_units_are_what_is_missing(tree, plan):
    one = plan(tree)
    assert one.total == 2 * 2 * 2 * 2 + 2
    expected = [
        CellUnit(c, a, k, ("none", "JPEG")) for c in tree["classifiers"] for a in tree["attacks"] for k in (0, 1)
    ]
    assert set(one.units()) == {*expected, CheckUnit("first"), CheckUnit("second")}
    assert sum(unit.size for unit in one.units()) == one.total
    make(one.cell(CellName("first", "checks", "JPEG"), 1))
    make(one.checks("second"), json.dumps([{"name": "a", "passed": True, "figures": "b"}]))
    left = one.units()
    assert CellUnit("first", "checks", 1, ("none",)) in left
    assert CheckUnit("second") not in left
    assert sum(unit.size for unit in left) == one.total - 2


@pytest.mark.parametrize("text", ["", '[{"name": "a", "pas', "[", "\0"])
def test_checks_that_are_not_whole_are_missing(tree, plan, text):
    one = plan(tree)
    make(one.checks("first"), text)
    assert read_checks(one.checks("first")) is None
    assert CheckUnit("first") in one.units()


def test_keys_hold_what_decides_and_nothing_else(tree, plan):
    def keys(tree, classifier="first", attack="checks", purifier="none"):
        return plan(tree).keys[classifier, attack, purifier]

    def attack(**changes):
        return {**tree, "attacks": {**tree["attacks"], "checks": {**tree["attacks"]["checks"], **changes}}}

    before = keys(tree)
    assert len({*before, *keys(tree, "second"), *keys(tree, purifier="JPEG")}) == 6
    assert [k.adversarial for k in keys(tree, purifier="JPEG")] == [k.adversarial for k in before]
    assert keys(attack(worst="group")) == before
    assert keys({**tree, "name": "another", "examples": 1, "sanity": 0}) == before
    for changed in (attack(eps=0.2), attack(knows="bpda"), {**tree, "seed": 1}, {**tree, "eight_bit": False}):
        assert {k.adversarial for k in keys(changed)}.isdisjoint({k.adversarial for k in before})
    taken = {"second": {**tree["classifiers"]["second"], "attacked_as": "first"}}
    other = keys({**tree, "classifiers": {**tree["classifiers"], **taken}}, "second")
    assert [k.adversarial for k in other] == [k.adversarial for k in before]
    assert {k.cell for k in other}.isdisjoint({k.cell for k in before})
