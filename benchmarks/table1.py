"""White-box accuracy of networks on CIFAR-10, as in Table I of RSFP: clean, PGD, CW, BIM, TPGD.

    python benchmarks/table1.py --networks NAME=PATH.safetensors … --data DIR [--images 1000] [--norm l2 --eps 0.3]

DIR holds ``cifar10/test.parquet``; a PATH is the ``network.safetensors`` of a training or of a bundle. The attacker
knows the network, every network gets the same images, and attacked images are not rounded to 8 bits. A NAME of the
paper's table ("PGDAT+RST (Random)", say) is printed above the paper's row.

The paper says what PGD trains with (10 steps, L2, 0.3) and that BIM and CW take 100 iterations, and not how the attacks
of its Table I were set. Here all share one budget: PGD and TPGD take 10 steps, BIM 100, of 2.5·eps/steps each; CW
makes 9 searches of 100 steps and is cut to the budget. ``--table`` prints a results file as Markdown. On a CPU core,
1,000 images cost a WRN-16-2 about an hour, nine tenths of it CW.
"""

import argparse
import hashlib
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
from graybox import load_images, wilson
from torch import Tensor

import raypurify
from raypurify.attacks import BIM, CW, NORMS, PGD, TPGD, Attack
from raypurify.nets import WideResNet
from raypurify.nets.store import load_network

RESULTS = Path(__file__).parent / "results" / "table1.json"
COLUMNS = ("clean", "PGD", "CW", "BIM", "TPGD")
SOURCE = 'Silva et al., "Adaptive Clustering of Robust Semantic Representations for Adversarial Image Purification"'
PAPER = {
    "No defense": (86.36, 27.68, 9.91, 42.50, 30.37),
    "PGDAT+RST (PGDAT)": (79.79, 67.43, 50.74, 62.59, 75.25),
    "PGDAT (PGDAT)": (79.06, 66.74, 50.46, 61.25, 74.69),
    "PGDAT+RST (Random)": (77.36, 66.99, 39.66, 60.52, 73.92),
    "PGDAT (Random)": (75.63, 65.55, 52.26, 57.86, 73.57),
    "PGDAT+RST (Trades)": (87.56, 73.60, 56.30, 75.27, 78.18),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", type=named_path, metavar="NAME=PATH")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--norm", choices=NORMS, default="l2")
    parser.add_argument("--eps", type=float, default=0.3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=100, help="images at a time; on a GPU 500 is quicker")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(json.loads(arguments.out.read_text("utf-8"))))
        return
    if arguments.networks is None or arguments.data is None:
        parser.error("give --networks and --data")
    results = measure(
        dict(arguments.networks),
        arguments.data,
        arguments.images,
        arguments.norm,
        arguments.eps,
        arguments.device,
        arguments.batch,
    )
    arguments.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(table(results))


