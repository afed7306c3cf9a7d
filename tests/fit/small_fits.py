"""What tests of whole fits look at: reports of stages, the images of a run, and the flag of its bundle."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import raypurify
from raypurify.runtime.stages import MARKER
from raypurify.training.data import TRAIN, VALIDATION, read_part, read_pixels


def report(run: Path, stage: str) -> dict:
    return json.loads((run / stage / MARKER).read_text())["report"]


def chosen_images(run: Path, side: int, count: int, seed: int) -> tuple[Tensor, np.ndarray]:
    """The training images (count, 3, side, side) that a dictionary of patches is learned from, and their rows."""
    table = read_part(run / "prepare", TRAIN)
    rows = table["row"].to_numpy()
    chosen = np.sort(np.random.default_rng((seed,)).permutation(rows)[:count])
    return torch.from_numpy(read_pixels(table, side)[np.isin(rows, chosen)].copy()).float() / 255, chosen


def check_flag(run: Path, side: int) -> None:
    """The flag of the bundle is calibrated on the distances that ``purify`` gives."""
    purifier = raypurify.load(str(run / "bundle"))
    held_out = torch.from_numpy(read_pixels(read_part(run / "prepare", VALIDATION), side).copy()).float() / 255
    flag = purifier.bundle.manifest.calibration
    distance = purifier.purify(held_out).distance
    assert float(torch.quantile(distance, flag.quantile)) == pytest.approx(flag.distance_threshold, rel=1e-4)
