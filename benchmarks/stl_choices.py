"""What STL's paper leaves open, by measurement: what has unit norm, and whether to refine filters on the image at hand;
and what the vote of training features takes.

    python benchmarks/stl_choices.py --data DIR [--images 400] [--learn 1000] [--basis BASIS] [--out FILE]

DIR holds ``cifar10/train-*.parquet`` and ``cifar10-resnet/``. One dictionary for all images, 64 atoms of 8×8, is
learned at STL's settings (λ 0.2, Tikhonov 5) from ``--learn`` training images, and rewrites ``--images`` held-out ones,
clean and under FGSM of dissimilarity 0.04 on ResNet-20, which then classifies them:

    atom         atoms of norm 1, as the authors' code has it
    channel      norm 1 in each colour, as the paper's equation 2 has it: norm √3 in all
    atom, λ/√3   atoms of norm 1 at the λ that equation 2's comes to in that unit, so that colours alone differ
    refine N     as ``atom``, filters and maps optimised in N turns on each image
    λ            as ``atom`` at other λ, for what refinement buys

BASIS is the folder ``basis`` of the authors' repository, GitBoSun/AdvDefense_CSC; of its filters the norms are told.
"""

import argparse
import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from dictionary_bundles import training_images
from torch import Tensor
from validation_images import held_out

import raypurify
from raypurify.attacks import FGSM
from raypurify.clusters.neighbours import nearest_rows
from raypurify.config import CscSettings, DictionarySettings
from raypurify.csc import online
from raypurify.evaluation.clock import clock
from raypurify.evaluation.intervals import paired, wilson
from raypurify.images import decode_image, to_float
from raypurify.nets.cifar_resnet import load_cifar_resnet
from raypurify.purifiers.rsfp_global import GlobalRSFP, learn_global_dictionary

