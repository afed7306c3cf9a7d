"""Every script of examples/ runs as its reader would run it, and says what its text promises."""

import csv
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs a script in this process, which has torch and Ray already; returns what it prints."""

    def call(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return call


def test_one_image_is_coded_and_drawn(run, tmp_path):
    said = run("code_one_image.py", EXAMPLES / "cifar10/clean/0004-frog.png", tmp_path / "parts.png")
    assert "converged: True" in said
    assert Image.open(tmp_path / "parts.png").size == (5 * 32, 32)


def test_missing_pixels_are_filled_in_better_than_smoothly(run):
    smooth, atoms = map(float, re.findall(r"([\d.]+) dB", run("fill_in_pixels.py")))
    assert atoms > smooth + 3


def test_tensors_are_purified(run):
    said = run("purify_tensors.py")
    assert re.search(r"clean/0004-frog.png +cluster +\d+ \(\w+\), distance", said)
    assert "(4, 3, 32, 32) torch.float32" in said


def test_an_attack_costs_accuracy_and_purification_gives_some_back(run):
    right = [int(count) for count in re.findall(r"(\d+) of 24 right", run("attack_and_purify.py"))]
    clean, _, attacked, purified = right
    assert attacked < purified <= clean


def test_a_purifier_of_ones_own_is_evaluated_in_a_grid(tmp_path):
    # In a process of its own: its name must reach workers of a Ray that it starts itself.
    script = [sys.executable, EXAMPLES / "own_purifier.py", tmp_path / "report"]
    done = subprocess.run(script, capture_output=True, text=True, env={**os.environ, "RAY_ADDRESS": ""}, timeout=250)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "report" / "cells.csv").open()))
    right = {(row["attack"], row["purifier"]): row["accuracy"] for row in rows}
    assert {purifier for _, purifier in right} == {"none", "blur", "RSFP"}
    assert right["clean", "blur"] != right["clean", "none"]


def test_a_pipeline_of_ray_data_purifies(run, local_ray):
    said = run("ray_data_pipeline.py")
    assert "24 images (32, 32, 3), changed by" in said


def test_the_page_lists_every_script():
    listed = re.findall(r"\]\((\w+\.py)\)", (EXAMPLES / "README.md").read_text("utf-8"))
    assert sorted(listed) == sorted(path.name for path in EXAMPLES.glob("*.py"))
