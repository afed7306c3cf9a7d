"""The README's numbers come from committed results, and what it points to is there."""

import hashlib
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text("utf-8")


RESULTS, GRIDS = (REPOSITORY / "benchmarks" / name for name in ("results", "grids"))


def evaluation_tables(name: str) -> dict[str, str]:
    """Of each classifier, every purifier under every attack, as pages show it."""
    from raypurify.evaluation.tables import as_markdown, layout, read_csv

    found = read_csv((RESULTS / name / "cells.csv").read_text("utf-8"))
    tables = {}
    for classifier in dict.fromkeys(cell.classifier for cell in found):
        cells = {(cell.attack, cell.purifier): cell for cell in found if cell.classifier == classifier}
        attacks, purifiers = (list(dict.fromkeys(names)) for names in zip(*cells))
        rows, cell = list(purifiers), lambda purifier, attack, cells=cells: cells.get((attack, purifier))
        tables[classifier] = as_markdown(*layout(rows, attacks, cell))
    return tables


PLACES = [
    ("README.md", "cifar10"),
    ("docs/evaluation.md", "cifar10-adaptive"),
    ("docs/evaluation.md", "cifar10-linf"),
    ("docs/evaluation.md", "cifar10-retrained"),
    ("docs/evaluation.md", "cifar10-robust-retrained"),
    ("docs/evaluation.md", "imagenette"),
    ("docs/evaluation.md", "imagenette-128"),
    ("docs/evaluation.md", "rivals"),
    ("docs/evaluation.md", "sweep-adaptive"),
    ("docs/algorithm.md", "dictionaries"),
    ("docs/algorithm.md", "sweep"),
]


def grid_name(name: str) -> str:
    """Of two sizes there is one grid."""
    return name.removesuffix("-128")


@pytest.mark.parametrize(("page", "name"), PLACES)
def test_tables_are_those_of_the_committed_results(page, name):
    text = (REPOSITORY / page).read_text("utf-8")
    block = text.partition(f"<!-- {name} -->")[2].partition(f"<!-- /{name} -->")[0]
    for table in evaluation_tables(name).values():
        assert table in block
    assert f"n = {json.loads((RESULTS / name / 'facts.json').read_text())['images']}" in block
    assert f"raypurify evaluate benchmarks/grids/{grid_name(name)}.yaml" in block


def papers_tables(name: str) -> list[str]:
    """The papers' tables with the committed results beside them, as the report of a grid has them."""
    from raypurify.evaluation.grid import load_grid
    from raypurify.evaluation.paper_comparison import compare_with_papers
    from raypurify.evaluation.tables import as_markdown, read_csv

    found = read_csv((RESULTS / name / "cells.csv").read_text("utf-8"))
    cells = {(cell.classifier, cell.attack, cell.purifier): cell for cell in found}
    changes = ("papers=[rsfp-4-128]",) if name == "imagenette-128" else ()
    grid = load_grid(GRIDS / f"{grid_name(name)}.yaml", "DIR", changes)
    return [as_markdown(*section.table) for section in compare_with_papers(grid, cells)]


@pytest.mark.parametrize("name", ["cifar10", "cifar10-retrained", "imagenette", "imagenette-128"])
def test_papers_stand_beside_the_committed_results(name):
    text = (REPOSITORY / "docs" / "evaluation.md").read_text("utf-8")
    (table,) = papers_tables(name)
    assert table in text.partition(f"<!-- {name}-papers -->")[2].partition(f"<!-- /{name}-papers -->")[0]


def table_1() -> str:
    """Networks under attack, as trained here and as the paper has them."""
    from raypurify.evaluation.papers import TABLES
    from raypurify.evaluation.tables import as_markdown, layout, read_csv

    found = read_csv((RESULTS / "table1" / "cells.csv").read_text("utf-8"))
    cells = {(cell.classifier, cell.attack): cell for cell in found}
    paper = TABLES["rsfp-1"]
    networks = list(dict.fromkeys(cell.classifier for cell in found))
    head, body = layout(networks, paper.columns, lambda network, attack: cells[network, attack])
    theirs = {name: [f"{value:.1f}" for value in row] for name, row in paper.rows.items()}
    body = [[*row, *theirs.get(row[0], ["–"] * len(paper.columns))] for row in body]
    return as_markdown([*head, *(f"{name}, paper" for name in paper.columns)], body)


