"""Accuracy against the strength of attacks, and the settings of attack beside each other, as sections of a report."""

import json
from dataclasses import dataclass

from raypurify.evaluation import figures
from raypurify.evaluation.grid import CellName, Grid
from raypurify.evaluation.render import Section, slug
from raypurify.evaluation.subjects import make_attack
from raypurify.evaluation.tables import Cell, layout

GREY = 255
UNITS = {
    "linf": "L∞ in grey levels",
    "l2": "L2",
    "dissimilarity": "dissimilarity, ‖x′ − x‖₂ / ‖x‖₂",
}


@dataclass(frozen=True)
class Family:
    """One attack at several strengths: ``sizes`` has the names of its attacks with their strengths, in the unit of
    ``norm``, L∞ in grey levels."""

    title: str
    knows: str
    norm: str
    sizes: dict[str, float]


def families(grid: Grid) -> list[Family]:
    """The attacks of a grid that differ in strength alone, together; one alone is a family of its own.

    A step that is the same share of each strength makes no difference.
    """
    found: dict[str, Family] = {}
    for name, spec in grid.attacks.items():
        if (made := make_attack(name, spec)) is None:
            continue
        settings = {key: value for key, value in spec.settings.items() if key not in ("eps", "norm")}
        if made.eps and isinstance(step := settings.get("step_size"), float):
            settings["step_size"] = f"{step / made.eps:.3g} of the strength"
        about = ", ".join(f"{key} {value}" for key, value in settings.items())
        title = f"{spec.attack} ({about})" if about else spec.attack
        said = [one and one.model_dump() for one in (spec.made_on, spec.backward)]
        key = json.dumps([spec.attack, spec.knows, made.norm, settings, spec.expectation, said], sort_keys=True)
        family = found.setdefault(key, Family(title, spec.knows, made.norm, {}))
        family.sizes[name] = made.eps * (GREY if made.norm == "linf" else 1)
    return list(found.values())


def strength_sections(grid: Grid, cells: dict[CellName, Cell]) -> list[Section]:
    """The sections with curves of accuracy against strength: a section for each attack that has several, a picture for
    each classifier; in a grid with scenarios a section for each of these, after their table."""
    several = [family for family in families(grid) if len(set(family.sizes.values())) > 1]
    if grid.scenarios:
        return [scenario_table(grid, cells), *(_scenario(grid, cells, name, several) for name in grid.scenarios)]
    sections = []
    for number, family in enumerate(several):
        pictures = tuple(_curve(grid, cells, view, family, number) for view in grid.views)
        title = f"Accuracy against strength: {family.title}, {family.knows}"
        sections.append(Section(title, (_ABOUT,), None, pictures))
    return sections


_ABOUT = "Bands are 95 % intervals (Wilson); strength 0 is clean images; dotted: what changes nothing."


def _curve(grid: Grid, cells: dict[CellName, Cell], view: str, family: Family, number: int) -> tuple[str, bytes]:
    points = {
        p: [(size, cells[CellName(c, a, p)]) for a, size in _with_clean(grid, family).items()]
        for p, c in grid.views[view].items()
    }
    title = f"{family.title}, {view}; attacker knows: {family.knows}"
    styles = figures.styles_of(grid.purifiers, grid.bare)
    picture = figures.strength_curves(title, UNITS.get(family.norm, family.norm), points, styles)
    return f"curve-{number}-{slug(view)}.png", picture


def _with_clean(grid: Grid, family: Family) -> dict[str, float]:
    clean = [name for name, spec in grid.attacks.items() if spec.attack == "clean"][:1]
    return dict.fromkeys(clean, 0.0) | family.sizes


def scenario_table(grid: Grid, cells: dict[CellName, Cell]) -> Section:
    """The section with all scenarios in one table, after Table II of RegionSparse."""
    rows = {f"{view}: {p}": CellName(c, "", p) for view, seen in grid.views.items() for p, c in seen.items()}
    attacks = list(dict.fromkeys(name.attack for name in cells))
    table = layout(list(rows), attacks, lambda row, attack: cells.get(rows[row]._replace(attack=attack)))
    text = "Accuracy in % with 95 % intervals (Wilson), by scenario and purifier."
    return Section("Settings of attack", (text,), table)


def _scenario(grid: Grid, cells: dict[CellName, Cell], view: str, several: list[Family]) -> Section:
    """One scenario as RegionSparse draws it: a curve for each attack (its figures 5 to 7), then every attack at its
    greatest strength (figure 8)."""
    pictures = [_curve(grid, cells, view, family, number) for number, family in enumerate(several)]
    greatest = [max(family.sizes, key=lambda a: family.sizes[a]) for family in families(grid)]
    rows = {p: [cells[CellName(c, a, p)] for a in greatest] for p, c in grid.views[view].items()}
    if greatest:
        styles = figures.styles_of(grid.purifiers, grid.bare)
        picture = figures.bars(f"{view}, each attack at its greatest strength", greatest, rows, styles)
        pictures.append((f"bars-{slug(view)}.png", picture))
    each = [f"{p} before {_named(grid, c)}" for p, c in grid.views[view].items()]
    return Section(f"Setting of attack: {view}", (f"{'; '.join(each)}.", _ABOUT), None, tuple(pictures))


def _named(grid: Grid, classifier: str) -> str:
    victim = grid.victim(classifier)
    return classifier if victim == classifier else f"{classifier}, attacked as {victim}"
