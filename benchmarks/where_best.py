"""In which cells which purifier is best: of the committed results of the grids ``stl``,
``stl-strength``, ``imagenette`` and ``imagenette-128``.

    python benchmarks/where_best.py

The best row under each attack, and every row that is not significantly behind it on the same images: p of McNemar's
exact test, for the mean that of ``paired_mean``, is 0.05 or more. The systems that this package fits stand apart from
what they are compared with. Rows are tested one by one, and p is not corrected for how many there are.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from raypurify.evaluation.bits import BITS, read_bits, recompute
from raypurify.evaluation.grid import MEAN, CellName
from raypurify.evaluation.intervals import Difference, paired, paired_mean
from raypurify.evaluation.tables import Cell, as_markdown

HERE = Path(__file__).parent
# Their bits lie beside.
RESULTS = HERE / "results" / "stl" / "facts.json"
GRIDS = ("stl", "stl-strength", "imagenette", "imagenette-128")
SYSTEMS = ("RSFP", "STL", "RegionSparse")
LEVEL = 0.05


def main() -> None:
    print(table(json.loads(RESULTS.read_text("utf-8"))))


def table(facts: dict[str, Any]) -> str:
    """Of every grid and attack the best system and the best of the others, each with those not behind it."""
    return as_markdown(
        ["grid", "attack", "n", "best system", "not behind it", "best of the others", "not behind it", "points apart"],
        [row for grid in GRIDS for row in rows_of(grid)],
    )


def rows_of(grid: str) -> list[list[str]]:
    """The rows of a grid, which has one classifier."""
    folder = RESULTS.parents[1] / grid
    cells, _ = recompute(folder)
    columns = read_bits(folder / BITS)
    averaged = json.loads((folder / "facts.json").read_text("utf-8"))["groups"]["averaged"]
    (classifier,) = {name.classifier for name in cells}
    attacks, purifiers = ([*dict.fromkeys(names)] for names in list(zip(*cells))[1:])
    ours = [name for name in purifiers if name.partition(",")[0] in SYSTEMS]
    others = [name for name in purifiers if name not in ours and name != "none"]

    def right(attack: str, purifier: str) -> np.ndarray:
        of = averaged if attack == MEAN else [attack]
        return np.stack([columns[CellName(classifier, one, purifier)]["correct"] for one in of])

    rows = []
    for attack in attacks:
        if attack != MEAN and CellName(classifier, attack, ours[0]) not in columns:
            continue
        row, firsts = [grid, attack, str(right(attack, ours[0]).shape[1])], []
        for some in (ours, others):
            found = [cells[CellName(classifier, attack, name)] for name in some]
            best, *rest = sorted(found, key=lambda cell: -cell.accuracy)
            firsts.append(right(attack, best.purifier))
            near = [one for one in rest if not behind(firsts[-1], right(attack, one.purifier))]
            row += [told(best), "; ".join(f"{one.purifier} {100 * one.accuracy:.1f}" for one in near) or "none"]
        apart = difference(*firsts)
        rows.append([*row, f"{100 * apart.value:+.1f} ({100 * apart.low:+.1f} to {100 * apart.high:+.1f})"])
    return rows


def behind(best: np.ndarray, other: np.ndarray) -> bool:
    """Whether rows of right answers (attacks, n) are significantly fewer than the best ones."""
    found = difference(best, other)
    return found.value > 0 and found.p < LEVEL


def difference(one: np.ndarray, other: np.ndarray) -> Difference:
    """One less the other, each (attacks, n), on the same images."""
    return paired(one[0], other[0]) if len(one) == 1 else paired_mean(one, other)


def told(cell: Cell) -> str:
    return f"{cell.purifier} {100 * cell.accuracy:.1f} ({100 * cell.low:.1f}–{100 * cell.high:.1f})"


if __name__ == "__main__":
    main()
