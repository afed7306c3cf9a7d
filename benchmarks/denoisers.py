"""The learned comparators, MagNet's, a small DnCNN and ComDefend, trained on CIFAR-10: weights that the package ships;
and DnCNNs that cost half of what STL and RSFP do, which it does not ship.

    python benchmarks/denoisers.py --data DIR --out RUN [--only magnet] [--images N] [--epochs N]
    python benchmarks/denoisers.py --data DIR --out RUN --only denoiser-8 --images 45000

DIR holds ``cifar10/train-*.parquet``. All are trained by the loop of ``raypurify train`` on ``--images`` of the images
that the preset ``cifar10`` trains on, never on those that it holds out, on which the figures are measured. RUN gets
``NAME.safetensors`` of each, to be copied to ``raypurify/purifiers/weights``; its SHA-256 is the class's ``shipped``.
``results/denoisers.json`` gets the figures. Run again after an interruption, it goes on.

MagNet's authors train with Adam, the mean square and noise of σ 0.025 on every image, for 400 epochs; DnCNN-B is
trained on noise of σ up to 55/255. Here both are given about six minutes of one CPU core; ComDefend, of a quarter of
its authors' channels, about ten, of one that it has for itself.

``denoiser-8`` and ``denoiser-17`` are DnCNNs of 64 channels and so many layers, the second that of the paper for one
size of noise. They are for ``grids/equal-cost.yaml``, and their training is in bfloat16 and as long as it takes.
"""

import argparse
import json
import shlex
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from cifar import split_images
from torch import nn

from raypurify.config import CompressionSettings, DenoisingSettings
from raypurify.files import write_json
from raypurify.nets.compression import CompressionNetwork
from raypurify.nets.dncnn import DnCNN
from raypurify.nets.reformer import Reformer
from raypurify.nets.store import load_network, save_network
from raypurify.training.data import ImageSet
from raypurify.training.denoising import noised, psnr
from raypurify.training.record import read_lines
from raypurify.training.single import NETWORK, train_network_here
from raypurify.training.start import drawn_network

RESULTS = Path(__file__).parent / "results" / "denoisers.json"
COMMON = {"loss": "mse", "optimizer": "adam", "batch_size": 32, "precision": "float32"}
LARGER = COMMON | {"noise": 55 / 255, "levels": "range", "lr": 0.002, "precision": "bfloat16"}
DENOISERS = {
    "magnet": (Reformer, {}, DenoisingSettings(noise=0.025, levels="all", lr=0.02, epochs=4, **COMMON)),
    "denoiser": (DnCNN, {}, DenoisingSettings(noise=55 / 255, levels="range", lr=0.004, epochs=2, **COMMON)),
    "comdefend": (CompressionNetwork, {"width": 4}, CompressionSettings(lr=0.002, epochs=5, **COMMON)),
    "denoiser-8": (DnCNN, {"width": 64, "depth": 8}, DenoisingSettings(epochs=8, **LARGER)),
    "denoiser-17": (DnCNN, {"width": 64, "depth": 17}, DenoisingSettings(epochs=6, **LARGER)),
}
LEVELS = (0.0, 0.025, 0.05, 0.1, 0.15)
MEASURED = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", choices=list(DENOISERS))
    parser.add_argument("--images", type=int, default=25_000, help="training images")
    parser.add_argument("--epochs", type=int, help="default: as many as a CPU core does in that time")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the table of a results file and stop")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(json.loads(arguments.results.read_text("utf-8"))))
        return
    if not (arguments.data and arguments.out):
        parser.error("give --data and --out")
    torch.set_num_threads(1)
    images, held_out = split_images(arguments.data, arguments.out, arguments.images)
    for name in [arguments.only] if arguments.only else list(DENOISERS):
        found = train(name, images, held_out, arguments.out, arguments.epochs)
        found["command"] = shlex.join(["python", "benchmarks/denoisers.py", *without_paths(sys.argv[1:])])
        # Read here: another process may train the other one.
        others = json.loads(arguments.results.read_text("utf-8")) if arguments.results.exists() else {}
        write_json(arguments.results, others | {name: found})
        print(json.dumps(found, indent=1), flush=True)


