"""Whether sparse coding is ahead of a network that was trained to take noise away, on the same images: of the committed
results of the grids ``cifar10``, ``stl``, ``vgg``, ``imagenette``, ``imagenette-128`` and ``equal``.

    python benchmarks/code_or_network.py

RSFP and STL, as they are shipped and at the settings that the grid has beside, less the row of each denoiser that is
best there on the mean of attacks, which is a choice on test images in the denoiser's favour. The first classifier of
each grid, attacked by one who knows no purifier. How many times as long as that row a row takes, of images of 32², is
what ``purifiers.py`` measured of the grids ``stl`` and ``equal``.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from purifiers import times_of
from where_best import difference

from raypurify.evaluation.bits import BITS, read_bits
from raypurify.evaluation.grid import MEAN, CellName
from raypurify.evaluation.tables import as_markdown

HERE = Path(__file__).parent
# Their bits lie beside.
RESULTS = HERE / "results" / "stl" / "facts.json"
GRIDS = ("cifar10", "stl", "vgg", "imagenette", "imagenette-128", "equal")
TIMED = ("stl", "equal")
SYSTEMS, NETWORK = ("RSFP", "STL"), "denoiser"


def main() -> None:
    print(table(json.loads(RESULTS.read_text("utf-8"))))


def table(facts: dict[str, Any]) -> str:
    """Of every grid its rows of the systems less its denoisers, clean and on the mean of attacks, in points."""
    return as_markdown(
        ["grid", "n", "purifier", "less", "clean", MEAN, "times as long at 32²"],
        [row for grid in GRIDS for row in rows_of(grid)],
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

    times = json.loads(times_of(grid).read_text("utf-8"))["seconds"]["32²"] if grid in TIMED else {}
    families: dict[str, list[str]] = {}
    for name in names:
        if name.startswith(NETWORK):
            families.setdefault(name.partition(",")[0], []).append(name)
    best = [max(some, key=lambda name: right(name, averaged).mean()) for some in families.values()]
    rows = []
    for name in names:
        if name.partition(",")[0] in SYSTEMS:
            for network in best:
                apart = [difference(right(name, of), right(network, of)) for of in (["clean"], averaged)]
                shown = [f"{100 * one.value:+.1f} ({100 * one.low:+.1f} to {100 * one.high:+.1f})" for one in apart]
                longer = f"{times[name] / times[network]:.2g}" if times else ""
                rows.append([grid, str(right(name, averaged).shape[1]), name, network, *shown, longer])
    return rows


if __name__ == "__main__":
    main()
