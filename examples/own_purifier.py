"""A purifier of one's own, evaluated in a grid beside those of raypurify.

    python examples/own_purifier.py [REPORT]

REPORT is the folder of the report, own-purifier by default. Run it again and nothing is computed twice.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor
from torch.nn.functional import avg_pool2d

from raypurify.evaluation.grid import load_grid
from raypurify.evaluation.run import evaluate
from raypurify.purifiers.transform import Transform

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class BoxBlur(Transform):
    """The mean of ``side``×``side`` pixels. Its fields are its settings in a grid; Transform makes it a purifier."""

    side: int = 3

    def transform(self, images: Tensor) -> Tensor:
        return avg_pool2d(images, self.side, stride=1, padding=self.side // 2, count_include_pad=False)


def write_images(file: Path) -> None:
    """An evaluation needs labels: those of the example images are in their names."""
    files = sorted((Path(__file__).resolve().parent / "cifar10/clean").glob("*.png"))
    labels = [CLASSES.index(one.stem.partition("-")[2]) for one in files]
    pq.write_table(pa.table({"image": [one.read_bytes() for one in files], "label": labels}), file)


GRID = {
    "name": "A purifier of one's own",
    "images": {"paths": "{data}/images.parquet"},
    "classifiers": {"robust network": {"kind": "bundle", "path": "cifar10"}},
    "attacks": {"clean": {"attack": "clean"}, "FGSM": {"attack": "fgsm", "norm": "linf", "eps": 8 / 255}},
    "purifiers": {
        "none": {"purifier": "none"},
        "blur": {"purifier": "own_purifier:BoxBlur", "side": 3},
        "RSFP": {"purifier": "rsfp", "bundle": "cifar10"},
    },
    "reference": "RSFP",
}

if __name__ == "__main__":
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "own-purifier").resolve()
    out.mkdir(parents=True, exist_ok=True)
    write_images(out / "images.parquet")
    report = evaluate(load_grid(GRID, data=str(out)), out)
    print((out / "cells.csv").read_text("utf-8"))
    print(f"tables, intervals and pictures: {report}")
