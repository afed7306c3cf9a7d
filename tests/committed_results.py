"""Committed results, as the tests of README and docs compare them with what the pages say."""

import importlib.util
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"


def page_of(name: str) -> str:
    """A page of the repository as it stands."""
    return (REPOSITORY / name).read_text("utf-8")


def sentences_of(name: str) -> str:
    """A page with a space for every break of lines, so that sentences are found wherever they are broken."""
    return " ".join(page_of(name).split())


def block(page: str, marker: str) -> str:
    """What stands between the marks of a table in a page, ``<!-- marker -->`` and ``<!-- /marker -->``."""
    return page_of(page).partition(f"<!-- {marker} -->")[2].partition(f"<!-- /{marker} -->")[0].strip()


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
