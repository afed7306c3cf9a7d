"""Every attack of the registry that others have too, beside theirs on the same images: accuracy left, size used.

    python benchmarks/attack_reference.py --data DIR [--only ROW …] [--out benchmarks/results/attack_reference.csv]

DIR holds ``cifar10/test.parquet`` and ``cifar10-resnet/``. The others are foolbox; pyautoattack, which has the code of
Auto-PGD, Square and AutoAttack by their authors; and for UAP the loop of ``universal_by_adam``. Both sides have the
same budget and number of steps, everything else as their authors set it, and no rounding to 8 bits, which the others do
not know. Sizes are means over the images that were right before the attack, as parts of the budget. ``--only`` makes
these rows again and keeps the others of the file.
"""

import argparse
import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import foolbox
import pyautoattack
import torch
from pyautoattack.autopgd_base import APGDAttack
from pyautoattack.square import SquareAttack
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from raypurify.attacks import APGD, BIM, CW, FGSM, MIM, PGD, UAP, Attack, AutoAttack, DeepFool, Square
from raypurify.attacks.budget import size
from raypurify.evaluation.batches import read_grid_batches
from raypurify.evaluation.specs import ImagesSpec
from raypurify.nets.cifar_resnet import load_cifar_resnet

RESULTS = Path(__file__).parent / "results" / "attack_reference.csv"
WEIGHTS = {"ResNet-20": "resnet20-12fca82f.th", "ResNet-56": "resnet56-4bfd9763.th"}
FIELDS = ("attack", "norm", "eps", "network", "images", "settings", "reference",
          "left", "left_by_reference", "size", "size_of_reference")  # fmt: skip

