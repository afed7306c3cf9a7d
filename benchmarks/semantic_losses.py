"""PCL beside the losses it is compared with: networks of one budget, attacked (Mustafa et al., tables 3, 4, 5, 9, 11).

    python benchmarks/semantic_losses.py --data DIR --out OUT [--only NAME …] [--seeds 3] [--epochs 60]
        [--network resnet-20] [--images N] [--test-images 1000] [--attacks NAME …] [--set A=V …]
    python benchmarks/semantic_losses.py --table

DIR holds ``cifar10/train-*.parquet`` and ``cifar10/test.parquet``. Every training of ``TRAININGS`` is of the network of
that name in ``semantic_networks.py``, from random weights, on the images that the preset ``cifar10`` trains on, for the
same epochs in the same order, the first two fifths by cross-entropy alone (the paper has 200 of 500). Its last network
is attacked on the first test images, in float, by the attacks of ``ATTACKS``: AutoAttack is what the paper lacks. Where
a training has centres the names with ``knows centres`` are the adaptive attacks of Table 4. ``--set`` changes a setting
of every training.

Layers are those of the paper's Table 1, whose networks are ``resnet-110`` and ``cnn-6``. In the smaller ResNets 3 is
group 2 and 4 are the latents; 5, a linear layer on them, is a branch at group 3. Losses have the weight 0.1 at the
learning rate 0.1, where PCL has 1 at 0.01 in its authors' code: what decides whether squares of features diverge is the
product. The networks of the paper have less of either (``semantic_networks.GENTLE``). Nothing is tuned for any of them;
a short training, in which all classes may be drawn into one point, wants ``--set alpha=0.01``.

Everything is a file below OUT: run again after an interruption, or with more names, seeds or attacks, it goes on; other
epochs, networks, images or settings need another OUT. On one GPU, the paper's network:

    CUDA_VISIBLE_DEVICES=0 python benchmarks/semantic_losses.py --data DIR --out OUT --network resnet-110 --epochs 100

On two CPU cores: what ``results/semantic_losses.json`` has as its command.
"""

import argparse
import shlex
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from cifar import split_images
from denoisers import without_paths
from semantic_networks import NETWORKS, held_at
from torch import Tensor, nn
from train_vgg import test_batches

from raypurify.attacks import ATTACKS as KNOWN
from raypurify.attacks import Attack
from raypurify.config import RobustTrainingSettings
from raypurify.evaluation.centres import Supervised, joint_loss
from raypurify.evaluation.clock import clock
from raypurify.evaluation.intervals import wilson
from raypurify.files import read_json, write_json
from raypurify.training.batch import Batch
from raypurify.training.data import ImageSet
from raypurify.training.measure import measure
from raypurify.training.record import device_name
from raypurify.training.single import train_network_here
from raypurify.training.start import drawn_network
from raypurify.training.supervision import SUPERVISION

