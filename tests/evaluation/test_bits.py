"""Committed bits of images give the figures of the report again."""

import csv
import json
import math

import pytest
import torch

from raypurify.attacks import ATTACKS
from raypurify.evaluation.bits import main, read_bits, recompute
from raypurify.evaluation.tables import Cell, read_csv

COUNT = 24


@pytest.fixture(scope="module")
def tree(data_file):
    eps = {"norm": "dissimilarity", "eps": 0.04}
    return {
        "images": {"paths": str(data_file("cifar10/test.parquet")), "limit": COUNT},
        "classifiers": {"net": {"kind": "cifar-resnet", "path": str(data_file("cifar10-resnet/resnet20-12fca82f.th"))}},
        "attacks": {
            "clean": {"attack": "clean"},
            "FGSM": {"attack": "fgsm", **eps},
            "BIM": {"attack": "bim", "steps": 10, **eps, "worst": "worst case"},
            "PGD": {"attack": "pgd", "steps": 2, "norm": "l2", "eps": 0.5},
            "DeepFool": {"attack": "deepfool", **eps},
            "BPDA": {"attack": "pgd", "eps": 0.008, "steps": 2, "knows": "bpda", "worst": "worst case"},
            "solver": {"attack": "pgd", "eps": 0.008, "steps": 2, "knows": "solver", "worst": "worst case"},
        },
        "purifiers": {
            "none": {"purifier": "none"},
            "JPEG": {"purifier": "jpeg"},
            "low-pass": {"purifier": "low_pass", "tikhonov": 0.5},
        },
        "reference": "JPEG",
        "batch": 10,
        "examples": 0,
    }


@pytest.fixture(scope="module")
def report(tree, worked_here, tmp_path_factory):
    out = tmp_path_factory.mktemp("bits") / "out"
    worked_here(tree, out)
    return out


