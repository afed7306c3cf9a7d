"""What RegionSparse's paper claims and leaves open, by measurement: from how few images its dictionary can be learned,
what each of its steps does (figure 4's ablations), and K.

    python benchmarks/region_choices.py --data DIR [--images 300] [--out FILE]

DIR holds ``cifar10/train-*.parquet`` and ``cifar10-resnet/``. Dictionaries of 256 atoms of 8×8 are learned from
training images and rewrite ``--images`` held-out ones, chosen as those of stl_choices.py: clean, under FGSM and under
BIM of dissimilarity 0.04 on ResNet-20, which then classifies them.

    1000 images         20 patches of each, all steps, K 8, a patch at every second pixel: what other rows differ from
    100 images, 10      200 patches of each, or all 625 that an image of 32² has
    noTR, noIS, …       without training, smoothing, equation 17, the background's filter
    whole image         K 8 everywhere, no region
    K …                 other numbers of atoms a patch
    stride …            a patch at every pixel, or every fourth

What is in FILE already is not done again, so that it can be interrupted.
"""

import argparse
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from dictionary_bundles import training_images
from stl_choices import validation
from torch import Tensor

import raypurify
from raypurify.attacks import BIM, FGSM
from raypurify.bundle import Calibration, save_bundle
from raypurify.config import load_settings
from raypurify.evaluation.clock import clock
from raypurify.evaluation.intervals import paired, wilson
from raypurify.nets.cifar_resnet import load_cifar_resnet
from raypurify.purifiers import Bundled, localisation, region_sparse
from raypurify.purifiers.localisation import share_of
from raypurify.purifiers.region_sparse import region_sparse_tensors
from raypurify.training.patches import benign_patches, patch_dictionary

