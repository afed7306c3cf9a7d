"""Curves, settings of attack, PSNR and what a classifier sees, drawn from a grid where they apply."""

import csv
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image

from raypurify.errors import ConfigError
from raypurify.evaluation.activations import activation_sections
from raypurify.evaluation.attacked import read_attacked
from raypurify.evaluation.batches import read_grid_batches
from raypurify.evaluation.grid import CellName, load_grid
from raypurify.evaluation.groups import groups_of
from raypurify.evaluation.quality import quality_section
from raypurify.evaluation.strength import families, strength_sections
from raypurify.evaluation.subjects import Subjects
from raypurify.evaluation.tables import read_csv
from raypurify.nets.activations import layer_activations

COUNT = 12


@pytest.fixture(scope="module")
def tree(data_file):
    network = {"kind": "cifar-resnet", "path": str(data_file("cifar10-resnet/resnet20-12fca82f.th"))}
    other = {"kind": "cifar-resnet", "path": str(data_file("cifar10-resnet/resnet32-d509ac18.th"))}
    return {
        "images": {"paths": str(data_file("cifar10/test.parquet")), "limit": COUNT},
        "classifiers": {
            "net": network,
            "other": {**other, "behind": "none"},
            "taken": {**network, "attacked_as": "other", "behind": "JPEG"},
            "bound": {**network, "behind": "low-pass", "alone": False},
        },
        "attacks": {
            "clean": {"attack": "clean"},
            "FGSM-2": {"attack": "fgsm", "eps": 2 / 255},
            "FGSM-8": {"attack": "fgsm", "eps": 8 / 255},
            "BIM": {"attack": "bim", "steps": 3, "norm": "dissimilarity", "eps": 0.04},
        },
        "purifiers": {
            "none": {"purifier": "none"},
            "JPEG": {"purifier": "jpeg"},
            "low-pass": {"purifier": "low_pass", "tikhonov": 0.5},
        },
        "scenarios": {"gray-box": "net", "mixed": {"JPEG": "taken", "low-pass": "net"}},
        "reference": "JPEG",
        "batch": COUNT,
        "report": {"maps": 3, "layers": 5, "attack": "FGSM-8"},
    }


@pytest.fixture(scope="module")
def worked(tree, worked_here, tmp_path_factory):
    return worked_here(tree, tmp_path_factory.mktemp("scenarios") / "out")


def written(plan) -> dict[CellName, object]:
    found = read_csv((plan.out / "cells.csv").read().decode())
    return {CellName(one.classifier, one.attack, one.purifier): one for one in found}


def titles(sections) -> list[str]:
    return [section.title for section in sections]


def shown(plan) -> list:
    """The sections about what the first classifier sees."""
    batches, classes = read_grid_batches(plan.grid.images, plan.grid.batch)
    return activation_sections(plan, Subjects(plan.grid), batches[0], classes)


def test_a_classifier_stands_behind_what_it_names_and_no_purifier(worked, tree):
    pairs = {(name.classifier, name.purifier) for name in written(worked)}
    placed = {("other", "none"), ("taken", "none"), ("taken", "JPEG"), ("bound", "low-pass")}
    assert pairs == {("net", p) for p in tree["purifiers"]} | placed
    rows = list(csv.DictReader((worked.out / "comparisons.csv").read().decode().splitlines()))
    assert {(row["classifier"], row["other"]) for row in rows} == {
        ("net", "none"),
        ("net", "low-pass"),
        ("taken", "none"),
    }
    # Attacks on the other are made once, for it and for what is taken for it.
    assert len((worked.out / "adversarial").names()) == 3 * 2


def test_scenarios_are_laid_out_by_their_classifiers(worked):
    grid, cells = worked.grid, written(worked)
    assert grid.views == {
        "gray-box": {"none": "net", "JPEG": "net", "low-pass": "net"},
        "mixed": {"JPEG": "taken", "low-pass": "net"},
    }
    table, gray, mixed = strength_sections(grid, cells)
    assert titles([table, gray, mixed]) == [
        "Settings of attack",
        "Setting of attack: gray-box",
        "Setting of attack: mixed",
    ]
    rows = {row[0]: row[1:] for row in table.table[1]}
    columns = table.table[0][1:]
    for row, name in {"mixed: JPEG": ("taken", "JPEG"), "mixed: low-pass": ("net", "low-pass")}.items():
        accuracy = cells[CellName(name[0], "FGSM-8", name[1])].accuracy
        assert rows[row][columns.index("FGSM-8")].startswith(f"{100 * accuracy:.1f} (")
    assert mixed.text[0] == "JPEG before taken, attacked as other; low-pass before net."
    # BIM has one strength: a bar, and no curve.
    assert [name for name, _ in mixed.pictures] == ["curve-0-mixed.png", "bars-mixed.png"]
    report = (worked.out / "report.md").read().decode()
    assert "## Setting of attack: mixed" in report
    assert "![Setting of attack: mixed](bars-mixed.png)" in report