def named_path(text: str) -> tuple[str, Path]:
    name, sign, path = text.partition("=")
    if not (name and sign and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=PATH")
    return name, Path(path)


def attacks(norm: str, eps: float) -> dict[str, Attack]:
    return {
        "PGD": PGD(eps=eps, norm=norm, steps=10),
        "CW": CW(eps=eps, norm=norm, searches=9, steps=100),
        "BIM": BIM(eps=eps, norm=norm, steps=100),
        "TPGD": TPGD(eps=eps, norm=norm, steps=10),
    }


def measure(
    networks: dict[str, Path],
    data: Path,
    count: int,
    norm: str,
    eps: float,
    device: str,
    batch: int = 100,
    made: dict | None = None,
) -> dict:
    """The results of every network under every attack; ``made`` replaces ``attacks(norm, eps)``."""
    images, labels = load_images(data / "cifar10" / "test.parquet", count)
    if len(images) < count:
        sys.exit(f"--images {count}: the set has {len(images)}")
    loaded = {name: network_of(path).requires_grad_(False).to(device) for name, path in networks.items()}
    made = attacks(norm, eps) if made is None else made
    progress = Progress({name: passes(made.get(name)) for name in COLUMNS}, count * len(networks))
    measured = {}
    for name, network in loaded.items():
        measured[name] = {
            "network": network.settings,
            "sha256": hashlib.sha256(networks[name].read_bytes()).hexdigest(),
            "rows": {column: row(network, made.get(column), images, labels, device, batch, progress, name, column)
                     for column in COLUMNS},
        }  # fmt: skip
    return {
        "command": "python benchmarks/table1.py --networks "
        + " ".join(f"{name!r}=PATH" if " " in name else f"{name}=PATH" for name in networks)
        + f" --data DIR --images {count} --norm {norm} --eps {eps} --batch {batch}",
        "set": "CIFAR-10 test, the first images",
        "images": count,
        "norm": norm,
        "eps": eps,
        "attacks": {name: asdict(attack) for name, attack in made.items()},
        "device": device,
        "networks": measured,
    }


def network_of(path: Path) -> WideResNet:
    """The network in a file that carries its architecture, or in a bundle, whose manifest does."""
    if (path.parent / "manifest.json").exists():
        return raypurify.load(path.parent).network
    return load_network(path)


def row(
    network, attack: Attack | None, images: Tensor, labels: Tensor, device: str, batch: int, progress, *names: str
) -> dict:
    hits = 0
    for start in range(0, len(images), batch):
        x, y = images[start : start + batch].to(device), labels[start : start + batch].to(device)
        if attack is not None:
            x = attack(network, x, y, generator=torch.Generator().manual_seed(start))
        with torch.no_grad():
            hits += int((network(x).argmax(1) == y).sum())
        progress.add(names[-1], len(x), f"{' '.join(names)}: {start + len(x):,}/{len(images):,} images")
    return {"accuracy": hits / len(images), "interval": wilson(hits, len(images))}


def passes(attack: Attack | None) -> int:
    """How often an attack goes through the network: what the time is proportional to."""
    return 1 if attack is None else attack.steps * getattr(attack, "searches", 1)


class Progress:
    """Prints what part of the work is done, and the time left."""

    def __init__(self, costs: dict[str, int], images: int):
        self.costs, self.total, self.done, self.begun = costs, sum(costs.values()) * images, 0, time.monotonic()

    def add(self, column: str, images: int, what: str) -> None:
        self.done += self.costs[column] * images
        left = (time.monotonic() - self.begun) * (self.total / self.done - 1)
        print(f"{what}; {100 * self.done / self.total:.1f} % of the work, {left / 60:.1f} min left", flush=True)


def table(results: dict) -> str:
    """Accuracy in percent as a Markdown table, ours with 95 % intervals, and the paper's rows."""
    lines = ["| network | " + " | ".join(COLUMNS) + " |", "|---|" + "---|" * len(COLUMNS)]
    left = dict(PAPER)
    for name, measured in results["networks"].items():
        cells = []
        for column in COLUMNS:
            low, high = (100 * bound for bound in measured["rows"][column]["interval"])
            cells.append(f"{100 * measured['rows'][column]['accuracy']:.1f} ({low:.1f}–{high:.1f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
        if name in left:
            lines.append(paper_row(name, left.pop(name)))
    lines += [paper_row(name, figures) for name, figures in left.items()]
    settings = "; ".join(f"{name} {described(attack)}" for name, attack in results["attacks"].items())
    lines += [
        "",
        f"n = {results['images']:,} ({results['set']}); budget {results['norm']} {results['eps']:g}; {settings}. Rows "
        f"marked RSFP: {SOURCE}, Table I, WRN-32-10; it names neither n nor the attacks' settings.",
    ]
    return "\n".join(lines)


def paper_row(name: str, figures: tuple[float, ...]) -> str:
    return f"| RSFP: {name} | " + " | ".join(f"{figure:.2f}" for figure in figures) + " |"


def described(attack: dict) -> str:
    steps = f"{attack['steps']} steps"
    return f"{attack['searches']} × {steps}" if "searches" in attack else steps


if __name__ == "__main__":
    main()
