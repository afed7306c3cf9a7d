"""Purify a batch of images in memory, and read what was done to each of them.

python examples/purify_tensors.py
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

import raypurify

FOLDER = Path(__file__).resolve().parent / "cifar10"

# A purifier takes what a classifier takes: float tensors (N, 3, H, W) in [0, 1], all of one size, of any size from
# 8×8 up. Purify before any normalisation by mean and standard deviation.
files = [FOLDER / kind / name for name in ("0000-cat.png", "0004-frog.png") for kind in ("clean", "attacked")]
images = torch.stack([torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255 for file in files])

purifier = raypurify.load("cifar10")  # a shipped bundle, a folder or a URI; device="cuda" for a GPU
done = purifier.purify(images)

for i, file in enumerate(files):
    cluster = int(done.cluster[i])
    print(
        f"{file.parent.name:>8}/{file.name:<14} cluster {cluster:2d} ({purifier.classes_of_cluster[cluster]}), "
        f"distance {done.distance[i]:5.2f}{' flagged' if done.flagged[i] else ''}, "
        f"changed by {done.relative_change[i]:.1%}, {int(done.iterations[i])} iterations"
    )
print(f"{tuple(done.images.shape)} {done.images.dtype}, values from {done.images.min():.2f} to {done.images.max():.2f}")
