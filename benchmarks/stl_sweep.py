"""What STL's parameters do: λ, the number of filters and their size, and the number of strata (figures 5 and 7).

    python benchmarks/stl_sweep.py --data DIR [--images 400] [--learn 20000] [--out FILE]
    python benchmarks/stl_sweep.py --table

DIR holds ``cifar10/train-*.parquet`` and ``cifar10-resnet/``. One parameter is changed at a time from what the shipped
``cifar10-stl`` has: 4 strata, 64 filters of 8×8, λ 0.2. Its auto-encoder stays; strata are found anew among ``--learn``
of the training images, and each stratum's dictionary is learned from 256 of its own. At another λ images are coded with
the dictionaries of λ 0.2. Held-out images, clean and under FGSM of dissimilarity 0.08 on ResNet-20, are rewritten and
classified by it. ``--table`` draws the same numbers as ``docs/stl_sweep.png``.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dictionary_bundles import learn, training_images
from stl_choices import BATCH, judged, validation
from torch import Tensor

import raypurify
from raypurify.attacks import FGSM
from raypurify.bundle import Bundle
from raypurify.bundle.names import DICTIONARIES
from raypurify.bundle.tensors import Tensors
from raypurify.clusters import fit_strata
from raypurify.evaluation.clock import clock
from raypurify.evaluation.intervals import paired
from raypurify.evaluation.tables import as_markdown
from raypurify.nets.cifar_resnet import load_cifar_resnet
from raypurify.pictures import png, pyplot
from raypurify.purifiers.stl import STL, stl_tensors

RESULTS = Path(__file__).parent / "results" / "stl_sweep.json"
PICTURE = Path(__file__).parents[1] / "docs" / "stl_sweep.png"
BASE: dict[str, float] = {"strata": 4, "filters": 64, "size": 8, "λ": 0.2}
SWEEPS: dict[str, tuple[float, ...]] = {
    "λ": (0.05, 0.1, 0.3, 0.45),
    "filters": (16, 32, 128),
    "size": (4, 6, 12, 16, 32),
    "strata": (1, 2, 8),
}
LABELS = {"λ": "λ", "filters": "filters K", "size": "side of a filter S", "strata": "strata"}
EPS = 0.08


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--learn", type=int, default=20000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the table of the results file")
    arguments = parser.parse_args()
    if arguments.table:
        found = json.loads(RESULTS.read_text("utf-8"))
        PICTURE.write_bytes(picture(found))
        print(table(found))
        return
    if arguments.data is None:
        parser.error("--data is needed")
    network = load_cifar_resnet(next((arguments.data / "cifar10-resnet").glob("resnet20-*.th")))
    images, labels = validation(arguments.data, arguments.images)
    attack = FGSM(EPS, "dissimilarity")
    attacked = torch.cat([attack(network, *pair).detach() for pair in zip(images.split(BATCH), labels.split(BATCH))])
    shipped = raypurify.load("cifar10-stl")
    seen = training_images(arguments.data, shipped, arguments.learn)
    latents = torch.cat([shipped.latents(some) for some in seen.split(500)])
    hits: dict[str, np.ndarray] = {}
    rows = {"none": judged(images, attacked, images, labels, network, hits, "none")}
    found: dict[str, Any] = {"images": arguments.images, "learned_from": arguments.learn, "eps": EPS, "purified": rows}
    made: dict[tuple[float, ...], Tensors] = {}
    for name, how in settings().items():
        key = how["strata"], how["filters"], how["size"]
        if key not in made:
            made[key] = learned(shipped, seen, latents, *map(int, key))
        purifier = STL(changed(shipped.bundle, made[key], how["λ"]))
        begun = clock()
        done = [torch.cat([purifier.purify(some).images for some in of.split(BATCH)]) for of in (images, attacked)]
        seconds = clock() - begun
        rows[name] = judged(*done, images, labels, network, hits, name)
        rows[name]["ms_per_image"] = round(1000 * seconds / 2 / len(images), 1)
        less = [vars(paired(one, other)) for one, other in zip(hits[name], hits["as shipped"])]
        rows[name]["less_base"] = [{part: round(value, 4) for part, value in one.items()} for one in less]
        print(name, rows[name], flush=True)
        arguments.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")


def settings() -> dict[str, dict[str, float]]:
    """The settings by name, as shipped first."""
    return {"as shipped": BASE} | {
        f"{part} {value:g}": BASE | {part: value} for part, values in SWEEPS.items() for value in values
    }


def learned(shipped: STL, seen: Tensor, latents: Tensor, strata: int, filters: int, size: int) -> Tensors:
    """The tensors of the shipped bundle with other strata and dictionaries."""
    settings = shipped.settings
    fitted = fit_strata(latents, settings.strata.model_copy(update={"count": strata}), settings.seed)
    how = settings.dictionaries.model_copy(update={"atoms": filters, "size": size})
    of = torch.from_numpy(fitted.labels)
    atoms = torch.stack([learn(shipped, seen[of == k][: how.images], how) for k in range(fitted.strata.count)])
    return stl_tensors(shipped.network, fitted.strata, atoms)


def changed(bundle: Bundle, tensors: Tensors, lmbda: float) -> Bundle:
    """A bundle with these tensors, that codes at this λ."""
    csc = bundle.settings.csc.model_copy(update={"lmbda": lmbda})
    classes = [None] * len(tensors[DICTIONARIES]["atoms"])
    update = {"settings": bundle.settings.model_copy(update={"csc": csc}), "cluster_class": classes}
    return replace(bundle, manifest=bundle.manifest.model_copy(update=update), tensors=tensors)


def table(found: dict[str, Any]) -> str:
    """The results as Markdown: accuracies in percent with 95 % intervals, PSNR to the clean image in dB."""
    body = []
    for name, row in found["purified"].items():
        shown = [
            f"{100 * value:.1f} ({100 * low:.1f}–{100 * high:.1f})"
            for value, (low, high) in zip(row["accuracy"], row["interval"])
        ]
        psnr = [f"{value:.1f}" for value in row["psnr"]]
        body.append(["not purified" if name == "none" else name, *shown, *(psnr if name != "none" else ("–", psnr[1]))])
    return as_markdown(["", "clean", f"FGSM-{found['eps']}", "PSNR, clean", "PSNR, attacked"], body)


def picture(found: dict[str, Any]) -> bytes:
    """The accuracies as curves with their 95 % bands, a plot for each parameter, after figures 5 and 7 of the paper."""
    figure, axes = pyplot().subplots(1, len(SWEEPS), figsize=(12, 3.2), sharey=True, layout="constrained")
    rows = found["purified"]
    for axis, (part, values) in zip(axes, SWEEPS.items()):
        at = {value: f"{part} {value:g}" for value in values} | {BASE[part]: "as shipped"}
        places = sorted(at)
        for kind, name in enumerate(("clean", f"FGSM-{found['eps']}")):
            color, heights = f"C{kind}", [rows[at[place]]["accuracy"][kind] for place in places]
            low, high = zip(*(rows[at[place]]["interval"][kind] for place in places))
            axis.plot(places, heights, "o-", ms=4, color=color, label=name)
            axis.fill_between(places, low, high, color=color, alpha=0.15, linewidth=0)
            axis.axhline(rows["none"]["accuracy"][kind], color=color, linestyle=":", linewidth=1)
        axis.axvline(BASE[part], color="0.8", linewidth=1, zorder=0)
        axis.set(xscale="log", xlabel=LABELS[part], xticks=places, xticklabels=[f"{place:g}" for place in places])
        axis.minorticks_off()
    axes[0].set(ylabel="accuracy", ylim=(0, 1.02))
    axes[-1].legend(fontsize=7)
    return png(figure)


if __name__ == "__main__":
    main()
