"""The README's numbers come from committed results, and what it points to is there."""

import csv
import hashlib
import importlib.util
import json
import math
import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text("utf-8")


RESULTS, GRIDS = (REPOSITORY / "benchmarks" / name for name in ("results", "grids"))


PLACES = [
    ("README.md", "cifar10"),
    ("docs/evaluation.md", "cifar10-adaptive"),
    ("docs/evaluation.md", "cifar10-linf"),
    ("docs/evaluation.md", "cifar10-retrained"),
    ("docs/evaluation.md", "cifar10-robust-retrained"),
    ("docs/evaluation.md", "imagenette"),
    ("docs/evaluation.md", "imagenette-128"),
    ("docs/evaluation.md", "rivals"),
    ("docs/evaluation.md", "stl"),
    ("docs/evaluation.md", "stl-strength"),
    ("docs/evaluation.md", "sweep-adaptive"),
    ("docs/algorithm.md", "dictionaries"),
    ("docs/algorithm.md", "sweep"),
    ("docs/claims.md", "figure5"),
    ("docs/claims.md", "table2"),
]


@pytest.mark.parametrize(("page", "name"), PLACES)
def test_tables_are_those_of_the_committed_results(benchmark, page, name):
    tables = benchmark("evaluation_tables")
    text = (REPOSITORY / page).read_text("utf-8")
    block = text.partition(f"<!-- {name} -->")[2].partition(f"<!-- /{name} -->")[0]
    for table in tables.accuracy_tables(name).values():
        assert table in block
    assert f"n = {json.loads((RESULTS / name / 'facts.json').read_text())['images']}" in block
    assert f"raypurify evaluate benchmarks/grids/{tables.grid_name(name)}.yaml" in block


@pytest.mark.parametrize("name", ["cifar10", "cifar10-retrained", "imagenette", "imagenette-128"])
def test_papers_stand_beside_the_committed_results(benchmark, name):
    text = (REPOSITORY / "docs" / "evaluation.md").read_text("utf-8")
    (table,) = benchmark("evaluation_tables").papers_tables(name)
    assert table in text.partition(f"<!-- {name}-papers -->")[2].partition(f"<!-- /{name}-papers -->")[0]