def test_table_1_is_that_of_the_committed_results():
    block = (REPOSITORY / "docs" / "training.md").read_text("utf-8").partition("<!-- table1 -->")[2]
    block = block.partition("<!-- /table1 -->")[0]
    assert table_1() in block
    assert f"n = {json.loads((RESULTS / 'table1' / 'facts.json').read_text())['images']}" in block


def without_curve(name):
    """The digest of a shipped bundle as it was when it was measured: without the curve of clean distances, on which no
    result depends."""
    manifest = json.loads((REPOSITORY / "raypurify" / "bundles" / name / "manifest.json").read_text("utf-8"))
    del manifest["calibration"]["quantiles"]
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    return SimpleNamespace(digest=hashlib.sha256(text.encode()).hexdigest())


@pytest.mark.parametrize("name", sorted({name for _, name in PLACES} - {"dictionaries"}))
def test_results_are_those_of_the_shipped_bundle_and_the_committed_grid(name, monkeypatch):
    from raypurify.evaluation import subjects
    from raypurify.evaluation.grid import load_grid

    facts = json.loads((RESULTS / name / "facts.json").read_text())
    grid = load_grid(GRIDS / f"{grid_name(name)}.yaml", "DIR")

    def digests():
        return {name: subjects.purifier_digest(spec) for name, spec in grid.purifiers.items()}

    now = digests()
    monkeypatch.setattr(subjects, "read_facts", without_curve)
    assert facts["digests"]["purifiers"] in (now, digests())
    assert grid.images.limit in (None, facts["images"])


@pytest.mark.parametrize("name", ["cifar10", "imagenet10"])
def test_figures_of_the_bundles_are_those_of_their_manifests(name):
    from raypurify.bundle import read_manifest

    manifest = read_manifest(REPOSITORY / "raypurify" / "bundles" / name)
    text = " ".join(README.split())
    clean, attacked, attack = (manifest.measured[part] for part in ("clean", "attacked", "attack"))
    said = text.partition(f"`{name}`")[2] if name == "cifar10" else text.partition("That of `imagenet10`")[2]
    budget = {"l2": f"L2 {attack['eps']}", "linf": f"L∞ {round(255 * attack['eps'])}/255"}[attack["norm"]]
    assert (
        f"right on {100 * clean['robust']:.1f} % of clean ones (n = {clean['images']}) and on "
        f"{100 * attacked['robust_attacked']:.1f} % of those attacked with {attack['steps']}-step PGD at {budget} "
        f"(n = {attacked['images']})"
    ) in said
    if name == "imagenet10":
        assert f"from {manifest.training_data['train']:,} images" in said


def test_figures_of_the_retrained_classifier_are_those_of_the_committed_results():
    from raypurify.evaluation.tables import read_csv

    found = read_csv((RESULTS / "cifar10-retrained" / "cells.csv").read_text("utf-8"))
    cells = {cell.attack: cell for cell in found if (cell.classifier, cell.purifier) == ("retrained", "RSFP, stronger")}
    clean, mean = cells["clean"], cells["mean of attacks"]
    said = f"{100 * clean.accuracy:.1f} % of clean images and on {100 * mean.accuracy:.1f} % of attacked ones"
    assert f"{said}, the mean of these five attacks (n = {clean.n})" in " ".join(README.split())


def test_what_autoattack_leaves_is_that_of_the_committed_results():
    from raypurify.evaluation.tables import read_csv

    found = read_csv((RESULTS / "cifar10-linf" / "cells.csv").read_text("utf-8"))
    names = ("robust network", "AutoAttack", "none")
    (left,) = [one for one in found if (one.classifier, one.attack, one.purifier) == names]
    assert f"leaves it {100 * left.accuracy:.1f} % (n = {left.n})" in " ".join(README.split())


