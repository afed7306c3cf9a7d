"""A grid's figures as a report: tables in the papers' layout, comparisons, checks, pictures; and as CSV."""

import json
from collections.abc import Sequence

import numpy as np

from raypurify.evaluation import figures
from raypurify.evaluation.cells import read_columns
from raypurify.evaluation.grid import CellName, Grid
from raypurify.evaluation.paper_comparison import compare_with_papers
from raypurify.evaluation.plan import GridPlan
from raypurify.evaluation.render import Section, write_sections
from raypurify.evaluation.sanity import Check
from raypurify.evaluation.tables import Cell, as_csv, cell_of, comparisons, layout, means, worst_cases
from raypurify.files import write_json
from raypurify.storage import Place
from raypurify.version import __version__

STATEMENT = (
    "Purification solves an optimisation problem for every image it is shown. RobustBench does not admit defences with "
    "an optimisation loop at inference, because attacks on them are easily weaker than they could be: read figures of "
    "attackers who know the purifier as upper bounds."
)

Columns = dict[CellName, dict[str, np.ndarray]]


def write_report(
    plan: GridPlan, classes: Sequence[str], checks: dict[str, list[Check]], examples: dict[str, bytes]
) -> Place:
    """Write the report of a plan whose cells are all there into its folder; returns the path of ``report.html``.

    ``checks`` are by classifier, ``examples``, PNGs, by attack.
    """
    grid, out = plan.grid, plan.out
    columns, cells = {}, {}
    for name, keys in plan.keys.items():
        columns[name], seconds = read_columns([plan.cell(name, batch) for batch in range(len(keys))])
        cells[name] = cell_of(name, columns[name], seconds)
    correct = {name: values["correct"] for name, values in columns.items()}
    cells |= means(grid, cells, correct)
    for name, held in worst_cases(grid, correct).items():
        # Of several attacks together there is no one size, share of flags or time.
        unknown = dict.fromkeys(("dissimilarity", "linf", "flagged"), np.array([np.nan]))
        cells[name] = cell_of(name, {"correct": held, **unknown}, float("nan"))
    compared = comparisons(grid, correct) if grid.reference else []
    (out / "cells.csv").write(as_csv([vars(one) for one in cells.values()]).encode())
    if compared:
        (out / "comparisons.csv").write(as_csv(compared).encode())
    facts = {
        "images": len(next(iter(correct.values()))),
        "seed": grid.seed,
        "raypurify": __version__,
        "digests": plan.digests,
    }
    write_json(out / "facts.json", facts)
    sections = [*_accuracy(grid, cells), *_comparison(compared), *compare_with_papers(grid, cells)]
    sections += [*_curves(grid, cells), *_cost(grid, cells), *_clusters(grid, columns, classes), *_checks(checks)]
    if examples:
        pictures = tuple((f"images-{_slug(name)}.png", data) for name, data in examples.items())
        sections.insert(1, Section("Images", (f"Attack by attack: {', '.join(examples)}.",), pictures=pictures))
    return write_sections(out, grid.name, sections)


def _accuracy(grid: Grid, cells: dict[CellName, Cell]) -> list[Section]:
    attacks = list(dict.fromkeys(attack for _, attack, _ in cells))
    count = next(iter(cells.values())).n
    sections = []
    for classifier in grid.classifiers:

        def find(purifier: str, attack: str, classifier: str = classifier) -> Cell | None:
            return cells.get(CellName(classifier, attack, purifier))

        head, body = layout(list(grid.purifiers), attacks, find)
        sizes = [cells[CellName(classifier, a, p)] for a in grid.attacks for p in list(grid.purifiers)[:1]]
        facts = "; ".join(
            f"{one.attack}: {one.dissimilarity:.3f} / {255 * one.linf:.1f}" for one in sizes if one.dissimilarity
        )
        text = (
            f"Accuracy in % with 95 % intervals (Wilson), {count:,} images, the same in every cell.",
            f"Mean dissimilarity and L∞ in grey levels of the attacked images: {facts}." if facts else "",
            STATEMENT if any(spec.knows != "classifier" for spec in grid.attacks.values()) else "",
        )
        sections.append(Section(f"Accuracy of {classifier}", tuple(filter(None, text)), (head, body)))
    return sections


