"""Attack a classifier, purify what the attack made, and count how often the classifier is right.

    python examples/attack_and_purify.py

The classifier is the bundle's own robust network: the example needs no other weights. It was trained to withstand such
attacks, so there is less for a purifier to give back than before an ordinary classifier; for that, see the README.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

import raypurify
from raypurify.attacks import PGD
from raypurify.evaluation.intervals import wilson

files = sorted((Path(__file__).resolve().parent / "cifar10/clean").glob("*.png"))
images = torch.stack([torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255 for file in files])

purifier = raypurify.load("cifar10")
classifier = purifier.network  # any function of images (N, 3, H, W) in [0, 1] that returns logits
classes = purifier.bundle.manifest.classes
labels = torch.tensor([classes.index(file.stem.partition("-")[2]) for file in files])

# This attacker knows the classifier, but not that images are purified before it (gray-box). Attackers who know the
# purifier too are in raypurify.attacks.adaptive, and they break it: docs/results.md has the figures.
attack = PGD(eps=8 / 255, norm="linf", steps=4)
attacked = attack(classifier, images, labels, generator=torch.Generator().manual_seed(0))


def report(name: str, shown: torch.Tensor) -> None:
    with torch.no_grad():
        right = int((classifier(shown).argmax(1) == labels).sum())
    low, high = wilson(right, len(labels))
    print(f"{name:<22}{right:3d} of {len(labels)} right (95 % interval {low:.0%} to {high:.0%})")


report("clean", images)
report("clean, purified", purifier.purify(images).images)
report("attacked", attacked)
report("attacked, purified", purifier.purify(attacked).images)
print(f"{len(labels)} images make a demonstration, not an evaluation: the intervals say how little they tell.")
