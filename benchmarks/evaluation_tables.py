"""The tables of pages that come from evaluations, and how they get there.

    raypurify evaluate benchmarks/grids/cifar10.yaml --data DIR --out OUT
    cp OUT/cells.csv OUT/comparisons.csv OUT/checks.csv OUT/facts.json OUT/bits.parquet benchmarks/results/cifar10/
    python benchmarks/evaluation_tables.py

Between ``<!-- NAME -->`` and ``<!-- /NAME -->`` in README.md and docs/*.md, every table is replaced by that of
benchmarks/results/NAME; of NAME-papers, by those that lay NAME beside its papers; of checks, by what came of the checks
of all grids; of code_or_network, purifiers, region_choices, stl_sweep and where_best, by what the script of this name
prints. The text around tables stays. ``tests/test_readme_tables.py`` refuses pages that differ from the results.
"""

import csv
import importlib
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from raypurify.evaluation.grid import MEAN, CellName, Grid, load_grid
from raypurify.evaluation.paper_comparison import compare_with_papers
from raypurify.evaluation.strength import scenario_table
from raypurify.evaluation.tables import Cell, as_markdown, checks_table, layout, read_csv

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS, GRIDS = (REPOSITORY / "benchmarks" / name for name in ("results", "grids"))
# Scripts whose ``table`` of their ``RESULTS`` stands in a page.
SCRIPTS = {"code_or_network", "purifiers", "region_choices", "semantic_losses", "stl_sweep", "where_best"}
BLOCK = re.compile(r"<!-- (?P<name>[\w-]+) -->\n(?P<text>.*?)<!-- /(?P=name) -->", re.S)
TABLE = re.compile(r"(?:^\|.*\n)+", re.M)


def committed_cells(name: str) -> dict[CellName, Cell]:
    """The committed cells of a grid, with the mean over the attacks that it is over now.

    Earlier results do not say how much of its budget an attack used, and have a mean over all: of them, ``minimal`` in
    the grid says which attacks it leaves out. A mean that this changes has no interval, which takes the bits of images.
    """
    found = read_csv((RESULTS / name / "cells.csv").read_text("utf-8"))
    cells = {CellName(cell.classifier, cell.attack, cell.purifier): cell for cell in found}
    if without_sizes(found):
        attacks = {cell.attack for cell in found}
        gray = {a: spec for a, spec in grid_of(name).attacks.items() if spec.knows == "classifier" and a in attacks}
        kept = [a for a, spec in gray.items() if spec.attack != "clean" and not spec.minimal]
        for c, a, p in [key for key in cells if key.attack == MEAN] if any(s.minimal for s in gray.values()) else ():
            mean = sum(cells[CellName(c, one, p)].accuracy for one in kept) / len(kept)
            cells[CellName(c, a, p)] = replace(cells[CellName(c, a, p)], accuracy=mean, low=math.nan, high=math.nan)
    return cells


def without_sizes(cells: Sequence[Cell]) -> bool:
    """Whether results are of an earlier version, which kept no sizes of attacks in their own norms."""
    return all(math.isnan(cell.size) for cell in cells)


def accuracy_tables(name: str) -> dict[str, str]:
    """Of each classifier, every purifier under every attack; of a grid with scenarios, one table of these."""
    if (grid := grid_of(name)).scenarios:
        head, body = scenario_table(grid, committed_cells(name)).table or ([], [])
        return {grid.name: as_markdown(head, body)}
    found = committed_cells(name).values()
    tables = {}
    for classifier in dict.fromkeys(cell.classifier for cell in found):
        cells = {(cell.attack, cell.purifier): cell for cell in found if cell.classifier == classifier}
        attacks, purifiers = (list(dict.fromkeys(names)) for names in zip(*cells))
        rows, cell = list(purifiers), lambda purifier, attack, cells=cells: cells.get((attack, purifier))
        tables[classifier] = as_markdown(*layout(rows, attacks, cell))
    return tables


def papers_tables(name: str) -> list[str]:
    """The papers' tables with the committed results beside them, as the report of a grid has them."""
    changes = ("papers=[rsfp-4-128, stl-6-128]",) if name == "imagenette-128" else ()
    sections = compare_with_papers(grid_of(name, changes), committed_cells(name))
    return [as_markdown(*section.table) for section in sections]


def all_checks() -> str:
    """Of every grid whose checks are committed, how many hold and which do not."""
    body: list[list[str]] = []
    head: list[str] = []
    for file in sorted(RESULTS.glob("*/checks.csv")):
        head, rows = checks_table(list(csv.DictReader(io.StringIO(file.read_text("utf-8")))))
        body += [[file.parent.name, *row] for row in rows]
    return as_markdown(["grid", *head], body) if body else ""


def grid_name(name: str) -> str:
    """Of two sizes there is one grid."""
    return name.removesuffix("-128")


def grid_of(name: str, changes: Sequence[str] = ()) -> Grid:
    """The grid that committed results come from."""
    return load_grid(GRIDS / f"{grid_name(name)}.yaml", "DIR", changes)


def stale(facts: dict, grid: Grid) -> list[str]:
    """The attacks that results have otherwise than the grid, by name; of earlier results, which do not say it, none."""
    now = {name: spec.decisive for name, spec in grid.attacks.items()}
    then = facts.get("attacks", now)
    return [name for name in {**now, **then} if now.get(name) != then.get(name)]


def filled(page: str) -> str:
    """The text of a page with the tables of the committed results."""

    def block(found: re.Match) -> str:
        name, text = found["name"], found["text"]
        if name == "checks":
            text = all_checks() + "\n"
        elif name in SCRIPTS:
            script = importlib.import_module(name)
            text = _replaced(text, [script.table(json.loads(script.RESULTS.read_text("utf-8")))])
        elif name.endswith("-papers"):
            text = _replaced(text, papers_tables(name.removesuffix("-papers")))
        # Table I of RSFP stands beside the paper's figures, which its own test knows.
        elif name != "table1" and (RESULTS / name / "cells.csv").exists():
            text = _replaced(text, list(accuracy_tables(name).values()))
        return f"<!-- {name} -->\n{text}<!-- /{name} -->"

    return BLOCK.sub(block, page)


def _replaced(text: str, tables: list[str]) -> str:
    if len(TABLE.findall(text)) != len(tables):
        raise SystemExit(f"{len(tables)} tables for a block with {len(TABLE.findall(text))}: {text[:60]!r}")
    each = iter(tables)
    return TABLE.sub(lambda _: next(each) + "\n", text)


def main() -> None:
    for path in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))):
        text = path.read_text("utf-8")
        if (new := filled(text)) != text:
            path.write_text(new, "utf-8")
            print(f"{path.relative_to(REPOSITORY)}: tables filled")


if __name__ == "__main__":
    main()
