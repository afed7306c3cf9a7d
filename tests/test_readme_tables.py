"""Tables of README and docs are those of the committed results."""

import hashlib
import json
import math
import re
from types import SimpleNamespace

import pytest
from committed_results import REPOSITORY, RESULTS, block, cells_of, evaluation_tables, page_of, sentences_of

GRIDS = REPOSITORY / "benchmarks" / "grids"


PLACES = [
    ("README.md", "cifar10"),
    ("docs/results.md", "cifar10-adaptive"),
    ("docs/results.md", "cifar10-linf"),
    ("docs/results.md", "cifar10-retrained"),
    ("docs/results.md", "cifar10-robust-retrained"),
    ("docs/results.md", "equal"),
    ("docs/results.md", "imagenette"),
    ("docs/results.md", "imagenette-128"),
    ("docs/results.md", "imagenette-settings"),
    ("docs/results.md", "imagenette-strength"),
    ("docs/results.md", "rivals"),
    ("docs/results.md", "stl"),
    ("docs/results.md", "stl-authors"),
    ("docs/results.md", "stl-strength"),
    ("docs/results.md", "sweep-adaptive"),
    ("docs/results.md", "systems-adaptive"),
    ("docs/results.md", "vgg"),
    ("docs/results.md", "vgg-equal"),
    ("docs/algorithm.md", "dictionaries"),
    ("docs/algorithm.md", "sweep"),
    ("docs/claims.md", "figure5"),
    ("docs/claims.md", "table2"),
]


@pytest.mark.parametrize(("page", "name"), PLACES)
def test_tables_are_those_of_the_committed_results(benchmark, page, name):
    tables = benchmark("evaluation_tables")
    shown = block(page, name)
    for table in tables.accuracy_tables(name).values():
        assert table.strip() in shown
    assert f"n = {json.loads((RESULTS / name / 'facts.json').read_text())['images']}" in shown
    assert f"raypurify evaluate benchmarks/grids/{tables.grid_name(name)}.yaml" in shown


@pytest.mark.parametrize(
    "name", ["cifar10", "cifar10-retrained", "imagenette", "imagenette-128", "imagenette-strength", "vgg", "vgg-equal"]
)
def test_papers_stand_beside_the_committed_results(benchmark, name):
    for table in benchmark("evaluation_tables").papers_tables(name):
        assert table.strip() in block("docs/results.md", f"{name}-papers")