def test_pages_have_the_table_of_the_scenarios(worked, tree, benchmark, monkeypatch, tmp_path):
    tables = benchmark("evaluation_tables")
    for name, text in {"RESULTS/small/cells.csv": (worked.out / "cells.csv").read(), "GRIDS/small.yaml": None}.items():
        (file := tmp_path / name).parent.mkdir(parents=True)
        file.write_bytes(yaml.safe_dump(tree, sort_keys=False).encode() if text is None else text)
        monkeypatch.setattr(tables, name.split("/")[0], tmp_path / name.split("/")[0])
    (table,) = tables.accuracy_tables("small").values()
    assert table in (worked.out / "report.md").read().decode()
    assert "| mixed: low-pass | " in table


def test_attacks_are_of_one_family_if_strength_alone_tells_them_apart(tree):
    linf = {"attack": "bim", "steps": 4}
    attacks = {
        "clean": {"attack": "clean"},
        "a": {**linf, "eps": 0.01, "step_size": 0.001},
        "b": {**linf, "eps": 0.02, "step_size": 0.002},
        "more steps": {**linf, "eps": 0.02, "steps": 5},
        "known": {**linf, "eps": 0.02, "step_size": 0.002, "knows": "bpda"},
        "in L2": {**linf, "eps": 0.02, "step_size": 0.002, "norm": "l2"},
        "d": {"attack": "cw", "eps": 0.1, "norm": "dissimilarity", "fill": True},
        "e": {"attack": "cw", "eps": 0.2, "norm": "dissimilarity", "fill": True},
    }
    grid = load_grid({**tree, "attacks": attacks, "report": {}})
    assert [list(one.sizes) for one in families(grid)] == [
        ["a", "b"],
        ["more steps"],
        ["known"],
        ["in L2"],
        ["d", "e"],
    ]
    first, *_, last = families(grid)
    assert first.sizes == pytest.approx({"a": 2.55, "b": 5.1})
    assert (last.title, last.norm, last.sizes) == ("cw (fill True)", "dissimilarity", {"d": 0.1, "e": 0.2})


def test_a_grid_without_scenarios_has_a_curve_for_each_classifier_and_one_strength_none(worked, tree):
    cells, plain = written(worked), {**tree, "scenarios": {}}
    (section,) = strength_sections(load_grid(plain), cells)
    assert section.title == "Accuracy against strength: fgsm, classifier"
    assert [name for name, _ in section.pictures] == [f"curve-0-{c}.png" for c in ("net", "other", "taken", "bound")]
    del (attacks := dict(tree["attacks"]))["FGSM-2"]
    assert strength_sections(load_grid({**plain, "attacks": attacks}), cells) == []


def test_psnr_is_of_purified_images_against_the_clean_ones_that_were_right(worked):
    (batch,), _ = read_grid_batches(worked.grid.images, COUNT)
    name, bare = CellName("net", "FGSM-8", "JPEG"), CellName("net", "clean", "none")
    attacked = shown_images(worked, name)
    purified = Subjects(worked.grid).purifier("JPEG").purify(attacked).images.numpy()
    errors = ((purified * 255).round() / 255 - batch.pixels / np.float32(255)).reshape(COUNT, -1)
    expected = -10 * np.log10((errors**2).mean(1))
    kept = pq.read_table(worked.cell(name, 0).open())
    np.testing.assert_allclose(kept["psnr"], expected, rtol=1e-4)
    right = pq.read_table(worked.cell(bare, 0).open())["correct"].to_numpy()
    assert written(worked)[name].psnr == pytest.approx(expected[right].mean(), rel=1e-4)
    assert written(worked)[bare].psnr == 100


def shown_images(plan, name: CellName) -> torch.Tensor:
    return read_attacked(plan.adversarial(name, 0))


def test_psnr_stands_against_accuracy_scenario_by_scenario(worked):
    grid, cells = worked.grid, written(worked)
    (section,) = quality_section(grid, groups_of(grid, cells), cells)
    assert [name for name, _ in section.pictures] == ["quality-gray-box.png", "quality-mixed.png"]
    rows = {tuple(row[:2]): row[2:] for row in section.table[1]}
    assert rows["mixed", "JPEG"][0] == f"{cells[CellName('taken', 'clean', 'JPEG')].psnr:.1f}"
    assert len(rows) == 5


