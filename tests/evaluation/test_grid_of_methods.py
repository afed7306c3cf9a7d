"""One small grid over bundles of both methods, fitted here, which defend the classifier that rsfp's fit trained."""

import csv

import pytest

from raypurify.evaluation.grid import load_grid
from raypurify.evaluation.run import evaluate
from raypurify.fit.train import NETWORK

ATTACKS = {
    "clean": {"attack": "clean"},
    "FGSM": {"attack": "fgsm", "norm": "linf", "eps": 0.05},
    "BPDA": {"attack": "pgd", "eps": 0.05, "steps": 2, "knows": "bpda"},
    "choice": {"attack": "pgd", "eps": 0.05, "steps": 2, "knows": "choice"},
    "joint": {"attack": "pgd", "eps": 0.05, "steps": 2, "knows": "joint"},
}
COUNT = 6


@pytest.fixture(scope="module")
def grid(small_set, small_run, small_stl_run):
    return {
        "name": "both methods",
        "images": {"paths": str(small_set / "*" / "00?.png"), "limit": COUNT},
        "classifiers": {"baseline": {"kind": "wide-resnet", "path": str(small_run / "baseline" / NETWORK)}},
        "attacks": ATTACKS,
        "purifiers": {
            "none": {"purifier": "none"},
            "RSFP": {"purifier": "bundle", "bundle": str(small_run / "bundle")},
            "STL": {"purifier": "bundle", "bundle": str(small_stl_run / "bundle"), "lmbda": 0.1},
        },
        "reference": "RSFP",
        "examples": 0,
    }


def test_a_grid_compares_purifiers_of_both_methods(local_ray, grid, tmp_path):
    evaluate(load_grid(grid), tmp_path / "out")
    with (tmp_path / "out" / "cells.csv").open(encoding="utf-8") as file:
        cells = {(row["attack"], row["purifier"]): row for row in csv.DictReader(file)}
    assert {(a, p) for a in ATTACKS for p in grid["purifiers"]} <= set(cells)
    assert {row["n"] for row in cells.values()} == {str(COUNT)}
    # Strata are of no class that a gradient could lead to.
    done = {(attack, name): cells[attack, name]["done"] for attack in ("choice", "joint") for name in ("RSFP", "STL")}
    assert list(done.values()) == ["choice", "choice", "joint", "solver"]
    assert "STL" in (tmp_path / "out" / "report.html").read_text("utf-8")