RESULTS = Path(__file__).parent / "results" / "region_choices.json"
EPS, BATCH, PATCHES = 0.04, 100, 20_000
BASE = "1000 images"
ROWS: dict[str, dict[str, Any]] = {
    BASE: {},
    "100 images": {"images": 100},
    "10 images": {"images": 10},
    "noTR": {"ablations": ("noTR",)},
    "noIS": {"ablations": ("noIS",)},
    "noPN": {"ablations": ("noPN",)},
    "noBS": {"ablations": ("noBS",)},
    "whole image": {"whole": True},
    "K 2": {"region": {"nonzeros": 2}},
    "K 4": {"region": {"nonzeros": 4}},
    "K 16": {"region": {"nonzeros": 16}},
    "stride 4": {"region": {"stride": 4}},
    "stride 1": {"region": {"stride": 1}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    found = json.loads(arguments.out.read_text("utf-8")) if arguments.out.exists() else {}
    if found.get("images", arguments.images) != arguments.images:
        parser.error(f"{arguments.out} is of {found['images']} images: give another --out")
    found |= {"images": arguments.images, "attacks": ["clean", f"FGSM {EPS}", f"BIM {EPS}"]}
    found.setdefault("purified", {})
    found.setdefault("right", {})
    network = load_cifar_resnet(next((arguments.data / "cifar10-resnet").glob("resnet20-*.th")))
    images, labels = validation(arguments.data, arguments.images)
    sets = [images, *(attacked(one, network, images, labels) for one in (FGSM, BIM))]
    seen = training_images(arguments.data, raypurify.load("cifar10"), 1000)
    write(arguments.out, found, "none", judged(network, sets, images, labels, found, "none"))
    for name, changes in ROWS.items():
        if name in found["purified"]:
            continue
        purifier, seconds = made(seen, **changes)
        begun, done, shares = clock(), [], []
        for one in sets:
            parts = [purified(purifier, part, changes.get("whole", False)) for part in one.split(BATCH)]
            done.append(torch.cat([part.images for part in parts]))
            shares += [share_of(part.region, *images.shape[-2:]) for part in parts]
        milliseconds = 1000 * (clock() - begun) / len(sets) / len(images)
        row = judged(network, done, images, labels, found, name)
        row |= {"ms_per_image": round(milliseconds, 1), "learned_in_s": round(seconds, 1)}
        row["region_share"] = round(float(torch.cat(shares).mean()), 3)
        base = found["right"][BASE]
        row["less_base"] = [
            {key: round(value, 4) for key, value in vars(paired(np.array(one, bool), np.array(other, bool))).items()}
            for one, other in zip(found["right"][name], base)
        ]
        write(arguments.out, found, name, row)


def table(found: dict[str, Any]) -> str:
    """The table of docs/algorithm.md from what is in the results."""
    lines = [
        "| | clean | FGSM-0.04 | BIM-0.04 | PSNR, clean | PSNR, FGSM | share | ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in found["purified"].items():
        accuracy = [
            f"{100 * value:.1f} ({100 * low:.1f}–{100 * high:.1f})"
            for value, (low, high) in zip(row["accuracy"], row["interval"])
        ]
        clean, attacked = (f"{value:.1f}" for value in row["psnr"][:2])
        cost = ["–", "–"]
        if "region_share" in row:
            cost = [
                "100 %" if ROWS[name].get("whole") else f"{row['region_share']:.0%}".replace("%", " %"),
                f"{row['ms_per_image']:.1f}",
            ]
        label = {"none": "not purified", BASE: f"{BASE}, K 8, stride 2"}.get(name, name)
        lines.append(f"| {' | '.join([label, *accuracy, '–' if name == 'none' else clean, attacked, *cost])} |")
    return "\n".join(lines)


def write(out: Path, found: dict[str, Any], name: str, row: dict[str, Any]) -> None:
    found["purified"][name] = row
    print(name, row, flush=True)
    lines = [f'  "{key}": {json.dumps(value)}' for key, value in found["right"].items()]
    text = json.dumps({key: value for key, value in found.items() if key != "right"}, indent=1, ensure_ascii=False)
    out.write_text(text[:-2] + ',\n "right": {\n' + ",\n".join(lines) + "\n }\n}\n", "utf-8")


def attacked(kind: Any, network: torch.nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    attack = kind(EPS, "dissimilarity")
    return torch.cat([attack(network, *pair).detach() for pair in zip(images.split(BATCH), labels.split(BATCH))])


def made(
    seen: Tensor,
    images: int = 1000,
    ablations: tuple[str, ...] = (),
    region: dict[str, Any] | None = None,
    patches: dict[str, Any] | None = None,
    whole: bool = False,
) -> tuple[Bundled, float]:
    """The purifier of a row, from a bundle on disk as a fit writes it, and the seconds that its dictionary took."""
    # The background's filter is no part of learning.
    learning = tuple(name for name in ablations if name != "noBS"), tuple((patches or {}).items())
    dictionary, seconds = learned(seen, images, *learning)
    settings = settings_of(images, ablations, learning[1])
    settings = settings.model_copy(update={"region": settings.region.model_copy(update=region or {})})
    with tempfile.TemporaryDirectory() as folder:
        save_bundle(
            folder,
            region_sparse_tensors(dictionary),
            method="region_sparse",
            name="choice",
            settings=settings,
            classes=["any"],
            cluster_class=[None],
            dictionary_source=["0"],
            training_data={},
            training={},
            calibration=Calibration(distance_threshold=0.0, quantile=0.5, images=0),
            measured={},
        )
        return raypurify.load(folder), seconds


def settings_of(images: int, ablations: tuple[str, ...], changed: tuple[tuple[str, Any], ...]) -> Any:
    settings = load_settings("cifar10-region")
    count = {"images": images, "per_image": min(PATCHES // images, 625)}
    patches = settings.patches.model_copy(update=count | dict(changed))
    region = settings.region.model_copy(update={"nonzeros": 8, "stride": 2})
    return settings.model_copy(update={"patches": patches, "region": region, "ablations": ablations})


@cache
def learned(
    seen: Tensor, images: int, ablations: tuple[str, ...], changed: tuple[tuple[str, Any], ...]
) -> tuple[Tensor, float]:
    begun, settings = clock(), settings_of(images, ablations, changed)
    patches = benign_patches(seen[:images], range(images), settings.patches, ablations, settings.seed)
    dictionary = patch_dictionary(patches, settings.patches, ablations, settings.seed, lambda count: None)
    return dictionary, clock() - begun


def purified(purifier: Bundled, images: Tensor, whole: bool) -> Any:
    if not whole:
        return purifier.purify(images)
    height, width = images.shape[-2:]
    boxes = torch.tensor([[0, 0, width, height]]).repeat(len(images), 1)
    everywhere = localisation.Boxes(boxes, torch.zeros(len(images), dtype=torch.bool))
    with patch.object(region_sparse, "object_boxes", lambda images, least: everywhere):
        return purifier.purify(images)


def judged(
    network: torch.nn.Module, done: list[Tensor], images: Tensor, labels: Tensor, found: dict[str, Any], name: str
) -> dict[str, Any]:
    """Accuracy and its interval, and PSNR to the clean image in dB, of each set; which images are right is kept."""
    with torch.no_grad():
        right = [torch.cat([network(part).argmax(1) for part in one.split(BATCH)]) == labels for one in done]
    found["right"][name] = [one.int().tolist() for one in right]
    errors = [(one - images).square().mean((1, 2, 3)).clamp(min=1e-10) for one in done]
    return {
        "accuracy": [round(float(one.float().mean()), 4) for one in right],
        "interval": [[round(end, 4) for end in wilson(int(one.sum()), len(one))] for one in right],
        "psnr": [round(float((-10 * error.log10()).mean()), 2) for error in errors],
    }


if __name__ == "__main__":
    main()
