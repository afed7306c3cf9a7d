"""A few images of every attack, before and after, for people to look at."""

from collections.abc import Sequence

import numpy as np
import torch

from raypurify.evaluation.attacked import read_attacked
from raypurify.evaluation.batches import GridBatch
from raypurify.evaluation.figures import image_grid
from raypurify.evaluation.grid import CellName
from raypurify.evaluation.plan import GridPlan
from raypurify.evaluation.subjects import Subjects
from raypurify.images import to_pixels


def example_pictures(plan: GridPlan, subjects: Subjects, batch: GridBatch, classes: Sequence[str]) -> dict[str, bytes]:
    """A PNG for each attack, of a few images: clean, attacked, purified, difference, atoms.

    They are the first of the first batch, attacked on the first classifier, purified by the reference or, where it has
    none, its first purifier.
    """
    grid = plan.grid
    count = min(grid.examples, len(batch.ids))
    if not count:
        return {}
    classifier, name = grid.shown
    purifier = subjects.purifier(name)
    clean = torch.from_numpy(batch.pixels[:count]).float() / 255
    titles = [classes[label] if classes else str(label) for label in batch.labels[:count]]
    pictures = {}
    for attack in grid.attacks:
        stored = read_attacked(plan.adversarial(CellName(classifier, attack, name), 0))
        attacked = clean if stored is None else stored[:count]
        purified = purifier.purify(attacked)
        rows = {"clean": clean, "attacked": attacked, "purified": purified.images.cpu()}
        atoms = None
        if hasattr(purifier, "dictionaries"):
            atoms = [purifier.dictionaries[k].cpu().numpy() for k in purified.cluster]
        pixels = {row: [_uint8(image) for image in images] for row, images in rows.items()}
        pictures[attack] = image_grid(titles, pixels, atoms)
    return pictures


def _uint8(image: torch.Tensor) -> np.ndarray:
    return to_pixels(image.numpy()).transpose(2, 0, 1)
