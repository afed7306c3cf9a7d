"""Cells taken together: the mean over attacks, worst cases, and comparisons of purifiers on the same images."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from raypurify.evaluation.grid import MEAN, CellName, Grid
from raypurify.evaluation.intervals import mean_interval, paired, paired_mean
from raypurify.evaluation.specs import OF_CLASSIFIERS
from raypurify.evaluation.tables import Cell, cell_of

Columns = dict[CellName, dict[str, np.ndarray]]
"""What became of every image, by cell: "correct" (n,) bool, "before" of :func:`right_before`, others of
``cells.COLUMNS``."""


@dataclass(frozen=True)
class Groups:
    """Which attacks are taken together, by name, and which purifier others are compared with.

    The mean is over ``averaged``; ``minimal`` are the other attacks of an attacker who knows the classifier alone.
    """

    averaged: list[str] = field(default_factory=list)
    minimal: list[str] = field(default_factory=list)
    worst: dict[str, list[str]] = field(default_factory=dict)
    reference: str | None = None


def groups_of(grid: Grid, cells: dict[CellName, Cell]) -> Groups:
    """The groups of a grid, by the sizes in its cells.

    The mean is over attacks of an attacker who knows the classifier alone, so that all purifiers face the same images.
    One that leaves most of its budget unused looks for the least change that does, and is undone by anything: it counts
    where the perturbation of an image that was right before, unchanged ones included, has on average ``FILLED`` of the
    budget or more (``Cell.fills``), against every classifier; or as ``minimal`` says in the grid.
    """
    averaged: list[str] = []
    minimal: list[str] = []
    worst: dict[str, list[str]] = {}
    for name, spec in grid.attacks.items():
        for group in spec.worst or ():
            worst.setdefault(group, []).append(name)
        if name in grid.gray:
            fills = all(cells[CellName(c, name, grid.rows(c)[0])].fills for c in grid.classifiers)
            least = not fills if spec.minimal is None else spec.minimal
            (minimal if least else averaged).append(name)
    return Groups(averaged, minimal, worst, grid.reference)


def right_before(grid: Grid, columns: Columns, name: CellName) -> np.ndarray:
    """Which images the attacker of a cell found right before the attack, (n,) bool: alone, or behind the purifier where
    it is known; of a transfer those of what it was made on. All of them in a grid without such a clean cell."""
    spec = grid.attacks[name.attack]
    clean = next((attack for attack, one in grid.attacks.items() if one.attack == "clean"), "")
    bare = next((purifier for purifier, one in grid.purifiers.items() if one.purifier == "none"), "")
    known = bare if spec.knows in OF_CLASSIFIERS else grid.known(name)
    seen = CellName(grid.victim(name.classifier, spec), clean, known)
    return columns[seen]["correct"] if seen in columns else np.ones(len(columns[name]["correct"]), bool)


def taken_together(groups: Groups, cells: dict[CellName, Cell], columns: Columns) -> dict[CellName, Cell]:
    """The mean over attacks, where they are several, and the worst cases, of each classifier behind each purifier.

    In the worst case an image counts where it was right under every attack of the group; it has no one size, share of
    flags or time.
    """
    together = {}
    pairs = list(dict.fromkeys((name.classifier, name.purifier) for name in columns))
    for c, p in pairs if len(groups.averaged) > 1 else ():
        of = [cells[CellName(c, a, p)] for a in groups.averaged]
        facts: dict[str, Any] = {
            name: float(np.mean([getattr(one, name) for one in of]))
            for name in ("accuracy", "dissimilarity", "linf", "flagged", "seconds", "psnr")
        }
        low, high = mean_interval(np.stack([columns[CellName(c, a, p)]["correct"] for a in groups.averaged]))
        # Budgets of their own have no mean but that of the shares that are used.
        facts |= {"size": float(np.mean([one.filled for one in of])), "budget": 1.0}
        together[CellName(c, MEAN, p)] = replace(
            of[0], attack=MEAN, low=low, high=high, norm="share", knows="", done="", **facts
        )
    for group, attacks in groups.worst.items():
        for c, p in pairs:
            held = np.logical_and.reduce([columns[CellName(c, a, p)]["correct"] for a in attacks])
            together[CellName(c, group, p)] = cell_of(CellName(c, group, p), {"correct": held})
    return together


def comparisons(groups: Groups, columns: Columns) -> list[dict]:
    """The reference purifier minus each other one on the same images: attack by attack, and for the mean over them."""
    classifiers, attacks, purifiers = (list(dict.fromkeys(names)) for names in zip(*columns))
    rows = []
    for c in classifiers:
        for other in purifiers:
            if groups.reference is None or groups.reference == other:
                continue
            pair = groups.reference, other
            if any(CellName(c, attacks[0], p) not in columns for p in pair):
                continue
            differences = {a: paired(*(columns[CellName(c, a, p)]["correct"] for p in pair)) for a in attacks}
            if len(groups.averaged) > 1:
                one, two = (np.stack([columns[CellName(c, a, p)]["correct"] for a in groups.averaged]) for p in pair)
                differences[MEAN] = paired_mean(one, two)
            for attack, difference in differences.items():
                names = {"classifier": c, "attack": attack, "reference": groups.reference, "other": other}
                rows.append(names | vars(difference))
    return rows
