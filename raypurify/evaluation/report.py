"""A grid's figures as a report: tables in the papers' layout, comparisons, checks, pictures; and as CSV."""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from raypurify.evaluation import figures
from raypurify.evaluation.bits import BITS, write_bits
from raypurify.evaluation.cells import read_columns
from raypurify.evaluation.grid import CellName, Grid
from raypurify.evaluation.groups import Columns, Groups, comparisons, groups_of, right_before, taken_together
from raypurify.evaluation.judged import Check
from raypurify.evaluation.paper_comparison import compare_with_papers
from raypurify.evaluation.plan import CheckName, GridPlan
from raypurify.evaluation.quality import cost_section, quality_section
from raypurify.evaluation.render import Section, slug, write_sections
from raypurify.evaluation.strength import strength_sections
from raypurify.evaluation.subjects import make_attack
from raypurify.evaluation.tables import DAGGER, FILLED, Cell, as_csv, cell_of, checks_table, layout
from raypurify.files import write_json
from raypurify.storage import Place
from raypurify.version import __version__

STATEMENT = (
    "Purification solves an optimisation problem for every image it is shown, or draws at random. RobustBench admits "
    "neither defences with an optimisation loop at inference nor randomised ones, because attacks on them are easily "
    "weaker than they could be: read figures of attackers who know the purifier as upper bounds."
)


def write_report(
    plan: GridPlan,
    classes: Sequence[str],
    checks: dict[CheckName, list[Check]],
    examples: dict[str, bytes],
    activations: Sequence[Section] = (),
) -> Place:
    """Write the report of a plan whose cells are all there into its folder; returns the path of ``report.html``.

    ``examples``, PNGs, are by attack; ``activations`` are sections about what a classifier sees.
    """
    grid, out = plan.grid, plan.out
    budgets = {name: (made.norm, made.eps) for name, spec in grid.attacks.items() if (made := make_attack(name, spec))}
    columns: Columns = {}
    cells, ran = {}, {}
    for name, keys in plan.keys.items():
        columns[name], seconds, did = read_columns([plan.cell(name, batch) for batch in range(len(keys))])
        ran[name] = seconds, did
    for name, (seconds, did) in ran.items():
        columns[name]["before"] = right_before(grid, columns, name)
        norm, budget = budgets.get(name.attack, ("", float("nan")))
        about = {"norm": norm, "budget": budget, "knows": grid.attacks[name.attack].knows, "done": did}
        cells[name] = cell_of(name, columns[name], seconds, **about)
    groups = groups_of(grid, cells)
    cells |= taken_together(groups, cells, columns)
    compared = comparisons(groups, columns) if groups.reference else []
    checked = [{**name._asdict(), **asdict(check)} for name, found in checks.items() for check in found]
    (out / "cells.csv").write(as_csv([vars(one) for one in cells.values()]).encode())
    for file, rows in (("comparisons.csv", compared), ("checks.csv", checked)):
        if rows:
            (out / file).write(as_csv(rows).encode())
        else:  # an earlier grid may have left some
            (out / file).delete()
    write_bits(out / BITS, columns)
    facts = {
        "images": len(next(iter(columns.values()))["id"]),
        "seed": grid.seed,
        "raypurify": __version__,
        "digests": plan.digests,
        "attacks": {name: spec.decisive for name, spec in grid.attacks.items()},
        "groups": asdict(groups),
        "budgets": budgets,
    }
    write_json(out / "facts.json", facts)
    sections = [*_accuracy(grid, groups, cells), *_comparison(compared), *compare_with_papers(grid, cells)]
    sections += [*strength_sections(grid, cells), *cost_section(grid, groups, cells)]
    sections += [*quality_section(grid, groups, cells), *activations, *_clusters(grid, columns, classes)]
    sections += _checks(checked)
    if examples:
        pictured = {name: ((f"images-{slug(name)}.png", data),) for name, data in examples.items()}
        sections[1:1] = [Section(f"Images: {name}", pictures=pictures) for name, pictures in pictured.items()]
    return write_sections(out, grid.name, sections)


def _accuracy(grid: Grid, groups: Groups, cells: dict[CellName, Cell]) -> list[Section]:
    attacks = list(dict.fromkeys(attack for _, attack, _ in cells))
    count = next(iter(cells.values())).n
    sections = []
    for classifier in grid.classifiers:

        def find(purifier: str, attack: str, classifier: str = classifier) -> Cell | None:
            return cells.get(CellName(classifier, attack, purifier))

        rows = grid.rows(classifier)
        head, body = layout(rows, attacks, find)
        sizes = [cells[CellName(classifier, a, rows[0])] for a in grid.attacks]
        facts = "; ".join(
            f"{one.attack}: {one.dissimilarity:.3f} / {255 * one.linf:.1f}" for one in sizes if one.dissimilarity
        )
        text = (
            f"Accuracy in % with 95 % intervals (Wilson; normal for means), {count:,} images, the same in every cell.",
            f"Mean dissimilarity and L∞ in grey levels of the attacked images: {facts}." if facts else "",
            *_about_mean(groups),
            *_about_daggers([one for one in cells.values() if one.classifier == classifier]),
            STATEMENT if any(spec.knows != "classifier" for spec in grid.attacks.values()) else "",
        )
        sections.append(Section(f"Accuracy of {classifier}", tuple(filter(None, text)), (head, body)))
    return sections


