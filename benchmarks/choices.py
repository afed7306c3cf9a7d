"""Figure 4 of RSFP: what the choice of the cluster, whose dictionary rewrites an image, is worth.

    python benchmarks/choices.py --data DIR [--images 500] [--steps 100]

DIR holds ``cifar10/test.parquet`` and ``cifar10-resnet/``. The first test images, clean and attacked on a ResNet-56 by
one who does not know the purifier, are purified with the bundle cifar10 and other dictionaries than it would choose.
*own class* is the nearest cluster of the image's true class, which nobody knows who purifies: an oracle, hence not a
setting of the purifier. *another class* is the nearest of all the others: what a wrong choice costs.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from one_dictionary import ATOMS
from torch import Tensor

import raypurify
from raypurify.attacks import BIM, FGSM
from raypurify.attacks.budget import size
from raypurify.evaluation.intervals import paired, wilson
from raypurify.evaluation.tables import as_markdown
from raypurify.images import decode_image, to_float
from raypurify.nets.cifar_resnet import load_cifar_resnet
from raypurify.purifiers import RSFP, load_global_rsfp

RESULTS = Path(__file__).parent / "results" / "choices.json"
WEIGHTS = "cifar10-resnet/resnet56-4bfd9763.th"
EPS, BATCH = 0.04, 250
REFERENCE, ONE = "nearest", "one dictionary"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--steps", type=int, default=100, help="of BIM")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    results = study(arguments.data, arguments.images, arguments.steps)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    print(table(results))


def study(data: Path, count: int, steps: int) -> dict:
    """Which images each choice leaves right, under each attack, as figures with their intervals."""
    purifier = raypurify.load("cifar10", "cuda" if torch.cuda.is_available() else "cpu")
    one = load_global_rsfp(ATOMS, **purifier.settings.csc.model_dump())
    network = load_cifar_resnet(data / WEIGHTS).to(purifier.device)
    images, labels = (part.to(purifier.device) for part in first_images(data / "cifar10" / "test.parquet", count))
    right: dict[str, dict[str, list[bool]]] = {}
    sizes, own = {}, {}
    # A step of a tenth of the budget or more: where there are few, they still fill it.
    attacks = {
        "clean": None,
        "FGSM-0.04": FGSM(EPS, "dissimilarity"),
        f"BIM of {steps} steps": BIM(EPS, "dissimilarity", steps, step_size=max(2.5 / steps, 0.1) * EPS),
    }
    for name, attack in attacks.items():
        hits, size_of, of_own = right.setdefault(name, {}), [], []
        generator = torch.Generator().manual_seed(0)
        for x, y in zip(images.split(BATCH), labels.split(BATCH)):
            shown = x if attack is None else rounded(attack(network, x, y))
            size_of.append(size(shown - x, x, "dissimilarity"))
            chosen = choices(purifier, shown, y, generator)
            of_own.append(chosen[REFERENCE] == chosen["own class"])
            purify: dict[str, Callable] = {"none": lambda images: images, ONE: lambda images: one.purify(images).images}
            for choice, cluster in chosen.items():
                purify[choice] = lambda images, cluster=cluster: purifier.purify(images, cluster=cluster).images
            with torch.no_grad():
                for choice, rewritten in purify.items():
                    found = network(rounded(rewritten(shown))).argmax(1) == y
                    hits.setdefault(choice, []).extend(found.tolist())
        sizes[name], own[name] = (round(float(torch.cat(part).float().mean()), 4) for part in (size_of, of_own))
        print(name, {choice: sum(found) / count for choice, found in hits.items()}, flush=True)
    return {
        "command": f"python benchmarks/choices.py --data DIR --images {count} --steps {steps}",
        "images": count,
        "bundle": purifier.digest,
        "dissimilarity": sizes,
        "nearest_is_of_own_class": own,
        "cells": {name: figures(hits) for name, hits in right.items()},
    }


def choices(purifier: RSFP, images: Tensor, labels: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """The cluster (n,) of each image by every rule."""
    distance = purifier.distributions.distance(purifier.latents(images))
    classes = torch.tensor(purifier.bundle.manifest.cluster_class, device=distance.device)
    own = classes == labels[:, None]
    random = torch.randint(len(classes), (len(images),), generator=generator)
    return {
        "own class": distance.masked_fill(~own, torch.inf).argmin(1),
        REFERENCE: distance.argmin(1),
        "another class": distance.masked_fill(own, torch.inf).argmin(1),
        "random": random.to(distance.device),
        "farthest": distance.argmax(1),
    }


def first_images(file: Path, count: int) -> tuple[Tensor, Tensor]:
    rows = pq.read_table(file)[:count]
    pixels = [to_float(decode_image(one).pixels) for one in rows["image"].to_pylist()]
    return torch.from_numpy(np.stack(pixels)), torch.tensor(rows["label"].to_pylist())


def rounded(images: Tensor) -> Tensor:
    """To 8 bits, as files are."""
    return (images * 255).round() / 255


def figures(hits: dict[str, list[bool]]) -> dict[str, dict]:
    """Accuracy of each choice, and its difference from the purifier's own."""
    reference = np.array(hits[REFERENCE])
    cells = {}
    for choice, found in hits.items():
        low, high = wilson(sum(found), len(found))
        cells[choice] = {"accuracy": sum(found) / len(found), "low": round(low, 4), "high": round(high, 4)}
        if choice not in (REFERENCE, "none"):
            gap = paired(np.array(found), reference)
            cells[choice]["minus_nearest"] = {key: round(value, 4) for key, value in vars(gap).items()}
    return cells


def table(results: dict) -> str:
    """Accuracy by choice and attack as Markdown, beside the difference from the nearest."""
    attacks = list(results["cells"])
    head = ["dictionary of", *attacks, *(f"{name}, minus nearest" for name in attacks)]
    body = []
    for choice in ("none", "own class", REFERENCE, "another class", "random", "farthest", ONE):
        cells = [results["cells"][name][choice] for name in attacks]
        shown = [f"{100 * c['accuracy']:.1f} ({100 * c['low']:.1f}–{100 * c['high']:.1f})" for c in cells]
        gaps = [c.get("minus_nearest") for c in cells]
        shown += [
            f"{100 * g['value']:+.1f} ({100 * g['low']:+.1f} to {100 * g['high']:+.1f})" if g else "" for g in gaps
        ]
        body.append([choice, *shown])
    return as_markdown(head, body)


if __name__ == "__main__":
    main()
