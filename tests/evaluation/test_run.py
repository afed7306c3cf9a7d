"""A small grid from end to end on a local Ray: cells, cache, tables, report."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import raypurify
from raypurify.attacks import ATTACKS
from raypurify.errors import ConfigError, DataError
from raypurify.evaluation.attacked import read_attacked
from raypurify.evaluation.batches import read_grid_batches
from raypurify.evaluation.cells import compute_cells
from raypurify.evaluation.grid import load_grid
from raypurify.evaluation.plan import CellUnit, make_plan
from raypurify.evaluation.run import evaluate
from raypurify.evaluation.subjects import Subjects
from raypurify.evaluation.tables import checks_table
from raypurify.nets.cifar_resnet import load_cifar_resnet
from raypurify.storage import resolve

COUNT = 12


@pytest.fixture(scope="module")
def tree(data_file):
    return {
        "name": "A <small> grid",
        "images": {"paths": str(data_file("cifar10/test.parquet")), "limit": COUNT},
        "classifiers": {
            "ResNet-20": {"kind": "cifar-resnet", "path": str(data_file("cifar10-resnet/resnet20-12fca82f.th"))}
        },
        "attacks": {
            "clean": {"attack": "clean"},
            "FGSM-0.08": {"attack": "fgsm", "norm": "dissimilarity", "eps": 0.08},
            "FGSM-0.04": {"attack": "fgsm", "norm": "dissimilarity", "eps": 0.04},
            "BPDA": {"attack": "pgd", "eps": 0.008, "steps": 2, "knows": "bpda", "worst": "adaptive"},
            "choice": {"attack": "pgd", "eps": 0.008, "steps": 2, "knows": "choice", "worst": "adaptive"},
        },
        "purifiers": {"none": {"purifier": "none"}, "RSFP": {"purifier": "rsfp"}, "JPEG": {"purifier": "jpeg"}},
        "reference": "RSFP",
        "papers": ["rsfp-3"],
        "batch": 8,
        "examples": 3,
    }


@pytest.fixture(scope="module")
def report(tree, local_ray, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluation") / "out"
    page = evaluate(load_grid(tree), out)
    assert Path(page) == out / "report.html"
    return out


def cells(out: Path) -> dict[tuple[str, str], dict]:
    with (out / "cells.csv").open(encoding="utf-8") as file:
        return {(row["attack"], row["purifier"]): row for row in csv.DictReader(file)}


def test_every_cell_has_its_figure_with_n_and_interval(report, tree):
    found = cells(report)
    assert set(found) == {(a, p) for a in [*tree["attacks"], "mean of attacks", "adaptive"] for p in tree["purifiers"]}
    for row in found.values():
        assert int(row["n"]) == COUNT
        assert float(row["low"]) <= float(row["accuracy"]) <= float(row["high"])
    for purifier in tree["purifiers"]:
        gray = [float(found[attack, purifier]["accuracy"]) for attack in ("FGSM-0.08", "FGSM-0.04")]
        assert float(found["mean of attacks", purifier]["accuracy"]) == pytest.approx(sum(gray) / 2)
        worst = float(found["adaptive", purifier]["accuracy"])
        assert worst <= min(float(found[attack, purifier]["accuracy"]) for attack in ("BPDA", "choice"))


def test_figures_are_those_of_attack_and_classifier_by_hand(report, cifar_images, data_file):
    import torch

    from raypurify.attacks import FGSM

    images, labels = cifar_images("test.parquet", COUNT)
    network = load_cifar_resnet(data_file("cifar10-resnet/resnet20-12fca82f.th"))
    attacked = (FGSM(eps=0.08, norm="dissimilarity")(network, images, labels) * 255).round() / 255
    purified = (raypurify.load("cifar10").purify(attacked).images * 255).round() / 255
    found = cells(report)
    with torch.no_grad():
        for name, seen in (("none", attacked), ("RSFP", purified)):
            expected = float((network(seen).argmax(1) == labels).float().mean())
            assert abs(float(found["FGSM-0.08", name]["accuracy"]) - expected) <= 1 / COUNT
    assert float(found["FGSM-0.08", "none"]["dissimilarity"]) == pytest.approx(0.08, rel=0.05)


def test_images_stay_the_same_from_purifier_to_purifier(report):
    # Gray-box attacks are made once; those that know the purifier, once for each.
    made = sorted((report / "adversarial").iterdir())
    assert len(made) == 2 * (2 + 2 * 3)
    assert all(read_attacked(resolve(file)).shape[1:] == (3, 32, 32) for file in made)


def test_a_second_run_computes_nothing_and_a_new_purifier_only_its_cells(report, tree):
    before = {
        file: file.stat().st_mtime_ns for folder in ("cells", "adversarial") for file in (report / folder).iterdir()
    }
    figures = (report / "cells.csv").read_text()
    evaluate(load_grid(tree), report)
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert (report / "cells.csv").read_text() == figures
    more = {**tree, "purifiers": {**tree["purifiers"], "bits": {"purifier": "bit_depth"}}}
    evaluate(load_grid(more), report)
    after = {file for folder in ("cells", "adversarial") for file in (report / folder).iterdir()}
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert len(after - set(before)) == 2 * 5 + 2 * 2
    assert ("clean", "bits") in cells(report)


def test_the_page_holds_everything_and_escapes_names(report, tree):
    page = (report / "report.html").read_text("utf-8")
    assert "A &lt;small&gt; grid" in page
    assert "A <small> grid" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert page.count("data:image/png;base64,") == len(list(report.glob("*.png")))
    text = (report / "report.md").read_text("utf-8")
    for part in (
        "Accuracy of ResNet-20",
        *(f"## Images: {attack}" for attack in tree["attacks"]),
        "Compared on the same images",
        "Beside the paper",
        "Clusters of RSFP",
        "Accuracy against strength: fgsm, classifier",
        "PSNR against accuracy",
        "Class activation maps",
        "Activation of the layers",
        "RobustBench",
    ):
        assert part in text
    for picture in report.glob("*.png"):
        with Image.open(picture) as image:
            assert min(image.size) > 200
            assert np.asarray(image.convert("L")).std() > 5


def test_comparisons_are_of_the_reference(report):
    with (report / "comparisons.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["reference"] for row in rows} == {"RSFP"}
    found = cells(report)
    for row in rows:
        if row["attack"] in found and (row["attack"], row["other"]) in found:
            difference = float(found[row["attack"], "RSFP"]["accuracy"]) - float(
                found[row["attack"], row["other"]]["accuracy"]
            )
            assert float(row["value"]) == pytest.approx(difference)


def test_cells_keep_what_became_of_every_image(report):
    tables = [pq.read_table(file) for file in (report / "cells").iterdir()]
    assert all(
        set(table["id"].to_pylist()) <= {f"test-{k:05d}" for k in range(COUNT)} or table.num_rows for table in tables
    )
    facts = json.loads((report / "facts.json").read_text())
    assert facts["images"] == COUNT
    assert set(facts["digests"]["purifiers"]) >= {"none", "RSFP", "JPEG"}


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_of_the_registry_takes_the_images_of_a_grid(name, tree, tmp_path):
    short = {"cw": {"searches": 1}, "fgsm": {}, "square": {"queries": 5}, "autoattack": {"attacks": ["apgd-t"]}}
    attack = {"attack": name, "eps": 0.03, **short.get(name, {"steps": 5})}
    images = {**tree["images"], "limit": 2}
    grid = load_grid({**tree, "images": images, "attacks": {"clean": {"attack": "clean"}, "one": attack}})
    (batch,), _ = read_grid_batches(grid.images, 2)
    plan = make_plan(grid, resolve(tmp_path), [batch])
    compute_cells(plan, Subjects(grid), CellUnit("ResNet-20", "one", 0, ("none",)), batch)
    (file,) = (tmp_path / "cells").iterdir()
    assert max(pq.read_table(file)["linf"].to_pylist()) > 0


def test_a_package_that_is_missing_is_named_before_any_work(tree, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.restoration", None)
    grid = load_grid({**tree, "purifiers": {"means": {"purifier": "nlm"}}, "reference": None})
    with pytest.raises(ConfigError, match=r"needs skimage.*pip install 'raypurify\[evaluation\]'"):
        evaluate(grid, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_images_that_cannot_be_used_are_named(tree, tmp_path, local_ray):
    folder = tmp_path / "in"
    (folder / "a").mkdir(parents=True)
    (folder / "b").mkdir()
    Image.new("RGB", (32, 32)).save(folder / "a" / "1.png")
    Image.new("RGB", (40, 32)).save(folder / "b" / "2.png")
    with pytest.raises(DataError, match=r"b/2.png is of another size than a/1.png; give images.size"):
        evaluate(load_grid({**tree, "images": {"paths": str(folder)}}), tmp_path / "out")
    (folder / "b" / "2.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"image b/2.png: .*needs every image"):
        evaluate(load_grid({**tree, "images": {"paths": str(folder)}}), tmp_path / "out")
    few = {"classifiers": {"net": {**tree["classifiers"]["ResNet-20"], "outputs": [3]}}, "papers": []}
    with pytest.raises(ConfigError, match="'net' tells 1 classes apart, the images have a label"):
        evaluate(load_grid({**tree, **few}), tmp_path / "out")
    with pytest.raises(ConfigError, match="attack 'x': unknown 'magic'"):
        evaluate(load_grid({**tree, "attacks": {"x": {"attack": "magic"}}}), tmp_path / "out")
    with pytest.raises(ConfigError, match="the grid has no attacks; name one"):
        evaluate(load_grid({**tree, "attacks": {}}), tmp_path / "out")


@pytest.mark.slow
def test_an_attack_may_be_named_checks_and_damaged_checks_are_done_again(tree, tmp_path, local_ray):
    small = {
        **tree,
        "images": {**tree["images"], "limit": 3},
        "attacks": {"checks": {"attack": "clean"}, "BPDA": {"attack": "fgsm", "eps": 0.01, "knows": "bpda"}},
        "purifiers": {"none": {"purifier": "none"}, "JPEG": {"purifier": "jpeg"}},
    }
    grid = load_grid({**small, "reference": None, "papers": [], "sanity": 3, "examples": 0})
    out = tmp_path / "out"
    evaluate(grid, out)
    assert set(cells(out)) == {(a, p) for a in ("checks", "BPDA") for p in ("none", "JPEG")}
    whole = {file: file.read_text("utf-8") for file in (out / "checks").iterdir()}
    # The classifier alone has no other to transfer from; behind a purifier there is the attack on it.
    assert sorted(len(json.loads(text)) for text in whole.values()) == [7, 8]
    with (out / "checks.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    subjects = dict.fromkeys((row["classifier"], row["purifier"], row["knows"]) for row in rows)
    assert list(subjects) == [("ResNet-20", "", "classifier"), ("ResNet-20", "JPEG", "bpda")]
    assert {row["passed"] for row in rows} <= {"True", "False"}
    failed = [row["name"] for row in rows if row["purifier"] == "JPEG" and row["passed"] != "True"]
    _, table = checks_table(rows)
    assert [line[:4] for line in table] == [
        ["ResNet-20", "–", "classifier", f"{7 - sum(row['passed'] != 'True' for row in rows[:7])} of 7"],
        ["ResNet-20", "JPEG", "bpda", f"{8 - len(failed)} of 8"],
    ]
    assert all(name in table[1][4] for name in failed)
    assert f"| ResNet-20 | JPEG | bpda | {8 - len(failed)} of 8 |" in (out / "report.md").read_text("utf-8")
    for file, text in whole.items():
        file.write_text(text[: len(text) // 2], "utf-8")
    evaluate(grid, out)
    assert {file: file.read_text("utf-8") for file in whole} == whole
