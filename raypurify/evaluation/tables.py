"""Cells into tables: accuracies with intervals, paired comparisons, worst cases; as rows, CSV and Markdown."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from raypurify.evaluation.grid import CellName, Grid
from raypurify.evaluation.intervals import mean_interval, paired, paired_mean, wilson

MEAN = "mean of attacks"


@dataclass(frozen=True)
class Cell:
    """The figures of one cell: accuracy on n images with its 95 % interval, and means over them."""

    classifier: str
    attack: str
    purifier: str
    accuracy: float
    low: float
    high: float
    n: int
    dissimilarity: float
    linf: float
    flagged: float
    seconds: float


def cell_of(name: CellName, columns: dict[str, np.ndarray], seconds: float) -> Cell:
    """The figures of a cell from what became of each image, (n,) by column, and its seconds an image."""
    correct = columns["correct"]
    low, high = wilson(int(correct.sum()), len(correct))
    dissimilarity, linf, flagged = (float(columns[fact].mean()) for fact in ("dissimilarity", "linf", "flagged"))
    return Cell(*name, float(correct.mean()), low, high, len(correct), dissimilarity, linf, flagged, seconds)


def worst_cases(grid: Grid, correct: dict[CellName, np.ndarray]) -> dict[CellName, np.ndarray]:
    """The worst case, image by image: which were right under every attack of a group that the grid names.

    (n,) bool by classifier, name of the group, and purifier.
    """
    groups: dict[str, list[str]] = {}
    for name, spec in grid.attacks.items():
        if spec.worst:
            groups.setdefault(spec.worst, []).append(name)
    return {
        CellName(c, group, p): np.logical_and.reduce([correct[CellName(c, attack, p)] for attack in attacks])
        for group, attacks in groups.items()
        for c in grid.classifiers
        for p in grid.purifiers
    }


def gray_box(grid: Grid) -> list[str]:
    """The attacks by which means over attacks are taken: those of an attacker who knows the classifier alone."""
    return [name for name, spec in grid.attacks.items() if spec.attack != "clean" and spec.knows == "classifier"]


def means(grid: Grid, cells: dict[CellName, Cell], correct: dict[CellName, np.ndarray]) -> dict[CellName, Cell]:
    """The mean over the gray-box attacks, where they are several, of each classifier behind each purifier."""
    attacks, averaged = gray_box(grid), {}
    for c in grid.classifiers if len(attacks) > 1 else ():
        for p in grid.purifiers:
            of = [cells[CellName(c, a, p)] for a in attacks]
            facts = {
                name: float(np.mean([getattr(one, name) for one in of]))
                for name in ("accuracy", "dissimilarity", "linf", "flagged", "seconds")
            }
            low, high = mean_interval(np.stack([correct[CellName(c, a, p)] for a in attacks]))
            averaged[CellName(c, MEAN, p)] = Cell(c, MEAN, p, low=low, high=high, n=of[0].n, **facts)
    return averaged


def comparisons(grid: Grid, correct: dict[CellName, np.ndarray]) -> list[dict]:
    """The reference purifier minus each other one on the same images: attack by attack, and the gray-box ones' mean."""
    rows = []
    attacks, attacked = list(grid.attacks), gray_box(grid)
    for c in grid.classifiers:
        for other in grid.purifiers:
            if grid.reference is None or grid.reference == other:
                continue
            pair = grid.reference, other
            differences = {a: paired(*(correct[CellName(c, a, p)] for p in pair)) for a in attacks}
            if len(attacked) > 1:
                one, two = (np.stack([correct[CellName(c, a, p)] for a in attacked]) for p in pair)
                differences[MEAN] = paired_mean(one, two)
            for attack, difference in differences.items():
                names = {"classifier": c, "attack": attack, "reference": grid.reference, "other": other}
                rows.append(names | vars(difference))
    return rows


def as_csv(rows: Sequence[dict]) -> str:
    """Rows as CSV, their keys as its head.

    >>> as_csv([{"a": 1, "b": 2.5}])
    'a,b\\n1,2.5\\n'
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def read_csv(text: str) -> list[Cell]:
    """The cells in the text of a ``cells.csv``."""
    kinds: dict[str, Any] = {field.name: field.type for field in fields(Cell)}
    rows = csv.DictReader(io.StringIO(text))
    return [Cell(**{name: kinds[name](value) for name, value in row.items()}) for row in rows]


def as_markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Head and rows as a Markdown table.

    >>> print(as_markdown(["", "a"], [["x", "1"]]))
    |  | a |
    |---|---|
    | x | 1 |
    """
    lines = [" | ".join(head), "---|" * len(head), *(" | ".join(row) for row in rows)]
    return "\n".join(f"|{line}" if line.endswith("---|") else f"| {line} |" for line in lines)


def layout(
    rows: Sequence[str], columns: Sequence[str], find: Callable[[str, str], Cell | None]
) -> tuple[list[str], list[list[str]]]:
    """Head and body of a table of accuracies in percent with their intervals, empty where ``find`` gives None."""
    body = []
    for row in rows:
        cells = [find(row, column) for column in columns]
        body.append([row, *("" if cell is None else percent(cell) for cell in cells)])
    return ["", *columns], body


def percent(cell: Cell) -> str:
    """The accuracy of a cell in percent with its interval, e.g. ``93.0 (91.5–94.2)``."""
    return f"{100 * cell.accuracy:.1f} ({100 * cell.low:.1f}–{100 * cell.high:.1f})"