def rows(file) -> list[dict]:
    with file.open(encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def test_intervals_and_tests_are_recomputed_from_bits_alone(report, tmp_path):
    for name in ("bits.parquet", "facts.json"):
        (tmp_path / name).write_bytes((report / name).read_bytes())
    cells, compared = recompute(tmp_path)
    written = read_csv((report / "cells.csv").read_text("utf-8"))
    assert [tuple(name) for name in cells] == [(one.classifier, one.attack, one.purifier) for one in written]
    for one, other in zip(cells.values(), written):
        for figure in ("accuracy", "low", "high", "n", "size", "budget", "norm"):
            found, expected = getattr(one, figure), getattr(other, figure)
            assert found == expected or (math.isnan(found) and math.isnan(expected)), (other, figure)
    expected = rows(report / "comparisons.csv")
    assert [{key: str(value) for key, value in row.items()} for row in compared] == expected
    # A byte an image and cell would be 504.
    assert (report / "bits.parquet").stat().st_size < 12_000


def test_the_tables_can_be_printed_from_bits(report, capsys):
    main(str(report))
    said, table = capsys.readouterr().out, (report / "report.md").read_text("utf-8")
    assert said.split("\n\n")[1].splitlines()[2].startswith("| none | ")
    assert said.split("\n\n")[1].splitlines()[2] in table
    assert "net, BIM: JPEG − none = " in said


def test_every_cell_says_how_much_of_its_budget_is_used(report):
    cells = {(one.attack, one.purifier): one for one in read_csv((report / "cells.csv").read_text("utf-8"))}
    assert cells["BIM", "none"].filled == pytest.approx(1, abs=0.05)
    assert (cells["PGD", "JPEG"].norm, cells["PGD", "JPEG"].budget) == ("l2", 0.5)
    assert 0.8 < cells["PGD", "JPEG"].filled < 1.05
    assert cells["DeepFool", "JPEG"].filled < 0.5
    lines = (report / "report.md").read_text("utf-8").splitlines()
    (row,) = [line for line in lines if line.startswith("| mean size / budget")]
    assert row.split(" | ")[3] == f"{cells['BIM', 'none'].filled:.2f}"
    assert row.split(" | ")[1] == ""
    assert "mean size / budget" in (report / "report.html").read_text("utf-8")


def test_sizes_are_over_images_that_were_right_before(report):
    cells = {(one.attack, one.purifier): one for one in read_csv((report / "cells.csv").read_text("utf-8"))}
    bits = read_bits(report / "bits.parquet")
    for attack, purifier, clean in (
        ("BIM", "JPEG", "none"),
        ("BPDA", "JPEG", "JPEG"),
        ("solver", "low-pass", "low-pass"),
    ):
        before = bits["net", "clean", clean]["correct"]
        assert (before.sum() < COUNT) == (clean != "none")
        sizes = bits["net", attack, purifier]["size"]
        assert cells[attack, purifier].size == pytest.approx(sizes[before].mean())


def test_an_attack_that_leaves_wrong_images_alone_fills_its_budget(tree, worked_here, tmp_path, monkeypatch):
    monkeypatch.setitem(ATTACKS, "idle", Idle)
    attacks = {"clean": {"attack": "clean"}, "idle": {"attack": "idle"}}
    purifiers = {"none": {"purifier": "none"}}
    few = {"images": {**tree["images"], "limit": 100}, "purifiers": purifiers, "reference": None, "batch": 100}
    for file in ("comparisons.csv", "checks.csv"):
        (tmp_path / file).write_text("of an earlier grid")
    worked_here({**tree, **few, "attacks": attacks}, tmp_path)
    assert not {"comparisons.csv", "checks.csv"} & {file.name for file in tmp_path.iterdir()}
    cells = {(one.attack, one.purifier): one for one in read_csv((tmp_path / "cells.csv").read_text("utf-8"))}
    assert cells["clean", "none"].accuracy < 0.95
    assert cells["idle", "none"].filled == pytest.approx(1, abs=0.02)
    assert json.loads((tmp_path / "facts.json").read_text())["groups"]["averaged"] == ["idle"]


def test_facts_have_the_attacks_as_they_were(report, tree):
    attacks = json.loads((report / "facts.json").read_text())["attacks"]
    assert attacks["PGD"] == {"knows": "classifier", **tree["attacks"]["PGD"]}
    assert set(attacks) == set(tree["attacks"])


def test_a_cell_says_what_was_done_where_more_was_asked(report):
    cells = {(one.attack, one.purifier): one for one in read_csv((report / "cells.csv").read_text("utf-8"))}
    assert [cells["solver", p].done for p in ("none", "JPEG", "low-pass")] == ["gradient", "bpda", "gradient"]
    assert cells["solver", "JPEG"].knows == "solver"
    assert [one.attack for one in cells.values() if one.weaker] == ["solver"]
    text = (report / "report.md").read_text("utf-8")
    assert text.count("†") == 2
    assert "it was passed as in bpda (solver on JPEG)" in text


@pytest.mark.parametrize(
    ("said", "averaged"),
    [({}, ["FGSM", "BIM", "PGD"]), ({"DeepFool": False, "BIM": True}, ["FGSM", "PGD", "DeepFool"])],
)
def test_the_mean_is_over_attacks_that_fill_their_budget(report, tree, worked_here, said, averaged):
    attacks = {name: spec | ({"minimal": said[name]} if name in said else {}) for name, spec in tree["attacks"].items()}
    worked_here({**tree, "attacks": attacks}, report)
    groups = json.loads((report / "facts.json").read_text())["groups"]
    assert groups["averaged"] == averaged
    assert set(groups["minimal"]) == {"FGSM", "BIM", "PGD", "DeepFool"} - set(averaged)
    cells = {(one.attack, one.purifier): one for one in read_csv((report / "cells.csv").read_text("utf-8"))}
    mean = sum(cells[attack, "JPEG"].accuracy for attack in averaged) / 3
    assert cells["mean of attacks", "JPEG"].accuracy == pytest.approx(mean)
    (left,) = groups["minimal"]
    text = (report / "report.md").read_text("utf-8")
    # Names have commas.
    assert f"The mean is over {'; '.join(averaged)}." in text
    assert f"of their budget: {left}." in text


class Idle:
    """An attack that changes right images alone, by all it may, and need not fool anything."""

    eps, norm = 0.1, "linf"

    def __init__(self, eps=0.1):
        pass

    def __call__(self, model, images, labels, *, generator=None, loss=None):
        right = model(images).argmax(1) == labels
        moved = images + torch.where(images < 0.5, self.eps, -self.eps)
        return torch.where(right[:, None, None, None], moved, images)


class Bent:
    """An attack whose budget is no norm of a difference."""

    eps, norm = 0.5, "flow"

    def __init__(self, eps=0.5):
        pass

    def __call__(self, model, images, labels, *, generator=None, loss=None):
        return images.roll(1, -1)


def test_a_budget_that_is_no_norm_stands_beside_the_mean(tree, worked_here, tmp_path, monkeypatch):
    monkeypatch.setitem(ATTACKS, "bent", Bent)
    attacks = {name: tree["attacks"][name] for name in ("clean", "FGSM", "BIM")} | {"bent": {"attack": "bent"}}
    worked_here({**tree, "attacks": attacks, "images": {**tree["images"], "limit": 4}}, tmp_path)
    cells = {(one.attack, one.purifier): one for one in read_csv((tmp_path / "cells.csv").read_text("utf-8"))}
    bent = cells["bent", "none"]
    assert math.isnan(bent.size)
    assert (bent.norm, bent.budget) == ("flow", 0.5)
    assert bent.linf > 0
    assert json.loads((tmp_path / "facts.json").read_text())["groups"]["minimal"] == ["bent"]


def test_what_fills_an_l_inf_budget_is_what_whole_grey_levels_can():
    def cell(size, budget, norm="linf"):
        return Cell("net", "PGD", "none", 0.5, 0.4, 0.6, 9, 0, size, 0, 0, size=size, norm=norm, budget=budget)

    # Of 1.275 levels files can hold one.
    assert cell(1 / 255, 0.005).fills
    assert not cell(0.5 / 255, 0.005).fills
    assert not cell(1 / 255, 0.005, "l2").fills
    assert not cell(7 / 255, 0.031).fills