RESULTS = Path(__file__).parent / "results" / "semantic_losses.json"
USUAL = "resnet-20"
EPS = 0.03
WARM_UP = 0.4
# Layers as the paper counts them.
DEEP: dict[str, Any] = {"layers": (3, 4, 5)}
PCL: dict[str, Any] = {"semantic": "pcl"}
# Section 6.1 and the authors' code: ε from 0.01 to 0.05, the repulsion ten times weaker.
BOTH: dict[str, Any] = {"images": "both", "eps_from": 0.01, "push": 1e-5}
FGSM = {"norm": "linf", "eps": 0.05, "steps": 1, "random_start": False}
PGD = {"norm": "linf", "eps": 0.05, "steps": 10}
TRAININGS: dict[str, dict[str, Any]] = {
    "softmax": {"semantic": "none"},
    "softmax, deep": {"semantic": "none", **DEEP},
    "center": {"semantic": "center", **DEEP},
    "contrastive": {"semantic": "contrastive", **DEEP},
    "triplet": {"semantic": "triplet", **DEEP},
    "pcl": PCL | DEEP,
    "softmax + FGSM": {"semantic": "none", **BOTH, "attack": FGSM},
    "softmax + PGD": {"semantic": "none", **BOTH, "attack": PGD},
    "pcl + FGSM": PCL | DEEP | BOTH | {"attack": FGSM},
    "pcl + PGD": PCL | DEEP | BOTH | {"attack": PGD},
    "pcl at layer 2": PCL | {"layers": (2,)},
    "pcl at layer 3": PCL | {"layers": (3,)},
    "pcl at layer 4": PCL | {"layers": (4,)},
    "pcl at layer 5": PCL | {"layers": (5,)},
    "pcl at layers 4, 5": PCL | {"layers": (4, 5)},
}
_CW = {"eps": float("inf"), "searches": 1, "steps": 1000, "step_size": 0.01, "eight_bit": False}
ATTACKS: dict[str, tuple[str, dict[str, Any]] | None] = {
    "clean": None,
    "FGSM": ("fgsm", {"eps": EPS}),
    "BIM": ("bim", {"eps": EPS, "steps": 10, "step_size": EPS / 10}),
    "MIM": ("mim", {"eps": EPS, "steps": 10, "step_size": EPS / 10}),
    "PGD": ("pgd", {"eps": EPS, "steps": 10, "step_size": EPS / 4}),
    "PGD-100": ("pgd", {"eps": EPS, "steps": 100, "step_size": EPS / 10}),
    "AutoAttack": ("autoattack", {"eps": EPS}),
    **{f"FGSM {eps}": ("fgsm", {"eps": eps}) for eps in (0.02, 0.04)},
    **{
        f"{name} {eps}": (name.lower(), {"eps": eps, "steps": 10})
        for name in ("BIM", "MIM", "PGD")
        for eps in (0.01, 0.02)
    },
    **{f"CW {c}": ("cw", _CW | {"initial_const": c}) for c in (0.001, 0.01, 0.1)},
}
ADAPTIVE = ("FGSM", "BIM", "MIM", "PGD")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--results", type=Path, help="default: below results/; by the name of another network")
    parser.add_argument("--only", nargs="+", default=list(TRAININGS), choices=list(TRAININGS), metavar="NAME")
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS), choices=list(ATTACKS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--network", default=USUAL, choices=list(NETWORKS))
    parser.add_argument("--images", type=int, help="train on at most so many")
    parser.add_argument("--test-images", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--set", action="append", default=[], metavar="A=V", help="one setting of every training")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    other = "" if arguments.network == USUAL else f"-{arguments.network}"
    results = arguments.results or RESULTS.with_stem(RESULTS.stem + other)
    if arguments.table:
        print(table(read_json(results)))
        return
    if not arguments.data or not arguments.out:
        parser.error("give --data and --out")
    images, held_out = split_images(arguments.data, arguments.out, arguments.images)
    tested = test_batches(arguments.data, arguments.test_images)
    found: dict[str, Any] = {}
    for seed in range(arguments.seeds):
        for name in arguments.only:
            found.setdefault(name, []).append(one(arguments, name, seed, images, held_out, tested))
            command = shlex.join(["python", "benchmarks/semantic_losses.py", *without_paths(sys.argv[1:])])
            facts = {"command": command, "network": arguments.network, "epochs": arguments.epochs}
            facts |= {"images": len(images), "test_images": arguments.test_images}
            write_json(results, facts | {"trainings": found})


def one(
    arguments: argparse.Namespace, name: str, seed: int, images: ImageSet, held_out: ImageSet, tested: list[Batch]
) -> dict:
    """The accuracies of one training with one seed; what is in its folder already is not done again."""
    folder = arguments.out / name.replace(" ", "-").replace(",", "") / str(seed)
    settings = settings_of(name, arguments.network, arguments.epochs, arguments.batch_size, arguments.set)
    studied = NETWORKS[arguments.network]
    network, about, say = drawn_network(studied.make, seed), studied.about, _say(name, seed)
    lines = train_network_here(folder, network, images, held_out, settings, seed, architecture=about, say=say)
    network.eval().requires_grad_(False)
    # Of other images there are other figures.
    figures = folder / f"figures-{arguments.test_images}.json"
    done = read_json(figures) if figures.exists() else {"accuracy": {}}
    wanted: dict[str, Callable | None] = {}
    for attack in arguments.attacks:
        made = ATTACKS[attack] and KNOWN[ATTACKS[attack][0]](**ATTACKS[attack][1])
        wanted[attack] = made
        if attack in ADAPTIVE and (folder / SUPERVISION).exists():
            wanted[f"{attack}, knows centres"] = knowing(made, Supervised(network, folder / SUPERVISION))
    for attack, made in wanted.items():
        if attack not in done["accuracy"]:
            begun = clock()
            accuracy = measure(network, tested, attack=made)["accuracy"]
            done["accuracy"][attack] = round(accuracy, 4)
            print(f"{name}, seed {seed}, {attack}: {accuracy:.3f} ({clock() - begun:.0f} s)", flush=True)
            write_json(figures, done)
    kept = {key: value for key, value in lines[-1].items() if not key.endswith(("seconds", "second"))}
    seconds = round(sum(line["seconds"] for line in lines), 1)
    device = device_name(next(network.parameters()).device)
    of_network = {attack: done["accuracy"][attack] for attack in wanted}
    return {"seed": seed, "accuracy": of_network, "last_epoch": kept, "seconds": seconds, "device": device}


def settings_of(name: str, network: str, epochs: int, batch_size: int, changes: list[str]) -> RobustTrainingSettings:
    """The settings of a training: what is common to all, the network's, its own, and what the command line changes."""
    common = {
        "epochs": epochs,
        "warm_up": int(WARM_UP * epochs),
        "batch_size": batch_size,
        "precision": "bfloat16" if torch.cuda.is_available() else "float32",
        "images": "clean",
        "attack": PGD,
        "alpha": 0.1,
        "guard": False,
    }
    changed = {key: yaml.safe_load(value) for key, _, value in (change.partition("=") for change in changes)}
    studied, own = NETWORKS[network], dict(TRAININGS[name])
    own |= held_at(studied, own.pop("layers")) if "layers" in own else {}
    own |= {"alpha": 0.0} if own["semantic"] == "none" else {}
    return RobustTrainingSettings(**common | studied.settings | own | changed)


def knowing(attack: Attack, classifier: Supervised) -> Callable[..., Tensor]:
    """The attack on the loss of the training, for ``measure``."""
    model, loss = joint_loss(classifier.to(next(classifier.network.parameters()).device))

    def attacked(network: nn.Module, images: Tensor, labels: Tensor, *, generator: torch.Generator) -> Tensor:
        return attack(model, images, labels, generator=generator, loss=loss)

    return attacked


def table(results: dict) -> str:
    """Accuracies in %, as Markdown: of one seed with its 95 % interval, else means with the least and the largest."""
    trainings = results["trainings"]
    names = list(dict.fromkeys(attack for runs in trainings.values() for run in runs for attack in run["accuracy"]))
    rows = [f"| training | seeds | {' | '.join(names)} |", "|---|---|" + "---|" * len(names)]
    for training, runs in trainings.items():
        of_attack = [[run["accuracy"][name] for run in runs if name in run["accuracy"]] for name in names]
        cells = [_cell(values, results["test_images"]) for values in of_attack]
        rows.append(f"| {training} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _cell(values: list[float], images: int) -> str:
    if not values:
        return "–"
    low, high = wilson(values[0] * images, images) if len(values) == 1 else (min(values), max(values))
    return f"{100 * statistics.mean(values):.1f} ({100 * low:.1f}–{100 * high:.1f})"


def _say(name: str, seed: int) -> Callable[[str], None]:
    return lambda line: print(f"{name}, seed {seed}: {line}", flush=True)


if __name__ == "__main__":
    main()