def test_pages_have_the_tables_that_the_command_would_fill_in(benchmark):
    tables = benchmark("evaluation_tables")
    for page in (REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")):
        text = page.read_text("utf-8")
        assert tables.filled(text) == text, page
    text = page_of("docs/results.md")
    assert tables.filled(re.sub(r"\d\d\.\d \(.*?\)", "99.9", text)) == text
    assert "<!-- checks -->" in text


@pytest.mark.parametrize("folder", sorted(path.parent for path in RESULTS.glob("*/bits.parquet")) or [None])
def test_committed_bits_give_the_committed_figures(folder):
    if folder is None:
        pytest.skip("no bits are committed")
    from raypurify.evaluation.bits import recompute
    from raypurify.evaluation.tables import as_csv, read_csv

    cells, compared = recompute(folder)
    written = read_csv((folder / "cells.csv").read_text("utf-8"))
    assert len(cells) == len(written)
    for one in written:
        found = cells[one.classifier, one.attack, one.purifier]
        assert (found.n, found.accuracy, found.low, found.high) == pytest.approx(
            (one.n, one.accuracy, one.low, one.high), abs=1e-12
        )
    if compared:
        assert as_csv(compared) == (folder / "comparisons.csv").read_text("utf-8")


@pytest.mark.parametrize("path", sorted(GRIDS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_committed_grid_checks_its_attacks(path):
    from raypurify.evaluation.grid import load_grid

    assert load_grid(path, "DIR").sanity > 0


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
    shown = block("docs/training.md", "table1")
    assert table_1().strip() in shown
    assert f"n = {json.loads((RESULTS / 'table1' / 'facts.json').read_text())['images']}" in shown


def without_curve(name):
    """The digest of a shipped bundle as it was when it was measured: without the curve of clean distances, on which no
    result depends."""
    manifest = json.loads((REPOSITORY / "raypurify" / "bundles" / name / "manifest.json").read_text("utf-8"))
    del manifest["calibration"]["quantiles"]
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    return SimpleNamespace(digest=hashlib.sha256(text.encode()).hexdigest())


@pytest.mark.parametrize("name", sorted({name for _, name in PLACES} - {"dictionaries"}))
def test_results_are_those_of_the_shipped_bundle_and_the_committed_grid(benchmark, name, monkeypatch):
    from raypurify.evaluation import digests as room

    facts = json.loads((RESULTS / name / "facts.json").read_text())
    grid = benchmark("evaluation_tables").grid_of(name)
    # One that names a file of the data has its path in its digest; what a command has to make first is not here.
    told = {row: json.dumps(spec.settings) for row, spec in grid.purifiers.items()}
    made = ("DIR/", '"runs/', '"bank.safetensors"')
    named = {row for row, settings in told.items() if any(file in settings for file in made)}

    def digests():
        return {row: room.purifier_digest(spec) for row, spec in grid.purifiers.items() if row not in named}

    now = digests()
    monkeypatch.setattr(room, "checked_facts", without_curve)
    assert {row: digest for row, digest in facts["digests"]["purifiers"].items() if row not in named} in (
        now,
        digests(),
    )
    assert grid.images.limit in (None, facts["images"])
    assert evaluation_tables().stale(facts, grid) == []


def test_results_of_other_attacks_than_the_grids_are_stale():
    tables = evaluation_tables()
    grid = tables.grid_of("cifar10")
    attacks = {name: spec.decisive for name, spec in grid.attacks.items()}
    assert tables.stale({"attacks": json.loads(json.dumps(attacks))}, grid) == []
    changed = attacks | {"BIM": attacks["BIM"] | {"steps": 10}, "another": {"attack": "pgd"}}
    del changed["CW, filled"]
    assert tables.stale({"attacks": changed}, grid) == ["BIM", "CW, filled", "another"]


OLD = ("dictionaries",)


@pytest.mark.parametrize("name", OLD)
def test_means_without_sizes_are_over_the_attacks_that_are_not_minimal(name):
    found = cells_of(name)
    kept = ("FGSM-0.08", "FGSM-0.04", "BIM")
    for c, a, p in found:
        if a == "mean of attacks":
            assert found[c, a, p] == pytest.approx(sum(found[c, one, p] for one in kept) / 3)
    tables = evaluation_tables()
    cells = tables.committed_cells(name)
    assert all(math.isnan(cell.low) for cell in cells.values() if cell.attack == "mean of attacks")
    assert "nan" not in "".join(tables.accuracy_tables(name).values())


@pytest.mark.parametrize(("page", "name"), PLACES)
def test_blocks_say_whether_an_earlier_version_made_them(page, name):
    tables = evaluation_tables()
    earlier = tables.without_sizes(tables.committed_cells(name).values())
    for marker in (name, f"{name}-papers"):
        if f"<!-- {marker} -->" in page_of(page):
            head = block(page, marker).partition("\n|")[0]
            assert ("Made with an earlier version of the attacks" in head) == earlier, marker


def test_table_of_choices_is_that_of_the_committed_results(benchmark):
    bench = benchmark("choices")
    found = block("docs/claims.md", "choices")
    results = json.loads(bench.RESULTS.read_text("utf-8"))
    assert found == bench.table(results)
    assert results["command"] in sentences_of("docs/claims.md")


@pytest.mark.parametrize("name", ["csc", "csc_gpu"])
def test_tables_of_sparse_coding_are_those_of_the_committed_results(benchmark, name):
    bench = benchmark(name)
    records = [json.loads(line) for line in bench.RESULTS.read_text("utf-8").splitlines()]
    assert block("docs/sparse-coding.md", name) == bench.table(records)


def test_table_of_peers_of_sparse_coding_is_that_of_the_committed_results(benchmark):
    records = [json.loads(line) for line in benchmark("csc").RESULTS.read_text("utf-8").splitlines()]
    found = block("docs/from-sporco.md", "csc_peers")
    assert found == benchmark("csc_peers").table(records)


@pytest.mark.parametrize(
    ("page", "name", "script"),
    [
        ("docs/training.md", "training", "training"),
        ("docs/training.md", "denoisers", "denoisers"),
        ("docs/training.md", "semantic_losses", "semantic_losses"),
        ("docs/training.md", "cifar10-fit", "fit_record"),
        ("docs/decisions.md", "stages", "stages"),
    ],
)
def test_table_of_a_script_is_that_of_its_committed_results(benchmark, page, name, script):
    bench = benchmark(script)
    assert block(page, name) == bench.table(json.loads(bench.RESULTS.read_text("utf-8"))).strip()


def test_the_table_of_sizes_is_that_of_the_committed_results(benchmark):
    assert block("docs/cluster.md", "sizing") == benchmark("sizing").table()


def test_table_of_small_sets_is_that_of_the_committed_results(benchmark):
    bench = benchmark("startup")
    shown = block("docs/bulk.md", "startup")
    # Where there are no results, there is no table.
    assert shown == (bench.table(json.loads(bench.RESULTS.read_text("utf-8"))) if bench.RESULTS.exists() else "")


@pytest.mark.parametrize(
    ("script", "marker", "shown"),
    [("encoding", "encoding", "tables"), ("encoding", "cores", "cores"), ("beside", "beside", "table")],
)
def test_tables_of_files_are_those_of_the_committed_results(benchmark, script, marker, shown):
    bench = benchmark(script)
    found = block("docs/scale.md", marker)
    # Where there are no results, there is no table.
    results = json.loads(bench.RESULTS.read_text("utf-8")) if bench.RESULTS.exists() else None
    assert found == (getattr(bench, shown)(results) if results else "")
    assert not results or results["command"] in page_of("docs/scale.md")


def test_tables_of_bulk_jobs_are_those_of_the_committed_results(benchmark):
    bench = benchmark("bulk")
    results = json.loads(bench.RESULTS.read_text("utf-8"))
    assert set(results) == set(bench.TABLES)
    for part, table in bench.TABLES.items():
        assert block("docs/scale.md", part) == table(results[part]).strip()
        assert results[part]["command"] in page_of("docs/scale.md")


def test_no_attack_is_weaker_than_its_reference_and_the_table_says_so(benchmark):
    pytest.importorskip("foolbox")
    pytest.importorskip("pyautoattack")
    bench = benchmark("attack_reference")
    rows = bench.read_rows(bench.RESULTS)
    assert list(rows) == list(bench.pairs())
    shown = block("docs/results.md", "attack_reference")
    assert bench.table(rows).strip() in shown
    for name, row in rows.items():
        assert float(row["left"]) <= float(row["left_by_reference"]) + 0.01 + 1e-9, name
        assert float(row["size"]) <= 1, name
        assert name != "UAP" or float(row["left"]) < 0.3
