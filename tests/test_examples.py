"""Every script of examples/ runs as its reader would run it, and says what its text promises."""

import csv
import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from raypurify.attacks.budget import eight_bit
from raypurify.evaluation.attacked import read_attacked
from raypurify.evaluation.batches import read_grid_batches
from raypurify.evaluation.grid import load_grid
from raypurify.evaluation.run import evaluate
from raypurify.evaluation.subjects import Subjects, predict
from raypurify.storage import resolve

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
    assert Image.open(tmp_path / "parts.png").size == (5 * 256, 256)


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


def right(report: Path) -> dict[tuple[str, str, str], str]:
    with (report / "cells.csv").open(encoding="utf-8") as file:
        return {(row["classifier"], row["attack"], row["purifier"]): row["accuracy"] for row in csv.DictReader(file)}


def test_a_purifier_of_ones_own_is_evaluated_in_a_grid(run, local_ray, monkeypatch, tmp_path):
    # As Python does for a script that it runs; workers have no such place to look.
    monkeypatch.syspath_prepend(EXAMPLES)
    run("own_purifier.py", tmp_path / "own")
    found = right(tmp_path / "own")
    assert {purifier for _, _, purifier in found} == {"none", "blur", "RSFP"}
    assert found["robust network", "clean", "blur"] != found["robust network", "clean", "none"]


def test_things_of_ones_own_are_found_beside_their_grid(local_ray, tmp_path):
    runpy.run_path(str(EXAMPLES / "own_purifier.py"))["write_images"](tmp_path / "images.parquet")
    grid = load_grid(EXAMPLES / "own_grid.yaml", data=str(tmp_path))
    evaluate(grid, tmp_path / "report")
    found = right(tmp_path / "report")
    assert len(found) == 2 * 4 * 2
    # What the attack and the purifier do to images by hand, in this process.
    batches, _ = read_grid_batches(grid.images, grid.batch)
    images = torch.from_numpy(batches[0].pixels).float() / 255
    blurred = eight_bit(Subjects(grid).purifier("blur").purify(images).images)
    hits = predict(Subjects(grid).classifier("mine"), blurred) == torch.from_numpy(batches[0].labels)
    assert float(found["mine", "clean", "blur"]) == pytest.approx(float(hits.float().mean()))
    attacked = read_attacked(resolve(next((tmp_path / "report/adversarial").glob("*.safetensors"))))
    # The budget, 0.03, has room for seven whole grey levels.
    assert float((attacked - images).abs().max()) == pytest.approx(7 / 255, abs=1e-3)


def test_the_notebook_runs_and_shows_what_it_did(capsys, monkeypatch):
    monkeypatch.chdir(EXAMPLES)
    cells = json.loads((EXAMPLES / "two_systems.ipynb").read_text("utf-8"))["cells"]
    code, space = [cell for cell in cells if cell["cell_type"] == "code"], {}
    for cell in code:
        exec("".join(cell["source"]), space)
    names, done = space["names"], space["done"]
    assert [len(one.images) for one in done.values()] == [len(names)] * 2 == [24, 24]
    assert all(bool((one.images != space["attacked"]).any()) for one in done.values())
    kept = [output for cell in code for output in cell["outputs"]]
    assert [cell["execution_count"] for cell in code] == [*range(1, len(code) + 1)]
    assert any("image/png" in output.get("data", {}) for output in kept)
    # What it shows is what it prints now, but for the times, and for another machine's rounding.
    shown = "".join("".join(output["text"]) for output in kept if output["output_type"] == "stream")
    numbers = [
        [float(number) for number in re.findall(r"\d+(?:\.\d+)?", re.sub(r"\d+ ms", "", text))]
        for text in (capsys.readouterr().out, shown)
    ]
    assert numbers[0] == pytest.approx(numbers[1], abs=0.15)


def test_a_pipeline_of_ray_data_purifies(run, local_ray):
    said = run("ray_data_pipeline.py")
    assert "24 images, 0 failed, changed by" in said


def test_a_purifier_is_a_layer_of_torch(run):
    said = run("torch_module.py")
    right = {
        mode: (int(clean), int(attacked))
        for mode, clean, attacked in re.findall(r"(\w+) +clean (\d).*attacked (\d)", said)
    }
    assert right.keys() == {"none", "bpda", "implicit"}
    assert all(attacked < clean for clean, attacked in right.values())
    assert "a transform: (3, 32, 32) torch.uint8" in said


def test_a_purifier_is_a_defence_of_art(run):
    pytest.importorskip("art", reason="needs adversarial-robustness-toolbox")
    clean, unaware, aware = (int(count) for count in re.findall(r"(\d) of 6 right", run("art_defence.py")))
    assert max(unaware, aware) < clean


def test_the_page_lists_every_script():
    listed = re.findall(r"\]\((\w+\.(?:py|ipynb))\)", (EXAMPLES / "README.md").read_text("utf-8"))
    assert sorted(listed) == sorted(path.name for kind in ("py", "ipynb") for path in EXAMPLES.glob(f"*.{kind}"))
