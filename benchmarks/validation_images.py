"""The held-out images of a fit as a Parquet file: what settings are chosen on.

    python benchmarks/validation_images.py --data DIR --out validation.parquet [--count 400]
    raypurify evaluate benchmarks/grids/sweep.yaml --data DIR --set images.paths=validation.parquet --out OUT
    python benchmarks/validation_images.py --data DIR --preset imagenet10 --out imagenette-validation.parquet

Of the rows of DIR's ``cifar10/train-*.parquet``, or ``imagenette224/train.parquet``, that the preset holds out,
``--count`` by seed.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raypurify.config import load_settings
from raypurify.fit.prepare import choose_split

IMAGES = {"cifar10": "cifar10/train-*.parquet", "imagenet10": "imagenette224/train.parquet"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", choices=IMAGES, default="cifar10")
    parser.add_argument("--count", type=int, default=400)
    arguments = parser.parse_args()
    files = sorted(arguments.data.glob(IMAGES[arguments.preset]))
    table = pa.concat_tables(map(pq.read_table, files))
    pq.write_table(table.take(held_out(len(table), arguments.count, arguments.preset)), arguments.out)


def held_out(rows: int, count: int, preset: str = "cifar10") -> np.ndarray:
    """``count`` of the held-out rows, ascending."""
    settings = load_settings(preset=preset)
    split = choose_split(rows, settings.data, settings.seed)
    return np.sort(np.random.default_rng(settings.seed).permutation(np.flatnonzero(split == 2))[:count])


if __name__ == "__main__":
    main()
