"""A plan names every file of a grid by a digest of what decides its content, and what of it is missing."""

import json

import numpy as np
import pytest

from raypurify.evaluation import code
from raypurify.evaluation import plan as plans
from raypurify.evaluation.batches import GridBatch
from raypurify.evaluation.grid import CellName, load_grid
from raypurify.evaluation.plan import CellUnit, CheckName, CheckUnit, make_plan, read_checks
from raypurify.storage import resolve


def alone(classifier):
    return CheckName(classifier, "", "classifier")


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
    assert one.cells == 2 * 2 * 2 * 2
    expected = [
        CellUnit(c, a, k, ("none", "JPEG")) for c in tree["classifiers"] for a in tree["attacks"] for k in (0, 1)
    ]
    assert set(one.units()) == {*expected, CheckUnit(alone("first")), CheckUnit(alone("second"))}
    assert sum(unit.size for unit in one.units()) == one.cells + 2
    make(one.cell(CellName("first", "checks", "JPEG"), 1))
    make(one.checks(alone("second")), json.dumps([{"name": "a", "passed": True, "figures": "b"}]))
    left = one.units()
    assert CellUnit("first", "checks", 1, ("none",)) in left
    assert CheckUnit(alone("second")) not in left
    assert sum(unit.size for unit in left) == one.cells


@pytest.mark.parametrize("text", ["", '[{"name": "a", "pas', "[", "\0", "[]", "{}", "3", '["a"]'])
def test_checks_that_are_not_whole_are_missing(tree, plan, text):
    one = plan(tree)
    make(one.checks(alone("first")), text)
    assert read_checks(one.checks(alone("first"))) is None
    assert CheckUnit(alone("first")) in one.units()


def test_keys_hold_what_decides_and_nothing_else(tree, plan):
    def keys(tree, classifier="first", attack="checks", purifier="none"):
        return plan(tree).keys[classifier, attack, purifier]

    def attack(**changes):
        return {**tree, "attacks": {**tree["attacks"], "checks": {**tree["attacks"]["checks"], **changes}}}

    before = keys(tree)
    assert len({*before, *keys(tree, "second"), *keys(tree, purifier="JPEG")}) == 6
    assert [k.adversarial for k in keys(tree, purifier="JPEG")] == [k.adversarial for k in before]
    assert keys(attack(worst="group", minimal=True)) == before
    said = {"name": "another", "examples": 1, "sanity": 0, "report": {"maps": 1}, "scenarios": {"gray": "first"}}
    assert keys({**tree, **said}) == before
    for changed in (attack(eps=0.2), attack(knows="bpda"), {**tree, "seed": 1}, {**tree, "eight_bit": False}):
        assert {k.adversarial for k in keys(changed)}.isdisjoint({k.adversarial for k in before})
    taken = {"second": {**tree["classifiers"]["second"], "attacked_as": "first"}}
    other = keys({**tree, "classifiers": {**tree["classifiers"], **taken}}, "second")
    assert [k.adversarial for k in other] == [k.adversarial for k in before]
    assert {k.cell for k in other}.isdisjoint({k.cell for k in before})


def test_keys_hold_the_code_of_purifier_and_attack(tree, plan, monkeypatch):
    knowing = {**tree["attacks"], "known": {"attack": "pgd", "eps": 0.1, "knows": "bpda"}}
    tree = {**tree, "attacks": knowing}
    before = plan(tree)
    monkeypatch.setattr(plans, "purifier_code", lambda spec: spec.purifier)
    purifier = plan(tree)
    for (_, attack, _), old, new in zip(before.keys, before.keys.values(), purifier.keys.values()):
        for one, other in zip(old, new):
            assert one.cell != other.cell
            assert (one.adversarial == other.adversarial) == (attack != "known")
    behind = {name for name in before.check_keys if name.purifier}
    assert {n for n in before.check_keys if before.check_keys[n] != purifier.check_keys[n]} == behind
    monkeypatch.setattr(plans, "attack_code", lambda spec: spec.attack)
    attack = plan(tree)
    assert all(
        one.adversarial != other.adversarial
        for old, new in zip(purifier.keys.values(), attack.keys.values())
        for one, other in zip(old, new)
    )


@pytest.mark.parametrize("module", [f"raypurify.{one}" for one in ("nets.wide_resnet", "evaluation.attacked")])
def test_keys_hold_the_code_of_classifiers_and_of_what_writes_the_files(tree, plan, monkeypatch, module):
    before, read = plan(tree), code._read
    monkeypatch.setattr(code, "_read", lambda name: ("x = 1", ()) if name == module else read(name))
    after = plan(tree)
    for old, new in zip(before.keys.values(), after.keys.values()):
        assert not {k for pair in old for k in pair} & {k for pair in new for k in pair}
    if module == "raypurify.nets.wide_resnet":
        assert not set(before.check_keys.values()) & set(after.check_keys.values())
    assert after.digests == before.digests


def test_another_column_takes_no_other_attack(tree, plan, monkeypatch):
    before, read = plan(tree), code._read
    monkeypatch.setattr(code, "_read", lambda name: ("x = 1", ()) if name.endswith(".cells") else read(name))
    for old, new in zip(before.keys.values(), plan(tree).keys.values()):
        assert [one.adversarial for one in old] == [one.adversarial for one in new]
        assert not {one.cell for one in old} & {one.cell for one in new}


def test_what_is_checked_is_what_attackers_differentiate(tree, plan):
    attacks = {
        "gray": {"attack": "pgd", "eps": 0.1},
        "one": {"attack": "pgd", "eps": 0.1, "knows": "bpda"},
        "two": {"attack": "bim", "eps": 0.1, "knows": "bpda"},
        "three": {"attack": "pgd", "eps": 0.1, "knows": "solver"},
    }
    behind = [("JPEG", "bpda"), ("JPEG", "solver")]
    names = {CheckName(c, *which) for c in ("first", "second") for which in [("", "classifier"), *behind]}
    assert set(plan({**tree, "attacks": attacks}).check_keys) == names
    taken = {**tree["classifiers"]["second"], "attacked_as": "first"}
    classifiers = {**tree["classifiers"], "second": taken}
    # Nobody attacks what is taken for another.
    known = plan({**tree, "attacks": attacks, "classifiers": classifiers}).check_keys
    assert set(known) == {name for name in names if name.classifier == "first"}
    assert not plan({**tree, "sanity": 0}).check_keys


def test_keys_of_checks_hold_what_is_checked_and_no_more(tree, tmp_path):
    pixels = [np.full((1, 3, 8, 8), k, np.uint8) for k in range(3)]
    batches = [GridBatch((f"{k}",), np.array([k]), one) for k, one in enumerate(pixels)]
    tree = {**tree, "attacks": {"known": {"attack": "pgd", "eps": 0.1, "knows": "bpda"}}}

    def keys(tree, count=2):
        return make_plan(load_grid(tree), resolve(tmp_path / "out"), batches[:count]).check_keys

    before, behind = keys(tree), CheckName("first", "JPEG", "bpda")
    assert keys(tree, 3) == before  # the checks see the first two alone
    assert not {*keys({**tree, "sanity": 3}, 3).values()} & {*before.values()}
    unrounded = keys({**tree, "eight_bit": False})
    assert unrounded[behind] != before[behind]
    assert unrounded[alone("first")] == before[alone("first")]
    (tmp_path / "second").write_text("another")
    changed = keys(tree)
    assert changed[behind] == before[behind]
    assert changed[alone("first")] != before[alone("first")]  # from which attacks are transferred
