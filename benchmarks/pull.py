"""Does the pull of RSFP's equation 7 help? Robust training with α = 0 against α > 0, all else the same.

    python benchmarks/pull.py --data DIR --out OUT [--preset cifar10-small] [--alphas 0 0.01 0.05 0.2] [--seeds 3]
        [--semantic pcl=0.01 …] [--starts ce trades] [--images 1000] [--set A.B=V …]

DIR holds ``cifar10/train-*.parquet``, ``cifar10/test.parquet`` and ``cifar10-resnet/``. For every seed: the preset's
baseline network, the clusters of its latents and a dictionary for each; then PGD adversarial training (``ce``) and
TRADES from random weights, without a pull; then from the weights of each, for half the epochs at a fifth of the rate,
equation 7 with every α, the same images in the same order. α = 0 is what comes of training on without the pull.
``--semantic`` adds trainings with other losses in the place of the pull, each with its α, which are not of one scale;
they are paired with α = 0 and with the pull. Settings of theirs, such as ``robust.push``, are given by ``--set``.

Measured on the first test images, clean, attacked by PGD within the preset's budget on a ResNet-20 that knows nothing
of all this (gray-box: what a purifier sees) and on the robust network itself: whether the nearest cluster is of the
right class, whether it is the clean image's own, how much further the image is from that one, and accuracy: of the
robust network, and of the ResNet-20 on what RSFP makes of the images with this network choosing the cluster. Clusters
are those of the baseline's latents; as only the pull keeps a network's latents near them, each is measured also with
the distributions of the same clusters in its own latents of the clean training images.

Everything is a file below OUT: run again after an interruption, or with more seeds, it goes on. Another preset,
``--set`` or number of images needs another OUT. ``--minutes`` stops before the next training. ``--table`` prints the
results file as Markdown.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from cifar import all_images
from cluster_forms import Regime, clusters_of
from pull_measures import Subject, device, measure
from pull_table import MEASURES, PULL, STARTS, Arm, table
from safetensors.torch import save_file
from table1 import of_row
from torch import Tensor, nn

from raypurify.clusters import ClusterDistributions
from raypurify.clusters.files import load_clusters, write_clusters
from raypurify.config import Settings, load_settings
from raypurify.files import fingerprint, read_json, write_json
from raypurify.nets.store import load_network
from raypurify.purifiers import learn_global_dictionary
from raypurify.storage import resolve
from raypurify.supervision import OF_CLASSES
from raypurify.training.data import ImageSet
from raypurify.training.data import clusters_of as own_clusters
from raypurify.training.held_out import hold_out
from raypurify.training.record import device_name
from raypurify.training.single import NETWORK, train_here

RESULTS = Path(__file__).parent / "results" / "pull.json"
# The study has its own trainings before.
OWN = ("robust_first=null", "robust.init=random")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--preset", default="cifar10-small")
    parser.add_argument("--alphas", type=float, nargs="+", default=[0.0, 0.01, 0.05, 0.2])
    parser.add_argument(
        "--semantic", action="append", type=arm_of, default=[], metavar="LOSS=ALPHA", help="may be repeated"
    )
    parser.add_argument("--starts", nargs="+", default=["ce", "trades"], choices=STARTS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--set", action="append", default=[], metavar="A.B=V", help="one setting; may be repeated")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(json.loads(arguments.results.read_text("utf-8"))))
        return
    if arguments.data is None or arguments.out is None:
        parser.error("give --data and --out")
    settings = load_settings(preset=arguments.preset, overrides=(*OWN, *arguments.set))
    claim(arguments.out, settings, arguments.images)
    results = {
        "command": "python benchmarks/pull.py --data DIR --out OUT "
        f"--preset {arguments.preset} --alphas {' '.join(f'{a:g}' for a in arguments.alphas)} "
        f"--starts {' '.join(arguments.starts)} --seeds {arguments.seeds} --images {arguments.images}"
        + "".join(f" --semantic {arm.semantic}={arm.alpha:g}" for arm in arguments.semantic)
        + "".join(f" --set {one}" for one in arguments.set),
        "device": device_name(torch.device(device())),
        "settings": settings.model_dump(include={"data", "network", "baseline", "clusters", "dictionaries", "robust"}),
        "images": arguments.images,
        "runs": list(study(arguments, settings)),
    }
    write_json(resolve(arguments.results), results)
    print(table(results))


def arm_of(text: str) -> Arm:
    """What is given as LOSS=ALPHA, a loss of classes and its weight."""
    semantic, _, alpha = text.partition("=")
    try:
        arm = Arm(semantic, float(alpha))
    except ValueError:
        arm = Arm(semantic, 0.0)
    if semantic not in OF_CLASSES or not 0 < arm.alpha < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: give one of {', '.join(OF_CLASSES)} and its α > 0, as pcl=0.01")
    return arm


def claim(out: Path, settings: Settings, images: int) -> None:
    """Make a folder that of one study. Ends the program where it is another's, whose files would be taken for ours."""
    mine = {"settings": fingerprint(settings.model_dump(mode="json")), "images": images}
    file = resolve(out / "study.json")
    if (found := read_json(file)) is None and not (out / "seed-0").exists():
        write_json(file, mine)
    elif found != mine:
        raise SystemExit(f"{out} holds a study with other settings or images: give another --out")