RESULTS = Path(__file__).parent / "results" / "stl_choices.json"
LAMBDA, UNIT = 0.2, 0.2 / 3**0.5
REFINED, LAMBDAS = (1, 2, 4, 8), (0.05, 0.1, 0.3, 0.45)
BATCH, QUERIES = 100, 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--learn", type=int, default=1000)
    parser.add_argument("--basis", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    found: dict[str, Any] = {"images": arguments.images, "learned_from": arguments.learn}
    if arguments.basis:
        files = sorted(arguments.basis.glob("*/*.npy"))
        found["authors_norms"] = {f"{file.parent.name}/{file.name}": norms(file) for file in files}
    found["vote"] = {"threads": torch.get_num_threads(), "queries": QUERIES} | {
        f"seconds_of_{count}": vote_seconds(count) for count in (10_000, 1_000_000)
    }
    network = load_cifar_resnet(next((arguments.data / "cifar10-resnet").glob("resnet20-*.th")))
    images, labels = validation(arguments.data, arguments.images)
    attack = FGSM(0.04, "dissimilarity")
    attacked = torch.cat([attack(network, *pair).detach() for pair in zip(images.split(BATCH), labels.split(BATCH))])
    seen = training_images(arguments.data, raypurify.load("cifar10"), arguments.learn)
    atoms = {"atom": learned(seen, LAMBDA), "atom, λ/√3": learned(seen, UNIT), "channel": learned_by_channel(seen)}
    found["own_norms"] = {name: of_norms(some.permute(2, 3, 1, 0).numpy()) for name, some in atoms.items()}
    sides = {"atom": GlobalRSFP(atoms["atom"])}
    sides |= {name: GlobalRSFP(atoms[name], CscSettings(lmbda=UNIT)) for name in ("channel", "atom, λ/√3")}
    sides |= {f"refine {n}": GlobalRSFP(atoms["atom"], CscSettings(refine=n)) for n in REFINED}
    sides |= {f"λ {value}": GlobalRSFP(atoms["atom"], CscSettings(lmbda=value)) for value in LAMBDAS}
    hits: dict[str, np.ndarray] = {}
    found["purified"] = {"none": judged(images, attacked, images, labels, network, hits, "none")}
    for name, purifier in sides.items():
        begun = clock()
        done = [torch.cat([purifier.purify(some).images for some in of.split(BATCH)]) for of in (images, attacked)]
        seconds = clock() - begun
        row = judged(*done, images, labels, network, hits, name)
        row["ms_per_image"] = round(1000 * seconds / 2 / len(images), 1)
        differences = [vars(paired(one, other)) for one, other in zip(hits[name], hits["atom"])]
        row["less_atom"] = [{key: round(value, 4) for key, value in one.items()} for one in differences]
        found["purified"][name] = row
        print(name, row, flush=True)
        arguments.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")


def vote_seconds(count: int) -> float:
    """Of three runs the quickest: the 15 nearest of ``count`` features of 128 numbers, for 256 images."""
    generator = torch.Generator().manual_seed(0)
    features, queries = (torch.randn(rows, 128, generator=generator) for rows in (count, QUERIES))
    seconds = []
    for _ in range(3):
        begun = clock()
        nearest_rows(queries, features, 15)
        seconds.append(clock() - begun)
    return round(min(seconds), 4)


def validation(data: Path, count: int) -> tuple[Tensor, Tensor]:
    table = pa.concat_tables(map(pq.read_table, sorted(data.glob("cifar10/train-*.parquet"))))
    table = table.take(held_out(len(table), count))
    pixels = np.stack([to_float(decode_image(row).pixels) for row in table["image"].to_pylist()])
    return torch.from_numpy(pixels), torch.tensor(table["label"].to_pylist())


def learned(images: Tensor, lmbda: float) -> Tensor:
    return learn_global_dictionary(images, DictionarySettings(), CscSettings(lmbda=lmbda))


def learned_by_channel(images: Tensor) -> Tensor:
    """Atoms of norm 1 whose colours have one norm, learned at equation 2's λ in that unit."""
    with patch.object(online, "normalised", by_channel):
        return by_channel(learned(images, UNIT))


def by_channel(atoms: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(atoms, dim=(-2, -1), keepdim=True)
    # A filter without a colour cannot be scaled to norm 1 in it.
    return atoms / norm.clamp(min=1e-6) / atoms.shape[-3] ** 0.5


def judged(
    clean: Tensor,
    attacked: Tensor,
    images: Tensor,
    labels: Tensor,
    network: torch.nn.Module,
    hits: dict[str, np.ndarray],
    name: str,
) -> dict[str, Any]:
    """Accuracy and its interval, and PSNR to the clean image in dB, of images purified clean and attacked."""
    with torch.no_grad():
        right = [torch.cat([network(some).argmax(1) for some in of.split(BATCH)]) == labels for of in (clean, attacked)]
    hits[name] = np.stack([one.numpy() for one in right])
    errors = [(of - images).square().mean((1, 2, 3)).clamp(min=1e-10) for of in (clean, attacked)]
    return {
        "accuracy": [round(float(one.mean()), 4) for one in hits[name]],
        "interval": [[round(end, 4) for end in wilson(int(one.sum()), len(one))] for one in hits[name]],
        "psnr": [round(float((-10 * error.log10()).mean()), 2) for error in errors],
    }


def norms(file: Path) -> dict[str, Any]:
    return of_norms(np.load(file, allow_pickle=False))


def of_norms(atoms: np.ndarray) -> dict[str, Any]:
    """The range of norms of atoms (h, w, 3, M), over all colours and in each."""
    colours = np.linalg.norm(atoms.astype(np.float64), axis=(0, 1))
    whole = np.linalg.norm(colours, axis=0)
    spread = np.quantile(colours, [0, 0.05, 0.5, 0.95, 1])
    return {
        "shape": list(atoms.shape),
        "atom": [round(float(value), 6) for value in (whole.min(), whole.max())],
        "colour_quantiles_0_5_50_95_100": [round(float(value), 3) for value in spread],
    }


if __name__ == "__main__":
    main()
