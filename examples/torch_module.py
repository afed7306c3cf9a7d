"""A purifier as a layer of torch: before a classifier, under an attack that knows it, and as a transform of images.

python examples/torch_module.py
"""

import csv
from pathlib import Path

import torch
from torch import Tensor, nn

import raypurify
from raypurify.attacks import PGD
from raypurify.images import decode_image, to_float
from raypurify.modules import PurifierModule

FOLDER = Path(__file__).resolve().parent / "cifar10"
EPS = 8 / 255


def right(model: nn.Module, images: Tensor, labels: Tensor) -> str:
    with torch.no_grad():
        return f"{int((model(images).argmax(1) == labels).sum())} of {len(labels)} right"


if __name__ == "__main__":
    purifier = raypurify.load("cifar10")
    classes = purifier.bundle.manifest.classes
    rows = [row for row in csv.DictReader((FOLDER / "manifest.csv").open()) if row["attack"] == "none"][:6]
    images = torch.stack(
        [torch.from_numpy(to_float(decode_image((FOLDER / r["file"]).read_bytes()).pixels)) for r in rows]
    )
    labels = torch.tensor([classes.index(row["label"]) for row in rows])

    # Any classifier on images in [0, 1] will do; this one is the bundle's own.
    classifier = purifier.network
    attack = PGD(eps=EPS, steps=4)
    for mode in ("none", "bpda", "implicit"):
        whole = nn.Sequential(PurifierModule(purifier, mode), classifier).eval()
        # Without a gradient an attacker is left with that of the classifier alone.
        found = attack(
            classifier if mode == "none" else whole, images, labels, generator=torch.Generator().manual_seed(0)
        )
        print(f"{mode:8s} clean {right(whole, images, labels)}, attacked {right(whole, found, labels)}")

    # One image at a time, of 8 bits, as the transforms of torchvision v2 hand it on.
    pixels = (images[0] * 255).byte()
    print("a transform:", tuple(PurifierModule(purifier, "none")(pixels).shape), pixels.dtype)
