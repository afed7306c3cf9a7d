"""A few images of every attack, before and after, for people to look at."""

from pathlib import Path

import numpy as np
import torch

from raypurify.evaluation.cells import keys_of, read_attacked
from raypurify.evaluation.figures import image_grid
from raypurify.evaluation.grid import Grid
from raypurify.evaluation.images import GridBatch
from raypurify.evaluation.subjects import make_purifier
from raypurify.images import to_pixels


def example_pictures(
    grid: Grid, digests: dict, out: Path, batch: GridBatch, classes: tuple[str, ...]
) -> dict[str, bytes]:
    """For each attack a PNG of the first images: clean, attacked, purified by the reference, difference, atoms."""
    count = min(grid.examples, len(batch.ids))
    purifier = grid.reference or next(iter(grid.purifiers))
    if not count:
        return {}
    defence = make_purifier(purifier, grid.purifiers[purifier])
    classifier = next(iter(grid.classifiers))
    clean = torch.from_numpy(batch.pixels[:count]).float() / 255
    titles = [classes[label] if classes else str(label) for label in batch.labels[:count]]
    pictures = {}
    for attack in grid.attacks:
        keys = keys_of(grid, digests, (classifier, attack, purifier), batch.digest)
        stored = read_attacked(out, keys.adversarial)
        attacked = clean if stored is None else stored[:count]
        done = defence.purify(attacked)
        rows = {"clean": clean, "attacked": attacked, "purified": done.images.cpu()}
        atoms = None
        if hasattr(defence, "dictionaries"):
            atoms = [defence.dictionaries[k].cpu().numpy() for k in done.cluster]
        pixels = {name: [_uint8(image) for image in images] for name, images in rows.items()}
        pictures[attack] = image_grid(titles, pixels, atoms)
    return pictures


def _uint8(image: torch.Tensor) -> np.ndarray:
    return to_pixels(image.numpy()).transpose(2, 0, 1)