def _about_mean(groups: Groups) -> list[str]:
    said = [f"The mean is over {'; '.join(groups.averaged)}."] if len(groups.averaged) > 1 else []
    if groups.minimal:
        left = "; ".join(groups.minimal)
        said.append(f"Not in it, as they look for the least change or use less than {FILLED} of their budget: {left}.")
    return said


def _about_daggers(cells: Sequence[Cell]) -> list[str]:
    found: dict[bool, dict[str, None]] = {}
    for one in cells:
        if one.weaker:
            found.setdefault(one.held, {})[f"{one.attack} on {one.purifier}"] = None
    said = {
        False: "The purifier has neither what the attacker asked for nor a gradient: it was passed as in bpda",
        True: "The gradient is not the whole one: it takes the atoms that were refined on the image for constants",
    }
    return [f"{DAGGER} {text} ({', '.join(found[held])})." for held, text in said.items() if held in found]


def _comparison(compared: list[dict]) -> list[Section]:
    if not compared:
        return []
    body = [
        [
            row["classifier"],
            row["attack"],
            row["other"],
            f"{100 * row['value']:+.1f} ({100 * row['low']:+.1f} to {100 * row['high']:+.1f})",
            f"{row['p']:.1e}" if row["p"] else "<1e-300",
        ]
        for row in compared
    ]
    text = (
        f"Accuracy of {compared[0]['reference']} minus that of each other purifier, image by image the same; p by "
        "McNemar's exact test, for means by exchanging the two image by image.",
    )
    return [Section("Compared on the same images", text, (["classifier", "attack", "other", "points", "p"], body))]


def _clusters(grid: Grid, columns: Columns, classes: Sequence[str]) -> list[Section]:
    """Which clusters were chosen, and how far images were from them, for purifiers that have clusters."""
    clean = next((a for a, spec in grid.attacks.items() if spec.attack == "clean"), None)
    others = [a for a in grid.attacks if a != clean]
    c = next(iter(grid.classifiers))
    sections = []
    for p in grid.rows(c):
        if clean is None or not others or np.isnan(columns[CellName(c, clean, p)]["distance"]).any():
            continue
        attacked = {a: columns[CellName(c, a, p)]["distance"] for a in others}
        picture, areas = figures.distances(columns[CellName(c, clean, p)]["distance"], attacked)
        pictures = [(f"distances-{slug(p)}.png", picture)]
        for attack in (clean, others[-1]):
            if (counts := _chosen(columns[CellName(c, attack, p)], classes)) is not None:
                title = f"{attack}: cluster of the right class for {np.trace(counts) / counts.sum():.1%}"
                name = f"clusters-{slug(p)}-{slug(attack)}.png"
                pictures.append((name, figures.confusion(counts, classes, title)))
        text = "Area under the ROC of a flag on the distance: " + ", ".join(f"{a} {v:.3f}" for a, v in areas.items())
        sections.append(Section(f"Clusters of {p}", (text,), pictures=tuple(pictures)))
    return sections


def _chosen(values: dict[str, np.ndarray], classes: Sequence[str]) -> np.ndarray | None:
    """Images by their class and that of their cluster; None where the bundle knows other classes."""
    index = {name: number for number, name in enumerate(classes)}
    if any(name not in index for name in values["cluster_class"]):
        return None
    chosen = [index[name] for name in values["cluster_class"]]
    counts = np.zeros((len(classes), len(classes)), int)
    np.add.at(counts, (values["label"], chosen), 1)  # type: ignore[arg-type]  # NumPy's type knows no tuple of them
    return counts


def _checks(checked: list[dict]) -> list[Section]:
    if not checked:
        return []
    failed = sum(not row["passed"] for row in checked)
    text = f"{len(checked) - failed} of {len(checked)} hold." if failed else "All hold."
    body = [
        [row["classifier"], row["purifier"], row["knows"], row["name"], _held(row), row["figures"]] for row in checked
    ]
    head = ["classifier", "purifier", "attacker knows", "check", "", "figures"]
    return [
        Section("Checks of the attacks", (text,), checks_table(checked)),
        Section("Checks, each with its figures", (), (head, body)),
    ]


def _held(row: dict) -> str:
    return "holds" if row["passed"] else "FAILS"