def test_speed_is_that_of_the_committed_results():
    lines = (REPOSITORY / "benchmarks" / "results" / "csc.jsonl").read_text("utf-8").splitlines()
    cases = {record["case"]: record for record in map(json.loads, lines)}
    small, large = cases["32², batch 64, λ = 0.2"], cases["224², batch 1, λ = 0.2"]
    text = " ".join(README.split())
    assert f"is {small['speedup']:.0f} times as fast as sporco on 64 images of 32²" in text
    assert f"and {large['speedup']:.0f} times on one of 224²" in text
    assert max(small["excess"], large["excess"]) <= 0


@pytest.mark.parametrize("name", ["csc", "csc_gpu"])
def test_tables_of_sparse_coding_are_those_of_the_committed_results(benchmark, name):
    bench = benchmark(name)
    page = (REPOSITORY / "docs" / "sparse-coding.md").read_text("utf-8")
    records = [json.loads(line) for line in bench.RESULTS.read_text("utf-8").splitlines()]
    assert page.partition(f"<!-- {name} -->")[2].partition(f"<!-- /{name} -->")[0].strip() == bench.table(records)


def test_table_of_training_is_that_of_the_committed_results(benchmark):
    bench = benchmark("training")
    page = (REPOSITORY / "docs" / "training.md").read_text("utf-8")
    found = page.partition("<!-- training -->")[2].partition("<!-- /training -->")[0].strip()
    assert found == bench.table(json.loads(bench.RESULTS.read_text("utf-8"))).strip()


def test_table_of_the_shipped_fit_is_that_of_the_committed_results(benchmark):
    bench = benchmark("fit_record")
    page = (REPOSITORY / "docs" / "training.md").read_text("utf-8")
    found = page.partition("<!-- cifar10-fit -->")[2].partition("<!-- /cifar10-fit -->")[0].strip()
    assert found == bench.table(json.loads(bench.RESULTS.read_text("utf-8")))


def test_the_table_of_sizes_is_that_of_the_committed_results(benchmark):
    page = (REPOSITORY / "docs" / "cluster.md").read_text("utf-8")
    assert page.partition("<!-- sizing -->")[2].partition("<!-- /sizing -->")[0].strip() == benchmark("sizing").table()


def test_table_of_streamed_stages_is_that_of_the_committed_results(benchmark):
    bench = benchmark("stages")
    page = (REPOSITORY / "docs" / "decisions.md").read_text("utf-8")
    found = page.partition("<!-- stages -->")[2].partition("<!-- /stages -->")[0].strip()
    assert found == bench.table(json.loads(bench.RESULTS.read_text("utf-8")))


def test_tables_of_bulk_jobs_are_those_of_the_committed_results(benchmark):
    bench = benchmark("bulk")
    page = (REPOSITORY / "docs" / "scale.md").read_text("utf-8")
    results = json.loads(bench.RESULTS.read_text("utf-8"))
    assert set(results) == set(bench.TABLES)
    for part, table in bench.TABLES.items():
        shown = page.partition(f"<!-- {part} -->")[2].partition(f"<!-- /{part} -->")[0].strip()
        assert shown == table(results[part]).strip()
        assert results[part]["command"] in page


def test_the_example_of_sparse_coding_runs(capsys):
    page = (REPOSITORY / "docs" / "sparse-coding.md").read_text("utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.S)
    exec(compile(example, "docs/sparse-coding.md", "exec"), {})
    assert "torch.Size([16, 32, 48, 64])" in capsys.readouterr().out


PAGES = ["README.md", "CONTRIBUTING.md", "docs/decisions.md", "docs/algorithm.md", "docs/sparse-coding.md"]
PAGES += ["docs/cluster.md", "docs/bulk.md", "docs/scale.md", "docs/evaluation.md", "docs/training.md"]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    text = (REPOSITORY / page).read_text("utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert ((REPOSITORY / page).parent / target).exists(), target


def test_algorithm_page_names_code_and_tests_that_exist():
    text = (REPOSITORY / "docs" / "algorithm.md").read_text("utf-8")
    tests = re.findall(r"`((?:[a-z_]+/)?test_[a-z_]+\.py)(?:::(\w+))?`", text)
    assert len(tests) > 20
    for path, name in tests:
        source = (REPOSITORY / "tests" / path).read_text("utf-8")
        assert not name or re.search(rf"(def|class) {name}\b", source), (path, name)
