"""Cells into tables: accuracies with intervals and sizes of attacks; as rows, CSV and Markdown."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from raypurify.evaluation.grid import CellName
from raypurify.evaluation.intervals import wilson

FILLED = 0.9
"""The share of its budget that an attack uses on average, at least, to stand in the mean over attacks."""
SIZES = "mean size / budget"
DAGGER = "†"


@dataclass(frozen=True)
class Cell:
    """The figures of one cell: accuracy on n images with its 95 % interval, and means over them.

    ``size`` is that of the perturbation in the attack's own ``norm``, over images that were right before: attacks leave
    others alone. ``budget`` is what it may be (of a mean over attacks, the share that they use of theirs); ``knows`` is
    what the attacker knew, ``done`` what it did about the purifier (``threat_model.done_about``). ``psnr``, in dB,
    is that of the purified images against the clean ones, over images that were right before. NaN and "" are what is
    not known: earlier versions wrote none of these.
    """

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
    size: float = math.nan
    norm: str = ""
    budget: float = math.nan
    knows: str = ""
    done: str = ""
    psnr: float = math.nan

    @property
    def filled(self) -> float:
        """The share of its budget that the attack uses on average; NaN where that is not known, or there is none."""
        return self.size / self.budget if self.budget > 0 else math.nan

    @property
    def fills(self) -> bool:
        """Whether the attack uses ``FILLED`` of its budget on average, of an L∞ one what whole grey levels can be."""
        # It loads torch, for which tables in files do not wait.
        from raypurify.attacks.budget import whole_levels

        room = self.budget
        if self.norm == "linf" and (levels := whole_levels(self.budget)):
            room = min(room, levels / 255)
        return self.size >= FILLED * room

    @property
    def held(self) -> bool:
        """Whether the attacker's gradient took for a constant what depends on the image, which ``done`` says behind a
        comma."""
        return ", " in self.done

    @property
    def weaker(self) -> bool:
        """Whether the purifier was passed by a surrogate, or in part, where the attacker asked for more."""
        return self.done == "bpda" != self.knows or self.held


def cell_of(name: CellName, columns: dict[str, np.ndarray], seconds: float = math.nan, **about: Any) -> Cell:
    """The figures of a cell from what became of each image, (n,) by column, and its seconds an image; ``about`` are its
    norm and budget, what the attacker knew and what it did.

    The column "before" says which images were right before the attack, and without it all count as such.
    """
    correct = columns["correct"]
    low, high = wilson(int(correct.sum()), len(correct))

    def mean(fact: str) -> float:
        # The dissimilarity of a black image has no bound, and would leave the others no mean.
        values = columns[fact][~np.isinf(columns[fact])] if fact in columns else np.empty(0)
        return float(values.mean()) if values.size else math.nan

    means = mean("dissimilarity"), mean("linf"), mean("flagged")

    def changed(fact: str) -> float:
        values = columns[fact][columns.get("before", ...)] if fact in columns else np.empty(0)
        return float(values.mean()) if values.size else math.nan

    about |= {"size": changed("size"), "psnr": changed("psnr")}
    return Cell(*name, float(correct.mean()), low, high, len(correct), *means, seconds, **about)


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
    """Head and body of a table of accuracies in percent with their intervals, empty where ``find`` gives None.

    Where budgets are known a last row says how much of it each attack uses. An accuracy has a dagger where the attacker
    could do no better than pass the purifier by a surrogate, or in part (:func:`weaker`).
    """
    body, used = [], []
    for row in rows:
        cells = [find(row, column) for column in columns]
        body.append([row, *("" if cell is None else percent(cell) + DAGGER * cell.weaker for cell in cells)])
    for column in columns:
        found = [cell.filled for row in rows if (cell := find(row, column)) and not math.isnan(cell.filled)]
        used.append(_range(min(found), max(found)) if found else "")
    return ["", *columns], [*body, [SIZES, *used]] if any(used) else body


def _range(low: float, high: float) -> str:
    least, most = f"{low:.2f}", f"{high:.2f}"
    return least if least == most else f"{least}–{most}"


def checks_table(rows: Sequence[dict]) -> tuple[list[str], list[list[str]]]:
    """Head and body of a table of the rows of a ``checks.csv``: of each subject how many checks hold, and which do not,
    with their figures."""
    subjects: dict[tuple[str, ...], list[dict]] = {}
    for row in rows:
        subjects.setdefault((row["classifier"], row["purifier"] or "–", row["knows"]), []).append(row)
    body = []
    for subject, found in subjects.items():
        # From a file they are words.
        failed = [row for row in found if str(row["passed"]) != "True"]
        hold = f"{len(found) - len(failed)} of {len(found)}"
        body.append([*subject, hold, "; ".join(f"{row['name']} ({row['figures']})" for row in failed)])
    return ["classifier", "purifier", "attacker knows", "checks that hold", "that do not"], body


def percent(cell: Cell) -> str:
    """The accuracy of a cell in percent with its interval, e.g. ``93.0 (91.5–94.2)``, alone where that is not known."""
    if math.isnan(cell.low):
        return f"{100 * cell.accuracy:.1f}"
    return f"{100 * cell.accuracy:.1f} ({100 * cell.low:.1f}–{100 * cell.high:.1f})"
