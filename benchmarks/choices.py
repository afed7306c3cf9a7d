"""Figure 4 of RSFP: what the choice of the cluster, whose dictionary rewrites an image, is worth.

    raypurify evaluate benchmarks/grids/table2.yaml --data DIR --out OUT
    python benchmarks/choices.py --data DIR --report OUT [--images 500]

DIR holds ``cifar10/test.parquet`` and ``cifar10-resnet/``. The first images of that grid, clean and as it attacked them
on a ResNet-56, by one who does not know the purifier, are purified with the bundle cifar10 and other dictionaries than
it would choose. *own class* is the nearest cluster of the image's true class, which nobody knows who purifies: an
oracle, hence not a setting of the purifier. *another class* is the nearest of all the others: what a wrong choice
costs. An attack that is done is a file in OUT/choices, which the same command on the same images does not do again.
"""

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from one_dictionary import ATOMS
from torch import Tensor

import raypurify
from raypurify.attacks.budget import eight_bit, size
from raypurify.evaluation.attacked import read_attacked
from raypurify.evaluation.batches import GridBatch, read_grid_batches
from raypurify.evaluation.code import code_digest
from raypurify.evaluation.grid import CellName, load_grid
from raypurify.evaluation.intervals import paired, wilson
from raypurify.evaluation.plan import GridPlan, make_plan
from raypurify.evaluation.subjects import Subjects, predict
from raypurify.evaluation.tables import as_markdown
from raypurify.files import fingerprint, read_json, write_json
from raypurify.purifiers import RSFP, load_global_rsfp
from raypurify.storage import resolve

RESULTS = Path(__file__).parent / "results" / "choices.json"
GRID, CLASSIFIER = Path(__file__).parent / "grids" / "table2.yaml", "ResNet-56"
REFERENCE, ONE = "nearest", "one dictionary"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--report", required=True, help="where the grid was evaluated")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.images < 1:
        parser.error("give one image or more with --images")
    results = study(arguments.data, arguments.report, arguments.images)
    arguments.results.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    print(table(results))


def study(data: str, report: str, count: int) -> dict:
    """The accuracy that each choice leaves under each attack, with intervals."""
    grid, out = load_grid(GRID, data), resolve(report)
    batches, _ = read_grid_batches(grid.images, grid.batch)
    some = first_of(batches, count)
    plan, subjects = make_plan(grid, out, batches), Subjects(grid, "cuda" if torch.cuda.is_available() else "cpu")
    found = {}
    for attack in grid.attacks:
        file = out / "choices" / f"{attack} {key(plan, attack, some)[:16]}.json"
        if found.setdefault(attack, read_json(file)) is None:
            found[attack] = under(plan, subjects, attack, some)
            write_json(file, found[attack])
        print(attack, {choice: cell["accuracy"] for choice, cell in found[attack]["cells"].items()}, flush=True)
    return {
        "command": f"python benchmarks/choices.py --data DIR --report OUT --images {count}",
        "images": count,
        "digests": plan.digests,
        "attacks": found,
    }


def first_of(batches: Sequence[GridBatch], count: int) -> list[GridBatch]:
    """The first so many images, in the batches that they are of. Ends the program where there are fewer."""
    there = sum(len(batch.labels) for batch in batches)
    if count > there:
        raise SystemExit(f"the grid has {there} images: give --images {there} or less")
    some, left = [], count
    for batch in batches:
        if left > 0:
            some.append(replace(batch, ids=batch.ids[:left], labels=batch.labels[:left], pixels=batch.pixels[:left]))
        left -= len(batch.labels)
    return some


def key(plan: GridPlan, attack: str, some: Sequence[GridBatch]) -> str:
    """What decides the figures of an attack: the attacked images, how many of them, and what purifies them."""
    cells = plan.keys[CellName(CLASSIFIER, attack, "RSFP")]
    images = [batch.digest for batch in some]
    one = hashlib.sha256(ATOMS.read_bytes()).hexdigest()
    return fingerprint(cells, images, one, code_digest("raypurify.purifiers"))


def under(plan: GridPlan, subjects: Subjects, attack: str, batches: Sequence[GridBatch]) -> dict:
    """One attack: the cells of all choices, its mean size, and how often the nearest cluster is the oracle's."""
    purifier = raypurify.load("cifar10", subjects.device)
    one = load_global_rsfp(ATOMS, **purifier.settings.csc.model_dump())
    network, generator = subjects.classifier(CLASSIFIER), torch.Generator().manual_seed(0)
    hits: dict[str, list[bool]] = {}
    sizes, of_own = [], []
    for number, batch in enumerate(batches):
        clean = torch.from_numpy(batch.pixels).to(subjects.device).float() / 255
        labels, attacked = torch.from_numpy(batch.labels).to(subjects.device), clean
        if plan.grid.attacks[attack].attack != "clean":
            attacked = read_attacked(plan.adversarial(CellName(CLASSIFIER, attack, "none"), number))
            assert attacked is not None, f"evaluate {GRID} first"
            attacked = attacked[: len(labels)].to(subjects.device)
        # The network sees an image once, not once for every choice.
        latents = RSFP.latents(purifier, attacked)
        purifier.latents = lambda _, latents=latents: latents
        chosen = choices(purifier, latents, labels, generator)
        purified = {"none": attacked, ONE: one.purify(attacked).images}
        purified |= {choice: purifier.purify(attacked, cluster=cluster).images for choice, cluster in chosen.items()}
        for choice, images in purified.items():
            right = predict(network, eight_bit(images)) == labels
            hits.setdefault(choice, []).extend(right.tolist())
        sizes.append(size(attacked - clean, clean, "dissimilarity"))
        of_own.append((chosen[REFERENCE] == chosen["own class"]).float())
    own, length = (round(float(torch.cat(part).mean()), 4) for part in (of_own, sizes))
    return {"dissimilarity": length, "nearest_is_of_own_class": own, "cells": figures(hits)}


def choices(purifier: RSFP, latents: Tensor, labels: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """The cluster (n,) of each of the latents (n, d) by every rule."""
    distance = purifier.distributions.distance(latents)
    classes = torch.tensor(purifier.bundle.manifest.cluster_class, device=distance.device)
    own = classes == labels[:, None]
    random = torch.randint(len(classes), (len(latents),), generator=generator)
    return {
        "own class": distance.masked_fill(~own, torch.inf).argmin(1),
        REFERENCE: distance.argmin(1),
        "another class": distance.masked_fill(own, torch.inf).argmin(1),
        "random": random.to(distance.device),
        "farthest": distance.argmax(1),
    }


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
    attacks = list(results["attacks"])
    head = ["dictionary of", *attacks, *(f"{name}, minus nearest" for name in attacks)]
    body = []
    for choice in ("none", "own class", REFERENCE, "another class", "random", "farthest", ONE):
        cells = [results["attacks"][name]["cells"][choice] for name in attacks]
        shown = [f"{100 * c['accuracy']:.1f} ({100 * c['low']:.1f}–{100 * c['high']:.1f})" for c in cells]
        gaps = [c.get("minus_nearest") for c in cells]
        shown += [
            f"{100 * g['value']:+.1f} ({100 * g['low']:+.1f} to {100 * g['high']:+.1f})" if g else "" for g in gaps
        ]
        body.append([choice, *shown])
    return as_markdown(head, body)


if __name__ == "__main__":
    main()
