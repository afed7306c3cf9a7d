"""What purifiers cost and what they hold: the time an image takes by every purifier of a grid, beside its accuracy.

    python benchmarks/purifiers.py --data DIR [--repeat 3] [--grid equal]
    python benchmarks/purifiers.py --table

DIR holds ``cifar10/test.parquet`` and ``imagenette224/val.parquet``. The purifiers, with their settings, are those of
benchmarks/grids/stl.yaml, the accuracies those of its committed results. All are timed in turn, on whole batches: 64
images of 32², 8 of 224². Times are of one machine: what is to be read is how they stand to each other, and the table
gives them over those of RSFP. ``--table`` draws the same numbers as ``docs/frontier.png``, and as ``docs/quality.png``
what purifiers leave of an image, beside its accuracy. ``--grid`` times those of another grid, of the same images, for
``code_or_network.py``.
"""

import argparse
import json
import statistics
from pathlib import Path

import torch
from csc_signals import CORES, first_images
from processes import machine
from timing import in_turn

from raypurify.evaluation.figures import frontier
from raypurify.evaluation.grid import MEAN, CellName, load_grid
from raypurify.evaluation.groups import Groups
from raypurify.evaluation.quality import quality_section
from raypurify.evaluation.subjects import make_purifier
from raypurify.evaluation.tables import Cell, as_markdown, read_csv

HERE = Path(__file__).parent
RESULTS, CELLS, GRID = HERE / "results" / "purifiers.json", HERE / "results" / "stl" / "cells.csv", "grids/stl.yaml"
PICTURE, QUALITY = (HERE.parent / "docs" / name for name in ("frontier.png", "quality.png"))
REFERENCE = "RSFP"
SETS = {"32²": ("cifar10/test.parquet", 64), "224²": ("imagenette224/val.parquet", 8)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--grid", default="stl")
    parser.add_argument("--table", action="store_true", help="print the table of the results file, draw the picture")
    arguments = parser.parse_args()
    if arguments.table:
        results = json.loads(RESULTS.read_text("utf-8"))
        PICTURE.write_bytes(picture(results))
        QUALITY.write_bytes(quality_picture())
        print(table(results))
        return
    if arguments.data is None:
        parser.error("--data is needed")
    torch.set_num_threads(CORES)
    seconds = measure(HERE / "grids" / f"{arguments.grid}.yaml", arguments.data, arguments.repeat)
    results = {"machine": machine(), "repeat": arguments.repeat, "seconds": seconds}
    of_grid = times_of(arguments.grid)
    of_grid.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
    if of_grid == RESULTS:
        print(table(results))


def times_of(grid: str) -> Path:
    """The file of the times of a grid's purifiers."""
    return RESULTS if grid == "stl" else RESULTS.with_name(f"purifiers-{grid}.json")


def measure(grid: Path, data: Path, repeat: int) -> dict[str, dict[str, float]]:
    """Seconds an image of each purifier of a grid, by the size of the images: medians of ``repeat`` turns."""
    specs = load_grid(grid, str(data)).purifiers
    purifiers = {name: make_purifier(name, spec) for name, spec in specs.items()}
    found: dict[str, dict[str, float]] = {}
    for size, (file, count) in SETS.items():
        images = first_images(data, file, count)
        sides = {name: lambda each=each, images=images: each.purify(images) for name, each in purifiers.items()}
        times = in_turn(sides, repeat)
        found[size] = {name: statistics.median(seconds) / count for name, seconds in times.items()}
        print(size, {name: round(seconds, 5) for name, seconds in found[size].items()}, flush=True)
    return found


def accuracies() -> dict[tuple[str, str], Cell]:
    """The committed cells of the grid, by purifier and attack."""
    return {(cell.purifier, cell.attack): cell for cell in read_csv(CELLS.read_text("utf-8"))}


def table(results: dict) -> str:
    """Costs over RSFP's, and accuracies with 95 % intervals, as Markdown."""
    cells, rows = accuracies(), []
    for name in results["seconds"]["32²"]:
        costs = [seconds[name] / seconds[REFERENCE] for seconds in results["seconds"].values()]
        clean, mean = cells[name, "clean"], cells[name, MEAN]
        shown = [f"{100 * c.accuracy:.1f} ({100 * c.low:.1f}–{100 * c.high:.1f})" for c in (clean, mean)]
        rows.append([name, *(f"{cost:.2g}" for cost in costs), *shown])
    return as_markdown(["purifier", *(f"time at {size}, over {REFERENCE}'s" for size in SETS), "clean", MEAN], rows)


def picture(results: dict) -> bytes:
    """Mean accuracy under attack against the time that an image of 32² takes, as a PNG."""
    cells = accuracies()
    return frontier({name: (s, cells[name, MEAN].accuracy) for name, s in results["seconds"]["32²"].items()})


def quality_picture() -> bytes:
    """PSNR of what the grid's purifiers made of attacked images against accuracy, as a PNG."""
    grid, cells = load_grid(HERE / GRID, "DIR"), read_csv(CELLS.read_text("utf-8"))
    groups = Groups(averaged=json.loads(CELLS.with_name("facts.json").read_text("utf-8"))["groups"]["averaged"])
    named = {CellName(cell.classifier, cell.attack, cell.purifier): cell for cell in cells}
    (section,) = quality_section(grid, groups, named)
    return section.pictures[0][1]


if __name__ == "__main__":
    main()
