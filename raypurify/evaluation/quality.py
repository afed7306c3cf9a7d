"""What purifiers cost and what they leave of an image, beside the accuracy that they give: sections of a report."""

import math

import numpy as np

from raypurify.evaluation import figures
from raypurify.evaluation.grid import MEAN, CellName, Grid
from raypurify.evaluation.groups import Groups
from raypurify.evaluation.render import Section, slug
from raypurify.evaluation.tables import Cell


def cost_section(grid: Grid, groups: Groups, cells: dict[CellName, Cell]) -> list[Section]:
    """Mean accuracy under attack against seconds an image; nothing in a grid without attacks."""
    attacked = groups.averaged or [name for name, spec in grid.attacks.items() if spec.attack != "clean"]
    pictures = []
    for view, seen in grid.views.items() if attacked else ():
        points = {
            p: (
                float(np.median([cells[CellName(c, a, p)].seconds for a in grid.attacks])),
                float(np.mean([cells[CellName(c, a, p)].accuracy for a in attacked])),
            )
            for p, c in seen.items()
        }
        pictures.append((f"cost-{slug(view)}.png", figures.frontier(points)))
    return [Section("Accuracy against cost", pictures=tuple(pictures))] if pictures else []


def quality_section(grid: Grid, groups: Groups, cells: dict[CellName, Cell]) -> list[Section]:
    """PSNR of purified images against accuracy (STL, figure 6), with a table; nothing where PSNRs are not known, as in
    results of earlier versions, or without clean images and a gray-box attack."""
    clean = next((name for name, spec in grid.attacks.items() if spec.attack == "clean"), None)
    attacks = groups.averaged or groups.minimal
    known = [(view, p, c) for view, seen in grid.views.items() for p, c in seen.items()]
    if clean is None or not attacks:
        return []
    known = [(view, p, c) for view, p, c in known if not math.isnan(cells[CellName(c, attacks[0], p)].psnr)]
    body: list[list[str]] = []
    points: dict[str, dict[str, tuple[float, float, float]]] = {}
    for view, p, c in known:
        row = [cells[CellName(c, a, p)] for a in (clean, *attacks)]
        ratio, accuracy = (float(np.mean([getattr(one, fact) for one in row[1:]])) for fact in ("psnr", "accuracy"))
        points.setdefault(view, {})[p] = (ratio, accuracy, row[0].accuracy)
        body.append([view, p, *(f"{one.psnr:.1f}" for one in row)])
    of = f"the {MEAN}: {'; '.join(attacks)}" if len(attacks) > 1 else attacks[0]
    text = (
        "Mean PSNR in dB of purified images against the clean ones, over those that were right before the attack; 100 "
        "where nothing changes. That of no purifier says how much the attack changed.",
        f"In the figure a purifier stands at the PSNR of the attacked images that it purified, filled at its accuracy "
        f"on these ({of}), hollow at that on clean ones: the shorter the line the more robust.",
    )
    styles = figures.styles_of(grid.purifiers, grid.bare)
    pictures = tuple(
        (f"quality-{slug(view)}.png", figures.quality(view, found, styles)) for view, found in points.items()
    )
    table = ["", "purifier", clean, *attacks], body
    return [Section("PSNR against accuracy", text, table, pictures)] if body else []
