"""The measures of ``pull.py``: what a robust network with clusters and dictionaries comes to."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from pull_table import OWN
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from raypurify.attacks import PGD
from raypurify.attacks.budget import eight_bit
from raypurify.clusters import ClusterDistributions
from raypurify.clusters.files import load_clusters
from raypurify.config import Settings
from raypurify.images import decode_image, to_float
from raypurify.nets.cifar_resnet import load_cifar_resnet
from raypurify.purifiers.rewriting import rewrite

TARGET = "cifar10-resnet/resnet20-12fca82f.th"
STEPS, BATCH = 20, 250


class Subject:
    """What is measured: a robust network, with the clusters and dictionaries of its seed.

    Distances are to the clusters' distributions in the baseline's latents, as RSFP has them, and to those in the
    network's ``own`` latents, which a training that pulls nowhere, or to centres of classes, does not keep near them.
    """

    def __init__(self, folder: Path, network: nn.Module, own: ClusterDistributions, settings: Settings):
        tensors = load_file(folder / "dictionaries.safetensors")
        self.network = network
        self.spaces = {"": load_clusters(folder / "clusters")[0].to(device()), OWN: own.to(device())}
        self.atoms, self.cluster_class = (tensors[name].to(device()) for name in ("atoms", "cluster_class"))
        self.csc, self.attack = settings.csc, PGD(settings.robust.attack.eps, settings.robust.attack.norm, STEPS)

    def purify(self, images: Tensor, cluster: Tensor) -> Tensor:
        return eight_bit(rewrite(images, self.atoms, self.csc, index=cluster, sparse=True)[0])


def measure(subject: Subject, data: Path, out: Path, count: int) -> dict[str, float]:
    """Every measure of ``pull_table.MEASURES``, and the others of these by either kind of distributions."""
    target = load_cifar_resnet(data / TARGET).to(device())
    images, labels = (part.to(device()) for part in first_images(data / "cifar10" / "test.parquet", count))
    gray = attacked_on_target(out, target, images, labels, subject.attack).to(device())
    of: dict[str, list[Tensor]] = {}

    def add(name: str, values: Tensor) -> None:
        of.setdefault(name, []).append(values.float().cpu())

    for x, from_target, y in zip(images.split(BATCH), gray.split(BATCH), labels.split(BATCH)):
        on_robust = eight_bit(subject.attack(subject.network, x, y, generator=torch.Generator().manual_seed(0)))
        with torch.no_grad():
            add("clean", subject.network(x).argmax(1) == y)
            add("white", subject.network(on_robust).argmax(1) == y)
            add("undefended_gray", target(from_target).argmax(1) == y)
            latents = {"clean": subject.network.latents(x)}
            latents |= {"gray": subject.network.latents(from_target), "white": subject.network.latents(on_robust)}
            for space, distributions in subject.spaces.items():
                distance = distributions.distance(latents["clean"])
                nearest = distance.argmin(1)
                add(f"{space}distance_clean", distance.amin(1))
                add(f"{space}class_clean", subject.cluster_class[nearest] == y)
                add(f"{space}purified_clean", target(subject.purify(x, nearest)).argmax(1) == y)
                for kind in ("gray", "white"):
                    further = distributions.distance(latents[kind])
                    chosen = further.argmin(1)
                    add(f"{space}class_{kind}", subject.cluster_class[chosen] == y)
                    add(f"{space}same_{kind}", chosen == nearest)
                    add(f"{space}shift_{kind}", (further - distance).gather(1, nearest[:, None])[:, 0])
                    if kind == "gray":
                        add(f"{space}purified_gray", target(subject.purify(from_target, chosen)).argmax(1) == y)
    return {name: round(float(torch.cat(parts).mean()), 4) for name, parts in of.items()}


def attacked_on_target(out: Path, target: nn.Module, images: Tensor, labels: Tensor, attack: PGD) -> Tensor:
    """The images attacked on the target, made once for all trainings."""
    file = out / f"attacked-{len(images)}-{attack.norm}-{attack.eps:g}.safetensors"
    if not file.exists():
        parts = [
            eight_bit(attack(target, x, y, generator=torch.Generator().manual_seed(0)))
            for x, y in zip(images.split(BATCH), labels.split(BATCH))
        ]
        save_file({"images": torch.cat(parts).cpu()}, file)
    return load_file(file)["images"]


def first_images(file: Path, count: int) -> tuple[Tensor, Tensor]:
    rows = pq.read_table(file)[:count]
    pixels = [to_float(decode_image(one).pixels) for one in rows["image"].to_pylist()]
    return torch.from_numpy(np.stack(pixels)), torch.tensor(rows["label"].to_pylist())


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