Perturb = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""From a network, images and labels to attacked images."""


@dataclass(frozen=True)
class Pair:
    """One row: an attack of ours, what it is compared with, and on what."""

    ours: Attack
    settings: str
    name: str
    theirs: Perturb
    images: int = 200
    network: str = "ResNet-20"


def of_foolbox(attack: foolbox.Attack, eps: float) -> Perturb:
    """The attack of foolbox, what is longer than ``eps`` cut to it."""

    def perturb(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
        # Many of its attacks go on for all images until the last is done.
        parts = zip(images.split(50), labels.split(50), strict=True)
        return torch.cat([attack(model, *part, epsilons=eps)[1] for part in parts])

    return perturb


def apgd_by_its_authors(eps: float, loss: str) -> Perturb:
    """Their Auto-PGD of 100 steps, L∞, from one start."""

    def perturb(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return APGDAttack(network, eps=eps, loss=loss, device="cpu").perturb(images, labels)

    return perturb


def square_by_its_authors(eps: float, queries: int) -> Perturb:
    """Their Square, L∞, on the schedule for this number of queries."""

    def perturb(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        attack = SquareAttack(network, norm="Linf", n_queries=queries, eps=eps, resc_schedule=True, device="cpu")
        return attack.perturb(images, labels)

    return perturb


def autoattack_by_its_authors(eps: float) -> Perturb:
    """The standard AutoAttack, L∞, called without what ``attacks.AutoAttack`` puts around it."""

    def perturb(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        attack = pyautoattack.AutoAttack(network, norm="Linf", eps=eps, seed=0, device="cpu")
        return attack.run_standard_evaluation(images, labels, batch_size=len(images))[0]

    return perturb


def universal_by_adam(eps: float, steps: int, batch: int = 64) -> Perturb:
    """One pattern for all images by Adam on their cross-entropy, clipped to ``eps``: no code of ours in it."""

    def perturb(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        pattern = torch.zeros_like(images[:1], requires_grad=True)
        adam = torch.optim.Adam([pattern], lr=eps / 10, maximize=True)
        order = torch.cat([torch.randperm(len(images)) for _ in range(1 + steps * batch // len(images))])
        for some in order[: steps * batch].split(batch):
            adam.zero_grad()
            cross_entropy(network((images[some] + pattern).clamp(0, 1)), labels[some]).backward()
            adam.step()
            with torch.no_grad():
                pattern.clamp_(-eps, eps)
        return (images + pattern.detach()).clamp(0, 1)

    return perturb


def pairs() -> dict[str, Pair]:
    """Every row by its name. Budgets are small, so that on a standard classifier something is left to compare."""
    linf, l2, fb = 1 / 255, 0.1, foolbox.attacks
    return {
        "FGSM": Pair(FGSM(linf), "", "foolbox", of_foolbox(fb.LinfFastGradientAttack(), linf)),
        "FGSM, L2": Pair(FGSM(l2, "l2"), "", "foolbox", of_foolbox(fb.L2FastGradientAttack(), l2)),
        "BIM": Pair(BIM(linf), "10 steps", "foolbox", of_foolbox(fb.LinfBasicIterativeAttack(), linf)),
        "BIM, L2": Pair(BIM(l2, "l2"), "10 steps", "foolbox", of_foolbox(fb.L2BasicIterativeAttack(), l2)),
        "PGD": Pair(
            PGD(linf, steps=40), "40 steps", "foolbox", of_foolbox(fb.LinfProjectedGradientDescentAttack(), linf)
        ),
        "MIM": Pair(
            MIM(linf), "10 steps", "foolbox", of_foolbox(fb.LinfMomentumIterativeFastGradientMethod(), linf)
        ),
        "DeepFool": Pair(
            DeepFool(linf, "linf", eight_bit=False), "50 steps", "foolbox", of_foolbox(fb.LinfDeepFoolAttack(), linf)
        ),
        "DeepFool, L2": Pair(
            DeepFool(l2, "l2", eight_bit=False), "50 steps", "foolbox", of_foolbox(fb.L2DeepFoolAttack(), l2)
        ),
        "CW, L2": Pair(
            CW(l2, "l2", eight_bit=False), "9 × 100 steps", "foolbox",
            of_foolbox(fb.L2CarliniWagnerAttack(binary_search_steps=9, steps=100), l2),
        ),
        "APGD-CE": Pair(APGD(linf), "100 steps", "pyautoattack", apgd_by_its_authors(linf, "ce")),
        "APGD-DLR": Pair(APGD(linf, loss="dlr"), "100 steps", "pyautoattack", apgd_by_its_authors(linf, "dlr")),
        "Square": Pair(
            Square(4 * linf, queries=300), "300 queries", "pyautoattack", square_by_its_authors(4 * linf, 300)
        ),
        "AutoAttack": Pair(
            AutoAttack(linf), "standard", "pyautoattack", autoattack_by_its_authors(linf)
        ),
        "UAP": Pair(
            UAP(8 * linf), "100 steps of 64 images", "Adam on the pattern", universal_by_adam(8 * linf, 100),
            images=300, network="ResNet-56",
        ),
    }  # fmt: skip


def compare(name: str, pair: Pair, data: Path) -> dict[str, str]:
    """A row of the file. Everything is drawn from the seed 0."""
    ((batch,), _) = read_grid_batches(
        ImagesSpec(paths=(str(data / "cifar10" / "test.parquet"),), limit=pair.images), pair.images
    )
    # Some of the others take views of what is in order alone.
    images = torch.from_numpy(batch.pixels).float().contiguous() / 255
    labels = torch.from_numpy(batch.labels)
    network = load_cifar_resnet(data / "cifar10-resnet" / WEIGHTS[pair.network]).requires_grad_(False)
    right = network(images).argmax(1) == labels

    def figures(attacked: Tensor) -> tuple[str, str]:
        left = (network(attacked).argmax(1) == labels).double().mean()
        used = size(attacked - images, images, pair.ours.norm)[right].mean() / pair.ours.eps
        return f"{left:.4f}", f"{used:.3f}"

    torch.manual_seed(0)
    ours = figures(pair.ours(network, images, labels, generator=torch.Generator().manual_seed(0)))
    theirs = figures(pair.theirs(network, images, labels))
    both = [figure for two in zip(ours, theirs, strict=True) for figure in two]
    row = (name, pair.ours.norm, f"{pair.ours.eps:.6g}", pair.network, pair.images, pair.settings, pair.name, *both)
    return {field: str(value) for field, value in zip(FIELDS, row, strict=True)}


def read_rows(file: Path) -> dict[str, dict[str, str]]:
    """The rows of a results file by name; none where there is no file."""
    if not file.exists():
        return {}
    with file.open(encoding="utf-8", newline="") as opened:
        return {row["attack"]: row for row in csv.DictReader(opened)}


def table(rows: dict[str, dict[str, str]]) -> str:
    """The rows as Markdown."""
    head = ("attack", "budget", "n", "beside", "left", "left by the other", "size / budget", "of the other")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, row in rows.items():
        eps = float(row["eps"])
        budget = f"L∞ {round(255 * eps)}/255" if row["norm"] == "linf" else f"L2 {eps:g}"
        settings = f"{name}, {row['settings']}" if row["settings"] else name
        left = [f"{100 * float(row[key]):.1f}" for key in ("left", "left_by_reference")]
        used = [f"{float(row[key]):.2f}" for key in ("size", "size_of_reference")]
        lines.append("| " + " | ".join((settings, budget, row["images"], row["reference"], *left, *used)) + " |")
    return "\n".join(lines)


def main() -> None:
    known = pairs()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--only", nargs="+", choices=known, default=list(known))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the table of a results file and stop")
    arguments = parser.parse_args()
    rows = read_rows(arguments.out)
    if arguments.table:
        print(table(rows))
        return
    if arguments.data is None:
        parser.error("--data is needed")
    for name in arguments.only:
        rows[name] = compare(name, known[name], arguments.data)
        print(rows[name], flush=True)
        with arguments.out.open("w", encoding="utf-8", newline="") as out:
            writer = csv.DictWriter(out, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows[each] for each in known if each in rows)


if __name__ == "__main__":
    main()
