"""The measures of ``pull.py``: what a robust network with clusters and dictionaries comes to, and the table of it."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import t as student
from torch import Tensor, nn

from raypurify.attacks import PGD
from raypurify.attacks.budget import eight_bit
from raypurify.clusters.files import load_clusters
from raypurify.config import Settings
from raypurify.evaluation.tables import as_markdown
from raypurify.images import decode_image, to_float
from raypurify.nets.cifar_resnet import load_cifar_resnet
from raypurify.nets.store import load_network
from raypurify.purifiers.rewriting import rewrite

TARGET = "cifar10-resnet/resnet20-12fca82f.th"
STEPS, BATCH = 20, 250
STARTS = {"ce": "PGD-AT", "trades": "TRADES"}
# What is measured, and how a table calls it: distances, and shares in percent.
MEASURES = {
    "class_clean": "nearest cluster of the right class, clean",
    "class_gray": "the same, attacked gray-box",
    "class_white": "the same, attacked itself",
    "same_gray": "nearest cluster that of the clean image, attacked gray-box",
    "same_white": "the same, attacked itself",
    "distance_clean": "distance of a clean image to its cluster",
    "shift_gray": "further from it, attacked gray-box",
    "shift_white": "further from it, attacked itself",
    "clean": "accuracy of the robust network, clean",
    "white": "accuracy of the robust network, attacked itself",
    "purified_clean": "accuracy of ResNet-20, purified, clean",
    "purified_gray": "accuracy of ResNet-20, purified, attacked gray-box",
}


class Subject:
    """What is measured: a robust network, with the clusters and dictionaries of its seed."""

    def __init__(self, folder: Path, network: Path, settings: Settings):
        tensors = load_file(folder / "dictionaries.safetensors")
        self.network = load_network(network).to(device()).eval()
        self.distributions = load_clusters(folder / "clusters")[0].to(device())
        self.atoms, self.cluster_class = (tensors[name].to(device()) for name in ("atoms", "cluster_class"))
        self.csc, self.attack = settings.csc, PGD(settings.robust.attack.eps, settings.robust.attack.norm, STEPS)

    def nearest(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Distances (N, K) to all clusters, and the nearest of them (N,)."""
        distance = self.distributions.distance(self.network.latents(images))
        return distance, distance.argmin(1)

    def purify(self, images: Tensor, cluster: Tensor) -> Tensor:
        return eight_bit(rewrite(images, self.atoms, self.csc, index=cluster, sparse=True)[0])


def measure(subject: Subject, data: Path, out: Path, count: int) -> dict[str, float]:
    """Every measure of ``MEASURES``, and the mean distance of clean images to their nearest cluster."""
    target = load_cifar_resnet(data / TARGET).to(device())
    images, labels = (part.to(device()) for part in first_images(data / "cifar10" / "test.parquet", count))
    gray = attacked_on_target(out, target, images, labels, subject.attack).to(device())
    of: dict[str, list[Tensor]] = {}

    def add(name: str, values: Tensor) -> None:
        of.setdefault(name, []).append(values.float().cpu())

    for x, from_target, y in zip(images.split(BATCH), gray.split(BATCH), labels.split(BATCH)):
        on_robust = eight_bit(subject.attack(subject.network, x, y, generator=torch.Generator().manual_seed(0)))
        with torch.no_grad():
            distance, own = subject.nearest(x)
            add("distance_clean", distance.amin(1))
            add("clean", subject.network(x).argmax(1) == y)
            add("white", subject.network(on_robust).argmax(1) == y)
            add("class_clean", subject.cluster_class[own] == y)
            add("purified_clean", target(subject.purify(x, own)).argmax(1) == y)
            for kind, shown in (("gray", from_target), ("white", on_robust)):
                further, chosen = subject.nearest(shown)
                add(f"class_{kind}", subject.cluster_class[chosen] == y)
                add(f"same_{kind}", chosen == own)
                add(f"shift_{kind}", (further - distance).gather(1, own[:, None])[:, 0])
                if kind == "gray":
                    add("purified_gray", target(subject.purify(shown, chosen)).argmax(1) == y)
                    add("undefended_gray", target(shown).argmax(1) == y)
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


def table(results: dict) -> str:
    """Of every start a table in Markdown: means over seeds at α = 0, and what the other α add, of the same seeds."""
    runs = {(one["start"], one["alpha"], one["seed"]): one for one in results["runs"]}
    parts = []
    for start in dict.fromkeys(key[0] for key in runs):
        alphas = [a for a in dict.fromkeys(key[1] for key in runs) if a]
        seeds = [s for s in dict.fromkeys(key[2] for key in runs) if all((start, a, s) in runs for a in (0, *alphas))]
        head = [f"from {STARTS[start]}, {len(seeds)} seeds", "α = 0", *(f"α = {a:g}, minus α = 0" for a in alphas)]
        body = []
        for name, shown in MEASURES.items():
            scale, digits = (1, 2) if name.startswith(("shift", "distance")) else (100, 1)
            values = {a: scale * np.array([runs[start, a, s][name] for s in seeds]) for a in (0, *alphas)}
            body.append(
                [
                    shown,
                    f"{values[0].mean():.{digits}f}",
                    *(difference(values[a] - values[0], digits) for a in alphas),
                ]
            )
        parts.append(as_markdown(head, body))
    return "\n\n".join(parts)


def difference(values: np.ndarray, digits: int) -> str:
    """A mean of differences with its 95 % t interval, which one seed has not."""
    mean, count = values.mean(), len(values)
    if count < 2:
        return f"{mean:+.{digits}f}"
    half = student.ppf(0.975, count - 1) * values.std(ddof=1) / count**0.5
    return f"{mean:+.{digits}f} ({mean - half:+.{digits}f} to {mean + half:+.{digits}f})"
