"""``python -m raypurify.training``: train the baseline or the robust network on one machine, without Ray.

Exits with 0 when done, 2 when it cannot be done (one line says why), 130 when interrupted.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from raypurify.config import DataSettings, load_settings
from raypurify.errors import ConfigError, DataError, RaypurifyError
from raypurify.training.data import VALIDATION, ImageSet, read_set
from raypurify.training.order import some_of
from raypurify.training.single import train_here

EXAMPLE = """Example, after the first stages of a fit in runs/a:
python -m raypurify.training --config settings.yaml --images runs/a/prepare --clusters runs/a/clusters
    --baseline runs/a/baseline/network.safetensors --out runs/robust"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and train; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        settings = load_settings(path=options.config, overrides=tuple(options.set))
        side, robust = settings.data.image_size, options.robust or options.clusters is not None
        if options.baseline and not robust:
            raise ConfigError("--baseline is what a robust training starts from: give --clusters or --robust too")
        images = read_set(options.images, side)
        kept = options.held_out or [path for path in options.images if (path / VALIDATION).is_dir()]
        if kept:
            held_out = read_set(kept, side, VALIDATION)
        else:
            images, held_out = _split(images, settings.data, settings.seed)
        train_here(
            options.out,
            images,
            held_out,
            settings,
            robust=robust,
            clusters=options.clusters,
            baseline=options.baseline,
            every=options.every,
        )
    except RaypurifyError as error:
        print(f"raypurify.training: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("raypurify.training: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _split(images: ImageSet, data: DataSettings, seed: int) -> tuple[ImageSet, ImageSet]:
    """A seeded choice of images to train on, at most ``data.limit``, and of ``data.validation`` others."""
    count = data.validation
    if len(images) <= count:
        raise DataError(f"{len(images)} images are too few to hold out {count}: lower data.validation or add images")
    held = some_of(len(images), count, seed)
    rest = np.setdiff1d(np.arange(len(images)), held)
    return images.take(rest[some_of(len(rest), data.limit or len(rest), seed)]), images.take(held)


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m raypurify.training",
        description="Train the baseline network, or the robust one, on one machine; on a GPU where there is one.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, help="settings, the YAML of raypurify fit")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=V", help="one setting; may be repeated")
    parser.add_argument(
        "--images", type=Path, nargs="+", required=True, help="the prepare folder of a fit, Parquet of its form, or NPZ"
    )
    parser.add_argument(
        "--held-out",
        type=Path,
        nargs="+",
        help="images to validate on; default: the folder's own, else a seeded choice",
    )
    parser.add_argument("--out", type=Path, required=True, help="where the network, metrics and checkpoints go")
    parser.add_argument("--clusters", type=Path, help="the clusters folder of a fit: train the robust network")
    parser.add_argument("--robust", action="store_true", help="train a robust network without clusters (alpha: 0)")
    parser.add_argument("--baseline", type=Path, help="the network that robust.init: baseline, or first, starts from")
    parser.add_argument("--every", type=_positive, default=1, metavar="EPOCHS", help="epochs between checkpoints")
    return parser


if __name__ == "__main__":
    sys.exit(main())