def train(name: str, images: ImageSet, held_out: ImageSet, out: Path, epochs: int | None) -> dict:
    """Train one of ``DENOISERS`` into ``out``, and measure it on held-out images."""
    make, architecture, settings = DENOISERS[name]
    settings = settings.model_copy(update={"epochs": epochs or settings.epochs})
    start = drawn_network(partial(make, **architecture), seed=0)
    train_network_here(out / name, start, images, held_out, settings, architecture={name: start.settings})
    network = load_network(out / name / NETWORK, make)
    save_network(out / f"{name}.safetensors", network)
    lines = read_lines(out / name)
    return {
        "network": {"class": make.__name__, **network.settings},
        "parameters": sum(value.numel() for value in network.parameters()),
        "bytes": (out / f"{name}.safetensors").stat().st_size,
        "settings": settings.model_dump(),
        "images": len(images),
        "loss": lines[-1]["loss"],
        "seconds": round(sum(line["seconds"] for line in lines), 1),
        "threads": torch.get_num_threads(),
        "device": lines[-1]["device"],
        "psnr": ratios(network, held_out.take(np.arange(min(MEASURED, len(held_out))))),
    }


@torch.no_grad()
def ratios(network: nn.Module, held_out: ImageSet) -> dict:
    """Mean PSNR in dB of held-out images with noise of each of ``LEVELS``, as they come and as the network leaves
    them; as they come without noise it has no bound."""
    found: dict[str, dict] = {"images": len(held_out)}
    for level in LEVELS:
        generator, before, after = torch.Generator().manual_seed(1), [], []
        for batch in held_out.batches(np.arange(len(held_out)), 250):
            images = batch.images / 255
            inputs = noised(images, torch.full((len(images),), level), generator)
            before.append(psnr(inputs, images))
            after.append(psnr(network(inputs).clamp(0, 1), images))
        pair = {"input": before, "output": after} if level else {"output": after}
        found[f"{level:g}"] = {name: round(float(torch.cat(values).mean()), 2) for name, values in pair.items()}
    return found


def table(results: dict) -> str:
    """The ratios as Markdown."""
    named = {
        "magnet": "MagNet's auto-encoder",
        "denoiser": "DnCNN of 5 layers",
        "comdefend": "ComDefend, a quarter as wide",
        "denoiser-8": "DnCNN of 8 layers, twice as wide",
        "denoiser-17": "DnCNN of 17 layers, twice as wide",
    }
    shown = {named[name]: results[name] for name in named if name in results}
    one = next(iter(shown.values()))
    rows = [
        "| PSNR, dB | parameters | trained | clean | " + " | ".join(f"σ {level:g}" for level in LEVELS[1:]) + " |",
        "|---|---|---|---|" + "---|" * len(LEVELS[1:]),
        "| the images with noise | – | – | – | "
        + " | ".join(f"{one['psnr'][f'{level:g}']['input']:.1f}" for level in LEVELS[1:])
        + " |",
    ]
    for name, found in shown.items():
        ratios = " | ".join(f"{found['psnr'][f'{level:g}']['output']:.1f}" for level in LEVELS)
        trained = f"{found['images']:,} images × {found['settings']['epochs']}, {found['seconds'] / 60:.1f} min"
        rows.append(f"| {name} | {found['parameters']:,} | {trained} | {ratios} |")
    return "\n".join(rows)


def without_paths(given: list[str]) -> list[str]:
    """The arguments with the names of the docstring in place of paths."""
    names = {"--data": "DIR", "--out": "RUN", "--results": "RESULTS"}
    return [names.get(before, one) for before, one in zip(["", *given], given)]


if __name__ == "__main__":
    main()
