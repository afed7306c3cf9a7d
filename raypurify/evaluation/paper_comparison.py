"""The figures of a grid beside those that papers report."""

from collections.abc import Sequence

from raypurify.evaluation.grid import CellName, Grid
from raypurify.evaluation.papers import TABLES, recovered
from raypurify.evaluation.render import Section
from raypurify.evaluation.tables import Cell

SHARE = (
    "In brackets the share of the accuracy lost to the attack that the defence gives back, "
    "(defended − undefended) / (clean − undefended), as the undefended classifiers differ."
)


def compare_with_papers(grid: Grid, cells: dict[CellName, Cell]) -> list[Section]:
    """A section for each of the grid's ``papers``: its rows, then ours, a purifier before a classifier, in percent."""
    sections = []
    for name in grid.papers:
        table = TABLES[name]
        bare = table.rows.get(table.undefended, ()) if table.undefended else ()
        body = [[f"{row} (paper)", *_with_share(values, bare)] for row, values in table.rows.items()]
        for c in grid.classifiers:
            # An attack takes from the one that it is made for; what a retrained one had, it had before.
            clean, *attacks = table.columns
            before = [_percent(cells.get(CellName(grid.before(c), clean, "none")))]
            before += [_percent(cells.get(CellName(grid.victim(c), a, "none"))) for a in attacks]
            for p in grid.rows(c):
                ours = [_percent(cells.get(CellName(c, a, p))) for a in table.columns]
                body.append([f"{p}, {c}", *_with_share(ours, before if table.undefended else ())])
        text = (table.source, SHARE) if table.undefended else (table.source,)
        sections.append(Section(f"Beside the paper: {name}", text, (["", *table.columns], body)))
    return sections


def _percent(one: Cell | None) -> float | None:
    return None if one is None else 100 * one.accuracy


def _with_share(values: Sequence[float | None], undefended: Sequence[float | None]) -> list[str]:
    shown = []
    for k, value in enumerate(values):
        text = "" if value is None else f"{value:.1f}"
        clean, bare = (undefended[0], undefended[k]) if k and undefended else (None, None)
        if clean is not None and bare is not None and value is not None and value != bare:
            share = recovered(clean, bare, value)
            text += "" if share is None else f" [{share:.2f}]"
        shown.append(text)
    return shown
