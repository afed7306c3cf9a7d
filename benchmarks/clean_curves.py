"""The curves of clean distances of the shipped bundles, measured again on the validation images of their fits.

    python benchmarks/clean_curves.py --data DIR [--write]

For bundles that were fitted before ``fit`` kept the curve. DIR holds ``cifar10/train-*.parquet`` and
``imagenette224/train.parquet``. The images are prepared and held out as that fit did, and a curve is taken only where
accuracies, mean distance and threshold come out as the manifest says. ``--write`` puts it into the manifest, whose
digest, which is the bundle's, becomes another.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from validation_images import IMAGES

import raypurify
from raypurify.bundle import Calibration, shipped_bundles
from raypurify.bundle.manifest import MANIFEST
from raypurify.config import Settings
from raypurify.containers.source import open_source, read_shard
from raypurify.fit.calibrate import BATCH
from raypurify.fit.prepare import choose_split, resized
from raypurify.images import decode_image
from raypurify.training.batch import Batch
from raypurify.training.calibration import measure_clean

# The mean is rounded to three decimals; other devices round distances and close decisions otherwise.
CLOSE = {"distance_mean": 1e-3, "robust": 5e-4, "cluster_class": 5e-4}
CLOSE_THRESHOLD = 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    for name in shipped_bundles():
        calibration = measured_again(name, arguments.data)
        if calibration and arguments.write:
            write(name, calibration)


def measured_again(name: str, data: Path) -> Calibration | None:
    """The calibration of a shipped bundle by its own validation images; None where it is not the manifest's."""
    purifier = raypurify.load(name)
    manifest, settings = purifier.bundle.manifest, purifier.bundle.settings
    images = held_out(str(data / IMAGES[name]), settings)
    # A bundle holds no baseline; what is said of one is not asked for.
    calibration, found = measure_clean(
        purifier, lambda images: images[:, :, 0, 0], images, manifest.calibration.quantile, lambda count: None
    )
    was, before = manifest.measured["clean"], manifest.calibration
    apart = {key: abs(found[key] - was[key]) for key in CLOSE}
    away = abs(calibration.distance_threshold / before.distance_threshold - 1)
    print(f"{name}: {found}, apart by {apart}; threshold {calibration.distance_threshold}, apart by {away:.1e}")
    same = calibration.images == before.images and away <= CLOSE_THRESHOLD
    if not same or any(apart[key] > most for key, most in CLOSE.items()):
        print(f"{name}: these are not the images of its fit, or not its network; it gets no curve")
        return None
    return calibration


def held_out(uri: str, settings: Settings) -> Iterator[Batch]:
    """The validation images of a fit, in the order of their rows, as its prepare stage makes them."""
    source, pixels, labels = open_source(uri), [], []
    split = choose_split(source.rows, settings.data, settings.seed)
    for shard in source.shards:
        for row in read_shard(shard):
            if split[row.row] == 2:
                pixels.append(resized(decode_image(row.data).pixels, settings.data.image_size))
                labels.append(row.label)
    for start in range(0, len(labels), BATCH):
        part = slice(start, start + BATCH)
        yield Batch(torch.from_numpy(np.stack(pixels[part])), torch.tensor(labels[part]))


def write(name: str, calibration: Calibration) -> None:
    """Put a curve into the manifest of a shipped bundle, and change nothing else of it."""
    file = Path(raypurify.__file__).parent / "bundles" / name / MANIFEST
    text = file.read_text("utf-8")
    tree = json.loads(text)
    assert dumped(tree) == text.rstrip("\n"), f"{file} is written otherwise than here"
    tree["calibration"]["quantiles"] = list(calibration.quantiles)
    file.write_text(dumped(tree), "utf-8")


def dumped(tree: dict) -> str:
    return json.dumps(tree, indent=1, ensure_ascii=False)


if __name__ == "__main__":
    main()