def study(arguments, settings: Settings) -> Iterator[dict]:
    """What each training came to, one after the other, from their files where they are there."""
    end = time.monotonic() + 60 * arguments.minutes
    everything = None
    arms = [*(Arm(PULL, alpha) for alpha in arguments.alphas), *arguments.semantic]
    for seed in range(arguments.seeds):
        for start in arguments.starts:
            for arm in arms:
                folder = arguments.out / f"seed-{seed}"
                file = resolve(folder / f"{start}-{arm.folder}" / "measured.json")
                # Of an earlier version it may lack some.
                if (found := read_json(file)) is None or MEASURES.keys() - found:
                    if time.monotonic() > end:
                        return
                    everything = everything or all_images(arguments.data, arguments.out)
                    seeded = settings.model_copy(update={"seed": seed})
                    subject = train(folder, everything, seeded, start, arm)
                    found = {"seed": seed, "start": start, **arm._asdict()}
                    found |= measure(subject, arguments.data, arguments.out, arguments.images)
                    write_json(file, found)
                print(found, flush=True)
                yield found


def train(folder: Path, everything: ImageSet, settings: Settings, start: str, arm: Arm) -> Subject:
    """Train what this arm needs and is not there yet; everything of a seed lies in ``folder``."""
    images, held_out = hold_out(everything, settings.data, settings.seed)
    baseline, clusters = folder / "baseline", folder / "clusters"
    if not (baseline / NETWORK).exists():
        train_here(baseline, images, held_out, settings)
    if not (folder / "dictionaries.safetensors").exists():
        latents = latents_of(load_network(baseline / NETWORK).to(device()), images)
        own, cluster_class = write_all_clusters(clusters, images, latents, len(everything), settings)
        atoms = [dictionary_of(images, own == k, settings) for k in range(len(cluster_class))]
        save_file(
            {"atoms": torch.stack(atoms), "cluster_class": torch.from_numpy(cluster_class)},
            folder / "dictionaries.safetensors",
        )
    before = folder / start
    if not (before / NETWORK).exists():
        train_here(before, images, held_out, of_row(settings, start, False, None), robust=True)
    held = settings.model_copy(update={"robust": settings.robust.model_copy(update=arm._asdict())})
    how, out = of_row(held, "ce", bool(arm.alpha), before / NETWORK), folder / f"{start}-{arm.folder}"
    pulled = arm.semantic == PULL and arm.alpha
    train_here(out, images, held_out, how, robust=True, clusters=clusters if pulled else None)
    network = load_network(out / NETWORK).to(device())
    own = in_its_latents(network, images, clusters, settings)
    return Subject(folder, network, own, settings)


def in_its_latents(network: nn.Module, images: ImageSet, clusters: Path, settings: Settings) -> ClusterDistributions:
    """The distributions of the clusters of these images in the latents of another network than they were found in."""
    found, cluster_of_row = load_clusters(clusters)
    labels = own_clusters(images.rows, cluster_of_row, found.clusters)
    how = settings.clusters
    return ClusterDistributions.fit(latents_of(network, images), labels, form=how.form, rank=how.rank)


def latents_of(network: nn.Module, images: ImageSet) -> np.ndarray:
    batches = images.batches(np.arange(len(images)), 512)
    with torch.no_grad():
        return torch.cat([network.latents(one.images.to(device()).float() / 255).cpu() for one in batches]).numpy()


def write_all_clusters(
    folder: Path, images: ImageSet, latents: np.ndarray, rows: int, settings: Settings
) -> tuple[np.ndarray, np.ndarray]:
    """Cluster every class as a fit does; the cluster of each image, and the class of each cluster."""
    how = settings.clusters
    classes = [(at, latents[at]) for at in (np.flatnonzero(images.labels == c) for c in range(10))]
    ordered, labels, cluster_class = clusters_of(classes, Regime("elbow", k=how.k), how, settings.seed)
    own = np.empty(len(images), np.int64)
    own[np.concatenate([at for at, _ in classes])] = labels
    state = ClusterDistributions.fit(ordered, labels, form=how.form, rank=how.rank).state()
    cluster_of_row = np.full(rows, -1, np.int64)
    cluster_of_row[images.rows] = own
    arrays = {name: part.numpy() for name, part in state.items()}
    write_clusters(folder, how.form, arrays, cluster_of_row, cluster_class.tolist(), np.bincount(own), [])
    return own, cluster_class


def dictionary_of(images: ImageSet, members: np.ndarray, settings: Settings) -> Tensor:
    some = images.images[np.flatnonzero(members)[: settings.dictionaries.images]]
    return learn_global_dictionary(torch.from_numpy(some).float() / 255, settings.dictionaries, settings.csc)


if __name__ == "__main__":
    main()
