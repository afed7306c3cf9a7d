"""A purifier as a defence in the Adversarial Robustness Toolbox, and an attack of that on the whole.

pip install 'raypurify[art]'
python examples/art_defence.py
"""

import csv
from pathlib import Path

import numpy as np
from art.attacks.evasion import ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from torch import nn

import raypurify
from raypurify.art import PurifierPreprocessor
from raypurify.images import decode_image

FOLDER = Path(__file__).resolve().parent / "cifar10"

if __name__ == "__main__":
    purifier = raypurify.load("cifar10")
    classes = purifier.bundle.manifest.classes
    rows = [row for row in csv.DictReader((FOLDER / "manifest.csv").open()) if row["attack"] == "none"][:6]
    pixels = np.stack([decode_image((FOLDER / row["file"]).read_bytes()).pixels for row in rows])
    images = pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255
    labels = np.array([classes.index(row["label"]) for row in rows])

    def classifier(**defence: PurifierPreprocessor) -> PyTorchClassifier:
        return PyTorchClassifier(
            purifier.network,
            loss=nn.CrossEntropyLoss(),
            input_shape=(3, 32, 32),
            nb_classes=len(classes),
            clip_values=(0, 1),
            **defence,
        )

    def right(images: np.ndarray) -> str:
        return f"{int((defended.predict(images).argmax(1) == labels).sum())} of {len(labels)} right"

    bare = classifier()
    # Attacks on this one see the purifier as the identity (BPDA); mode="implicit" lets them look through it.
    defended = classifier(preprocessing_defences=PurifierPreprocessor(purifier))
    print("clean:", right(images))
    for name, seen in (("that does not know the purifier", bare), ("that knows it", defended)):
        attack = ProjectedGradientDescent(seen, norm=np.inf, eps=8 / 255, eps_step=4 / 255, max_iter=4, verbose=False)
        print(f"under an attack {name}:", right(attack.generate(images, labels)))
