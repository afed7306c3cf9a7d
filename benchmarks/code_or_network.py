"""Whether sparse coding is ahead of a small network that was trained to take noise away, on the same images: of the
committed results of the grids ``cifar10``, ``stl``, ``vgg``, ``imagenette`` and ``imagenette-128``.

    python benchmarks/code_or_network.py

RSFP and STL, as they are shipped and at the settings that the grid has beside, less the row of the denoiser that is
best there on the mean of attacks, which is a choice on test images in the denoiser's favour. The first classifier of
each grid, attacked by one who knows no purifier. A denoiser is far cheaper: ``purifiers.py`` has what each costs.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from where_best import difference

from raypurify.evaluation.bits import BITS, read_bits
from raypurify.evaluation.grid import MEAN, CellName
from raypurify.evaluation.tables import as_markdown

HERE = Path(__file__).parent
# Their bits lie beside.
RESULTS = HERE / "results" / "stl" / "facts.json"
GRIDS = ("cifar10", "stl", "vgg", "imagenette", "imagenette-128")
SYSTEMS, NETWORK = ("RSFP", "STL"), "denoiser"


def main() -> None:
    print(table(json.loads(RESULTS.read_text("utf-8"))))


def table(facts: dict[str, Any]) -> str:
    """Of every grid its rows of the systems less its denoiser, clean and on the mean of attacks, in points."""
    return as_markdown(
        ["grid", "n", "purifier", "less", "clean", MEAN], [row for grid in GRIDS for row in rows_of(grid)]
    )


def rows_of(grid: str) -> list[list[str]]:
    """The rows of a grid, of its first classifier."""
    folder = RESULTS.parents[1] / grid
    columns = read_bits(folder / BITS)
    averaged = json.loads((folder / "facts.json").read_text("utf-8"))["groups"]["averaged"]
    classifier = next(iter(columns)).classifier
    names = [*dict.fromkeys(name.purifier for name in columns if name.classifier == classifier)]

    def right(purifier: str, attacks: list[str]) -> np.ndarray:
        return np.stack([columns[CellName(classifier, attack, purifier)]["correct"] for attack in attacks])

    networks = [name for name in names if name.partition(",")[0] == NETWORK]
    best = max(networks, key=lambda name: right(name, averaged).mean())
    rows = []
    for name in names:
        if name.partition(",")[0] in SYSTEMS:
            apart = [difference(right(name, of), right(best, of)) for of in (["clean"], averaged)]
            shown = [f"{100 * one.value:+.1f} ({100 * one.low:+.1f} to {100 * one.high:+.1f})" for one in apart]
            rows.append([grid, str(right(name, averaged).shape[1]), name, best, *shown])
    return rows


if __name__ == "__main__":
    main()