def test_pages_have_the_tables_that_the_command_would_fill_in(benchmark):
    tables = benchmark("evaluation_tables")
    for page in (REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")):
        text = page.read_text("utf-8")
        assert tables.filled(text) == text, page
    text = (REPOSITORY / "docs" / "evaluation.md").read_text("utf-8")
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
def test_results_are_those_of_the_shipped_bundle_and_the_committed_grid(benchmark, name, monkeypatch):
    from raypurify.evaluation import digests as room

    facts = json.loads((RESULTS / name / "facts.json").read_text())
    grid = benchmark("evaluation_tables").grid_of(name)
    # One that names a file of the data has its path in its digest; a bundle that has to be fitted first is not here.
    told = {row: json.dumps(spec.settings) for row, spec in grid.purifiers.items()}
    named = {row for row, settings in told.items() if "DIR/" in settings or '"runs/' in settings}

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
        assert (
            f"leaves {100 * attacked['baseline_attacked']:.1f} %, `imagenet10` purifies to "
            f"{100 * attacked['baseline_attacked_purified']:.1f} %, clean ones to "
            f"{100 * attacked['baseline_clean_purified']:.1f} % of {100 * attacked['baseline_clean']:.1f} % "
            f"(n = {attacked['images']})"
        ) in said


@cache
def evaluation_tables():
    spec = importlib.util.spec_from_file_location("tables", REPOSITORY / "benchmarks" / "evaluation_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells_of(name: str) -> dict[tuple[str, str, str], float]:
    """Accuracies in percent of a committed grid, by classifier, attack and purifier."""
    from raypurify.evaluation.tables import read_csv

    if name == "table1":
        found = read_csv((RESULTS / name / "cells.csv").read_text("utf-8"))
    else:
        found = evaluation_tables().committed_cells(name).values()
    return {(cell.classifier, cell.attack, cell.purifier): 100 * cell.accuracy for cell in found}


def ahead(name: str) -> dict[str, float]:
    """How much more RSFP leaves than each other purifier on the mean over attacks, in points."""
    means = {p: value for (_, attack, p), value in cells_of(name).items() if attack == "mean of attacks"}
    return {p: means["RSFP"] - value for p, value in means.items() if p not in ("RSFP", "none")}


def compared(name: str) -> dict[tuple[str, str], tuple[float, float, float]]:
    """By (attack, other purifier) how much more the reference leaves, in points, with the interval."""
    with (RESULTS / name / "comparisons.csv").open(encoding="utf-8") as file:
        rows = csv.DictReader(file)
        return {(r["attack"], r["other"]): tuple(100 * float(r[key]) for key in ("value", "low", "high")) for r in rows}


def in_words(difference: tuple[float, float, float]) -> str:
    return "{:.1f} ({:.1f} to {:.1f})".format(*difference)


OLD = ("imagenette", "imagenette-128", "dictionaries")


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
    text = (REPOSITORY / page).read_text("utf-8")
    tables = evaluation_tables()
    earlier = tables.without_sizes(tables.committed_cells(name).values())
    for block in (name, f"{name}-papers"):
        if f"<!-- {block} -->" in text:
            head = text.partition(f"<!-- {block} -->")[2].partition("\n|")[0]
            assert ("Made with an earlier version of the attacks" in head) == earlier, block


def retrained_in_words() -> str:
    found = cells_of("cifar10-retrained")
    known = {
        attack: value for (c, attack, p), value in found.items() if (c, p) == ("retrained, known", "RSFP, stronger")
    }
    transfer = found["retrained", "mean of attacks", "RSFP, stronger"]
    return (
        f"right on {known['clean']:.1f} % of clean images and, attacked by one who has its new weights, on "
        f"{known['mean of attacks']:.1f} % of attacked ones, the mean of attacks that fill their budget (n = 1000). An "
        f"attacker who knows the purifier too (BPDA) leaves it {known['BPDA']:.1f} %; one who still has the weights "
        f"from before the retraining, a transfer, {transfer:.1f} %"
    )


MEAN_AND_CLEAN = ("mean of attacks", "clean")
NO_TRANSFORMATIONS = ("one dictionary", "STL", "STL, as RSFP chooses λ", "denoiser, noise 0.15")


def others_in_words() -> str:
    rows = compared("cifar10")
    best = min(
        (n for n in ahead("cifar10") if n not in NO_TRANSFORMATIONS), key=lambda n: rows["mean of attacks", n][0]
    )
    assert best == "non-local means, h 0.1"
    transformed, stl = (rows["mean of attacks", name] for name in (best, "STL, as RSFP chooses λ"))
    denoiser, one = ([rows[a, name] for a in MEAN_AND_CLEAN] for name in ("denoiser, noise 0.15", "one dictionary"))
    value, low, high = transformed
    return (
        f"non-local means, by {value:.1f} points on the mean of attacks ({low:.1f} to {high:.1f}). Three come closer: "
        "STL, with λ chosen as RSFP chooses it, is {:.1f} points behind ({:.1f} to {:.1f}), ".format(*stl)
        + f"a small denoiser that is given noise to take away {in_words(denoiser[0])}, but "
        + "{:.1f} on clean images ({:.1f} to {:.1f}), and RSFP with one dictionary ".format(*denoiser[1])
        + f"for all images, which needs neither clusters nor a network, {in_words(one[0])}, and "
        + "{:.1f} on clean ones ({:.1f} to {:.1f})".format(*one[1])
    )


def dictionaries_in_words() -> str:
    found = cells_of("dictionaries")
    mean = {p: value for (_, attack, p), value in found.items() if attack == "mean of attacks"}
    more = {p: value - mean["64 atoms of 8×8"] for p, value in mean.items()}
    return (
        f"11×11 give {more['atoms of 11×11']:.1f} points more than 8×8 on the mean over FGSM and BIM, and 5×5 take "
        f"{-more['atoms of 5×5']:.1f}. Twice the atoms give {more['128 atoms']:.2f}. None of these differences has an "
        "interval. Against these attackers one dictionary for all images does about what thirty do: "
        f"{-more['one dictionary']:.1f} points less"
    )


def sweep_in_words() -> str:
    rows = compared("sweep")
    paper, clean = (rows[attack, "paper"] for attack in MEAN_AND_CLEAN)
    refit, noise = (rows["mean of attacks", name] for name in ("noise 10", "refit"))
    one, kept = (rows[attack, "λ 0.3, refit"] for attack in MEAN_AND_CLEAN)
    return (
        "{:.1f} points ahead of the row *paper* on the mean of attacks ({:.1f} to {:.1f}), and ".format(*paper)
        + "{:.1f} on clean images ({:.1f} to {:.1f}). Both settings have a part in it: without the ".format(*clean)
        + "refit it is {:.1f} behind itself ({:.1f} to {:.1f}), without the noise ".format(*refit)
        + f"{in_words(noise)}. One λ of 0.3 for all images and the refit do as well under attack "
        + f"({one[0]:.1f} behind, −{-one[1]:.1f} to {one[2]:.1f}), at "
        + "{:.1f} points of clean images ({:.1f} to {:.1f})".format(*kept)
    )


def imagenette_in_words() -> str:
    small, large = (ahead(name) for name in ("imagenette", "imagenette-128"))
    assert min(small, key=small.get) == min(large, key=large.get) == "TVM"
    return (
        f"(of TVM by {small['TVM']:.1f} points); at 128² TVM is ahead of RSFP (by {-large['TVM']:.1f} points). There "
        "are no intervals of these differences"
    )


def robust_network_in_words() -> str:
    found = cells_of("cifar10-linf")
    pgd, auto = (found["robust network", attack, "none"] for attack in ("PGD", "AutoAttack"))
    return f"that attack leaves it {pgd:.1f} %, and AutoAttack of that size leaves it {auto:.1f} % (n = 1000)"


def autoattack_in_words() -> str:
    found = cells_of("cifar10-linf")
    bare, purified = (found["robust network", "AutoAttack", row] for row in ("none", "RSFP"))
    return f"fare better under it, {purified:.1f} against {bare:.1f} %"


def gray_box_worst_in_words() -> str:
    found = cells_of("cifar10-linf")
    of = {p: {a: v for (c, a, q), v in found.items() if (c, q) == ("robust network", p)} for p in ("none", "RSFP")}
    bare, purified = (min(cells, key=cells.get) for cells in of.values())
    assert (bare, purified) == ("AutoAttack", "MIM")
    return (
        f"worst case is {of['none'][bare]:.1f} % without it; with it {purified}, not {bare}, is the strongest of these "
        f"attacks, so that it is {of['RSFP'][purified]:.1f} % at most"
    )


WORDS = {
    retrained_in_words: "README.md",
    others_in_words: "README.md",
    dictionaries_in_words: "docs/algorithm.md",
    sweep_in_words: "docs/algorithm.md",
    imagenette_in_words: "docs/evaluation.md",
    robust_network_in_words: "README.md",
    autoattack_in_words: "docs/evaluation.md",
    gray_box_worst_in_words: "docs/evaluation.md",
}


@pytest.mark.parametrize("words", WORDS, ids=lambda words: words.__name__)
def test_figures_in_words_are_those_of_the_committed_results(words):
    assert words() in " ".join((REPOSITORY / WORDS[words]).read_text("utf-8").split())


CLAIMED = ("cifar10", "cifar10-adaptive", "cifar10-retrained", "figure5", "table1", "table2")


def claims_in_words() -> list[str]:
    """What docs/claims.md says in words, from everywhere."""
    grids = {name: cells_of(name) for name in CLAIMED}
    solver = grids["cifar10-adaptive"]["ResNet-56", "solver", "RSFP"]
    bare, purified = (
        {attack: grids["cifar10"]["ResNet-56", attack, row] for attack in ("clean", "BIM")} for row in ("none", "RSFP")
    )
    retrained = grids["cifar10-retrained"]["retrained, known", "clean", "RSFP, stronger"]
    rows = {other: found for (attack, other), found in compared("cifar10").items() if attack == "mean of attacks"}
    others = {name: found for name, found in rows.items() if name not in (*NO_TRANSFORMATIONS, "none")}
    assert len(others) == 8
    nearest, stl = min(others.values()), [rows[name] for name in ("STL", "STL, as RSFP chooses λ")]
    dictionary = [compared("cifar10")[attack, "one dictionary"] for attack in ("clean", "mean of attacks")]
    measured = json.loads((REPOSITORY / "raypurify/bundles/cifar10/manifest.json").read_text("utf-8"))["measured"]
    clean, attacked = (measured["clean"]["cluster_class"], measured["attacked"]["cluster_class_attacked"])
    mean = {
        p: [v for (_, a, q), v in grids["table2"].items() if (a, q) == ("mean of attacks", p)] for p in ("none", "RSFP")
    }
    choices = json.loads((RESULTS / "choices.json").read_text("utf-8"))["attacks"]
    farthest = choices["BIM, 20 steps"]["cells"]["farthest"]["minus_nearest"]["value"]
    one = choices["clean"]["cells"]["one dictionary"]["minus_nearest"]["value"]
    levels = {
        (attack, p): grids["figure5"]["ResNet-56", attack, p]
        for attack in ("2 grey levels", "24")
        for p in ("none", "RSFP")
    }
    pull = [grids["table1"][row, "PGD", "none"] for row in ("PGDAT+RST (PGDAT)", "PGDAT (PGDAT)")]
    return [
        f"PGD leaves {pull[0]:.1f} % with it, {pull[1]:.1f} % without (n = 1000",
        f"{levels['2 grey levels', 'RSFP']:.1f} for {levels['2 grey levels', 'none']:.1f} %",
        f"{levels['24', 'RSFP']:.1f} for {levels['24', 'none']:.1f} %",
        f"leaves a ResNet-56 behind RSFP {solver:.1f} % (n = 500)",
        f"{bare['clean']:.1f} % falls to {purified['clean']:.1f} % (n = 1000)",
        f"has {retrained:.1f} %",
        f"under BIM {bare['BIM']:.1f} % becomes {purified['BIM']:.1f} % (n = 1000)",
        f"{nearest[0]:.1f} points ahead of the best of eight others on the mean of attacks "
        + f"({nearest[1]:.1f} to {nearest[2]:.1f}, n = 1000)",
        "by {:.1f} points on the mean of attacks ({:.1f} to {:.1f}, n = 1000), each as shipped; ".format(*stl[0])
        + "by {:.1f} ({:.1f} to {:.1f}) where STL chooses λ as RSFP does".format(*stl[1]),
        "costs clean ones {:.1f} points ({:.1f} to {:.1f}), attacked ones ".format(*dictionary[0])
        + "{:.1f} on the mean ({:.1f} to {:.1f}, n = 1000)".format(*dictionary[1]),
        f"{-ahead('imagenette-128')['TVM']:.1f} points behind TVM (n = 100, no interval)",
        f"for {100 * clean:.1f} % of clean images (n = 5000), for {100 * attacked:.1f} % of those attacked on another",
        f"{min(mean['none']):.1f} to {max(mean['none']):.1f} % on the mean, becomes {min(mean['RSFP']):.1f} to "
        f"{max(mean['RSFP']):.1f} %",
        f"the dictionary that is farthest takes {-100 * farthest:.1f} points",
        f"One dictionary costs clean images {-100 * one:.1f} points",
    ]


def test_claims_in_words_are_those_of_the_committed_results():
    page = " ".join((REPOSITORY / "docs" / "claims.md").read_text("utf-8").split())
    assert [words for words in claims_in_words() if words not in page] == []


def test_table_of_choices_is_that_of_the_committed_results(benchmark):
    bench = benchmark("choices")
    page = (REPOSITORY / "docs" / "claims.md").read_text("utf-8")
    found = page.partition("<!-- choices -->")[2].partition("<!-- /choices -->")[0].strip()
    results = json.loads(bench.RESULTS.read_text("utf-8"))
    assert found == bench.table(results)
    assert results["command"] in " ".join(page.split())


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


def test_table_of_peers_of_sparse_coding_is_that_of_the_committed_results(benchmark):
    page = (REPOSITORY / "docs" / "from-sporco.md").read_text("utf-8")
    records = [json.loads(line) for line in benchmark("csc").RESULTS.read_text("utf-8").splitlines()]
    found = page.partition("<!-- csc_peers -->")[2].partition("<!-- /csc_peers -->")[0].strip()
    assert found == benchmark("csc_peers").table(records)


def test_table_of_training_is_that_of_the_committed_results(benchmark):
    bench = benchmark("training")
    page = (REPOSITORY / "docs" / "training.md").read_text("utf-8")
    found = page.partition("<!-- training -->")[2].partition("<!-- /training -->")[0].strip()
    assert found == bench.table(json.loads(bench.RESULTS.read_text("utf-8"))).strip()


def test_table_of_denoisers_is_that_of_the_committed_results(benchmark):
    bench = benchmark("denoisers")
    page = (REPOSITORY / "docs" / "training.md").read_text("utf-8")
    found = page.partition("<!-- denoisers -->")[2].partition("<!-- /denoisers -->")[0].strip()
    assert found == bench.table(json.loads(bench.RESULTS.read_text("utf-8")))


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


def test_table_of_small_sets_is_that_of_the_committed_results(benchmark):
    bench = benchmark("startup")
    page = (REPOSITORY / "docs" / "bulk.md").read_text("utf-8")
    shown = page.partition("<!-- startup -->")[2].partition("<!-- /startup -->")[0].strip()
    # Where there are no results, there is no table.
    assert shown == (bench.table(json.loads(bench.RESULTS.read_text("utf-8"))) if bench.RESULTS.exists() else "")


@pytest.mark.parametrize(
    ("script", "marker", "shown"),
    [("encoding", "encoding", "tables"), ("encoding", "cores", "cores"), ("beside", "beside", "table")],
)
def test_tables_of_files_are_those_of_the_committed_results(benchmark, script, marker, shown):
    bench = benchmark(script)
    page = (REPOSITORY / "docs" / "scale.md").read_text("utf-8")
    found = page.partition(f"<!-- {marker} -->")[2].partition(f"<!-- /{marker} -->")[0].strip()
    # Where there are no results, there is no table.
    results = json.loads(bench.RESULTS.read_text("utf-8")) if bench.RESULTS.exists() else None
    assert found == (getattr(bench, shown)(results) if results else "")
    assert not results or results["command"] in page


def test_tables_of_bulk_jobs_are_those_of_the_committed_results(benchmark):
    bench = benchmark("bulk")
    page = (REPOSITORY / "docs" / "scale.md").read_text("utf-8")
    results = json.loads(bench.RESULTS.read_text("utf-8"))
    assert set(results) == set(bench.TABLES)
    for part, table in bench.TABLES.items():
        shown = page.partition(f"<!-- {part} -->")[2].partition(f"<!-- /{part} -->")[0].strip()
        assert shown == table(results[part]).strip()
        assert results[part]["command"] in page


def test_no_attack_is_weaker_than_its_reference_and_the_table_says_so(benchmark):
    pytest.importorskip("foolbox")
    pytest.importorskip("pyautoattack")
    bench = benchmark("attack_reference")
    rows = bench.read_rows(bench.RESULTS)
    assert rows
    assert list(rows) == [name for name in bench.pairs() if name in rows]
    page = (REPOSITORY / "docs" / "evaluation.md").read_text("utf-8")
    shown = page.partition("<!-- attack_reference -->")[2].partition("<!-- /attack_reference -->")[0]
    assert bench.table(rows) in shown
    for name, row in rows.items():
        assert float(row["left"]) <= float(row["left_by_reference"]) + 0.01 + 1e-9, name
        assert float(row["size"]) <= 1, name
        assert name != "UAP" or float(row["left"]) < 0.3


@pytest.mark.parametrize(("name", "shape"), [("sparse-coding", "[16, 32, 48, 64]"), ("from-sporco", "[2, 8, 48, 64]")])
def test_the_example_of_sparse_coding_runs(name, shape, capsys):
    page = (REPOSITORY / "docs" / f"{name}.md").read_text("utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.S)
    exec(compile(example, f"docs/{name}.md", "exec"), {})
    assert f"torch.Size({shape})" in capsys.readouterr().out


PAGES = ["README.md", "CONTRIBUTING.md", "docs/decisions.md", "docs/algorithm.md", "docs/sparse-coding.md"]
PAGES += ["docs/from-sporco.md"]
PAGES += [
    "docs/cluster.md",
    "docs/bulk.md",
    "docs/scale.md",
    "docs/evaluation.md",
    "docs/training.md",
    "docs/claims.md",
]


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