def _comparison(compared: list[dict]) -> list[Section]:
    if not compared:
        return []
    body = [
        [
            row["classifier"],
            row["attack"],
            row["other"],
            f"{100 * row['value']:+.1f} ({100 * row['low']:+.1f} to {100 * row['high']:+.1f})",
            f"{row['p']:.1e}",
        ]
        for row in compared
    ]
    text = (
        f"Accuracy of {compared[0]['reference']} minus that of each other purifier, image by image the same; p by "
        "McNemar's exact test, for means by the normal one.",
    )
    return [Section("Compared on the same images", text, (["classifier", "attack", "other", "points", "p"], body))]


def _curves(grid: Grid, cells: dict[CellName, Cell]) -> list[Section]:
    families: dict[tuple, dict[str, float]] = {}
    for name, spec in grid.attacks.items():
        settings = spec.settings
        if (eps := settings.pop("eps", None)) is not None:
            key = (spec.attack, spec.knows, json.dumps(settings, sort_keys=True))
            families.setdefault(key, {})[name] = eps
    sections: list[Section] = []
    for (attack, knows, _), sizes in families.items():
        if len(sizes) < 2:
            continue
        pictures = []
        for c in grid.classifiers:
            clean = next((a for a, spec in grid.attacks.items() if spec.attack == "clean"), None)
            points = {
                p: [(eps, cells[CellName(c, a, p)]) for a, eps in sizes.items()]
                + ([(0.0, cells[CellName(c, clean, p)])] if clean else [])
                for p in grid.purifiers
            }
            name = f"curve-{len(sections)}-{_slug(c)}.png"
            pictures.append((name, figures.eps_curves(f"{attack} on {c}, attacker knows: {knows}", points)))
        sections.append(Section(f"Accuracy against size: {attack}, {knows}", pictures=tuple(pictures)))
    return sections


def _cost(grid: Grid, cells: dict[CellName, Cell]) -> list[Section]:
    attacked = [name for name, spec in grid.attacks.items() if spec.attack != "clean"]
    pictures = []
    for c in grid.classifiers if attacked else ():
        points = {
            p: (
                float(np.median([cells[CellName(c, a, p)].seconds for a in grid.attacks])),
                float(np.mean([cells[CellName(c, a, p)].accuracy for a in attacked])),
            )
            for p in grid.purifiers
        }
        pictures.append((f"cost-{_slug(c)}.png", figures.frontier(points)))
    return [Section("Accuracy against cost", pictures=tuple(pictures))] if pictures else []


def _clusters(grid: Grid, columns: Columns, classes: Sequence[str]) -> list[Section]:
    """Which clusters were chosen, and how far images were from them, for purifiers that have clusters."""
    clean = next((a for a, spec in grid.attacks.items() if spec.attack == "clean"), None)
    others = [a for a in grid.attacks if a != clean]
    c = next(iter(grid.classifiers))
    sections = []
    for p in grid.purifiers:
        if clean is None or not others or np.isnan(columns[CellName(c, clean, p)]["distance"]).any():
            continue
        attacked = {a: columns[CellName(c, a, p)]["distance"] for a in others}
        picture, areas = figures.distances(columns[CellName(c, clean, p)]["distance"], attacked)
        pictures = [(f"distances-{_slug(p)}.png", picture)]
        for attack in (clean, others[-1]):
            if (counts := _chosen(columns[CellName(c, attack, p)], classes)) is not None:
                title = f"{attack}: cluster of the right class for {np.trace(counts) / counts.sum():.1%}"
                name = f"clusters-{_slug(p)}-{_slug(attack)}.png"
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


def _checks(checks: dict[str, list[Check]]) -> list[Section]:
    if not checks:
        return []
    body = [
        [subject, check.name, "holds" if check.passed else "FAILS", check.figures]
        for subject, found in checks.items()
        for check in found
    ]
    failed = sum(not check.passed for found in checks.values() for check in found)
    text = f"{len(body) - failed} of {len(body)} hold." if failed else "All hold."
    return [Section("Checks of the attacks", (text,), (["classifier", "check", "", "figures"], body))]


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