def test_results_of_an_earlier_version_have_curves_and_no_psnr(request):
    benchmarks = request.config.rootpath / "benchmarks"
    found = read_csv((benchmarks / "results" / "figure5" / "cells.csv").read_text("utf-8"))
    cells = {CellName(one.classifier, one.attack, one.purifier): one for one in found}
    grid = load_grid(benchmarks / "grids" / "figure5.yaml", "DIR")
    (section,) = strength_sections(grid, cells)
    assert [name for name, _ in section.pictures] == ["curve-0-ResNet-56.png"]
    assert quality_section(grid, groups_of(grid, cells), cells) == []


def test_the_first_classifier_is_shown_on_images_that_the_attack_turns_wrong(worked, tmp_path):
    maps, layers = shown(worked)
    assert titles([maps, layers]) == ["Class activation maps", "Activation of the layers"]
    assert "FGSM-8 on net, purified by JPEG" in maps.text[0]
    for section in (maps, layers):
        ((name, data),) = section.pictures
        (tmp_path / name).write_bytes(data)
        with Image.open(tmp_path / name) as image:
            assert min(image.size) > 200
            assert np.asarray(image.convert("L")).std() > 5
    assert [data for _, data in shown(worked)[0].pictures] == [data for _, data in maps.pictures]
    rows = list(csv.DictReader((worked.out / "activations.csv").read().decode().splitlines()))
    assert list(rows[0]) == ["layer", "clean", "attacked", "attacked, purified", "clean, purified"]
    network, attacked = Subjects(worked.grid).classifier("net"), shown_images(worked, CellName("net", "FGSM-8", "none"))
    expected = layer_activations(network, attacked[:5]).sum(0)
    np.testing.assert_allclose([float(row["attacked"]) for row in rows], expected, rtol=1e-5)


def test_what_a_grid_does_not_ask_for_is_not_drawn(worked, tree, worked_here, tmp_path):
    out = shutil.copytree(worked.out, tmp_path / "out")

    def plan(**changes):
        return worked_here({**tree, **changes}, out)

    assert titles(shown(plan(report={"maps": 0}))) == ["Activation of the layers"]
    assert shown(plan(report={"maps": 0, "layers": 0})) == []
    assert shown(plan(attacks={"clean": {"attack": "clean"}}, report={})) == []
    alone = {"scenarios": {}, "reference": None, "classifiers": {"net": tree["classifiers"]["net"]}}
    bare = plan(purifiers={"none": {"purifier": "none"}}, **alone)
    assert "FGSM-8 on net:" in shown(bare)[0].text[0]


def test_of_a_network_without_features_the_report_says_so(tree, worked_here, tmp_path):
    made = torch.jit.script(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10)))
    torch.jit.save(made, tmp_path / "flat.pt")
    flat = {"flat": {"kind": "torchscript", "path": str(tmp_path / "flat.pt")}}
    plan = worked_here(
        {**tree, "classifiers": flat, "scenarios": {}, "purifiers": {"JPEG": {"purifier": "jpeg"}}}, tmp_path
    )
    maps, layers = shown(plan)
    assert maps.text == ("flat has none: it is not a network whose last convolution can be seen.",)
    assert layers.text == ("flat has none that can be seen.",)
    assert not maps.pictures
    assert not layers.pictures


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scenarios": {"gray": "no"}}, "scenario 'gray' names 'no', which is none of the classifiers"),
        ({"scenarios": {"gray": {"JPEG": "other"}}}, "scenario 'gray': 'other' stands behind none, not 'JPEG'"),
        ({"scenarios": {"gray": {"no": "net"}}}, "'net' stands behind none, JPEG, low-pass, not 'no'"),
        ({"scenarios": {"gray": {"none": "bound"}}}, "scenario 'gray': 'bound' stands behind low-pass, not 'none'"),
        ({"report": {"attack": "clean"}}, "report.attack 'clean' is none of those that know the classifier alone"),
        ({"report": {"map": 3}}, "report.map: there is no such setting, perhaps report.maps is meant"),
    ],
)
def test_wrong_layouts_are_refused_by_name(tree, change, message):
    with pytest.raises(ConfigError) as refused:
        load_grid({**tree, **change})
    assert message in str(refused.value)
    nowhere = {"net": {**tree["classifiers"]["net"], "behind": "none", "alone": False}}
    with pytest.raises(ConfigError, match="'net' stands behind nothing: name a purifier in behind, or leave out alone"):
        load_grid({**tree, "classifiers": nowhere, "scenarios": {}})
    with pytest.raises(ConfigError, match="'net' is behind 'no', which is none of none, JPEG, low-pass"):
        load_grid({**tree, "classifiers": {"net": {**tree["classifiers"]["net"], "behind": ["no"]}}, "scenarios": {}})
