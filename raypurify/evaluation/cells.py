"""One cell of a grid on one batch: attack, purify, classify, and keep what came of every image.

    OUT/adversarial/<key>.safetensors      attacked images; the key is a digest of classifier, attack, images and seed
    OUT/cells/<key>.parquet                what one purifier made of them; the key adds the purifier's digest, and
                                           the classifier's where the attacker takes it for another one

A key holds all that decides the content, so a grid that was interrupted or changed computes what is new in it, and a
file is never wrong.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from raypurify.attacks.budget import size
from raypurify.evaluation import grid
from raypurify.evaluation.images import GridBatch
from raypurify.evaluation.knowledge import perturb
from raypurify.evaluation.subjects import make_attack, make_classifier, make_purifier, predict
from raypurify.files import fingerprint, replacing

COLUMNS = pa.schema(
    [
        ("id", pa.string()),
        ("label", pa.int64()),
        ("predicted", pa.int64()),
        ("correct", pa.bool_()),
        ("dissimilarity", pa.float32()),
        ("linf", pa.float32()),
        ("cluster", pa.int64()),
        ("cluster_class", pa.string()),
        ("distance", pa.float32()),
        ("flagged", pa.bool_()),
        ("relative_change", pa.float32()),
    ]
)


@dataclass(frozen=True)
class Keys:
    """The keys of a cell's files: what was attacked, and what one purifier made of it."""

    adversarial: str
    cell: str


def keys_of(specs: grid.Grid, digests: dict[str, dict[str, str]], names: tuple[str, str, str], images: str) -> Keys:
    """The keys of (classifier, attack, purifier) on the images of that digest."""
    classifier, attack, purifier = names
    spec = specs.attacks[attack]
    victim = specs.classifiers[classifier].attacked_as or classifier
    known = digests["purifiers"][purifier] if spec.knows != "classifier" else None
    decisive = spec.model_dump(exclude={"worst"})
    adversarial = fingerprint(
        digests["classifiers"][victim], decisive, known, images, specs.seed, specs.batch, specs.eight_bit
    )
    seen = [digests["purifiers"][purifier]] + ([digests["classifiers"][classifier]] if victim != classifier else [])
    return Keys(adversarial, fingerprint(adversarial, *seen))


class Cells:
    """Computes cells; classifiers and purifiers are made once."""

    def __init__(self, specs: grid.Grid, digests: dict[str, dict[str, str]], out: Path, device: str = "cpu"):
        self.specs, self.digests, self.out, self.device = specs, digests, Path(out), device
        self._made: dict[tuple[str, str], Callable] = {}

    def do(self, names: tuple[str, str, str], batch: GridBatch) -> None:
        """Compute one cell on one batch, and write it."""
        classifier, attack, purifier = names
        keys = keys_of(self.specs, self.digests, names, batch.digest)
        taken_for = self.specs.classifiers[classifier].attacked_as or classifier
        network, victim = (self._once("classifiers", name, make_classifier) for name in (classifier, taken_for))
        defence = self._once("purifiers", purifier, make_purifier)
        labels = torch.from_numpy(batch.labels).to(self.device)
        clean = torch.from_numpy(batch.pixels).to(self.device).float() / 255
        attacked = self._attacked(attack, keys.adversarial, victim, defence, clean, labels)
        begun = time.perf_counter()
        done = defence.purify(attacked)
        seconds = time.perf_counter() - begun
        cluster, known = done.cluster.cpu().numpy(), getattr(defence, "classes_of_cluster", None)
        shown = _eight_bit(done.images) if self.specs.eight_bit else done.images
        predicted = predict(network, shown)
        columns = {
            "id": list(batch.ids),
            "label": batch.labels,
            "predicted": predicted.cpu().numpy(),
            "correct": (predicted == labels).cpu().numpy(),
            "dissimilarity": size(attacked - clean, clean, "dissimilarity").cpu().numpy(),
            "linf": size(attacked - clean, clean, "linf").cpu().numpy(),
            "cluster": cluster,
            "cluster_class": [known[k] for k in cluster] if known else [None] * len(cluster),
            **{name: getattr(done, name).cpu().numpy() for name in ("distance", "flagged", "relative_change")},
        }
        table = pa.table(columns, schema=COLUMNS).replace_schema_metadata({"seconds": repr(seconds)})
        with replacing(self.out / "cells" / f"{keys.cell}.parquet") as temporary:
            pq.write_table(table, temporary)

    def _attacked(self, name: str, key: str, network, defence, clean: Tensor, labels: Tensor) -> Tensor:
        """The attacked images, from the cache where they are there."""
        spec = self.specs.attacks[name]
        attack = make_attack(name, spec)
        if attack is None:
            return clean
        if (found := read_attacked(self.out, key)) is not None:
            return found.to(self.device)
        generator = torch.Generator().manual_seed(int(key[:15], 16))
        attacked = perturb(attack, spec.knows, network, defence, clean, labels, generator)
        if self.specs.eight_bit:
            attacked = _eight_bit(attacked)
        stored = (attacked * 255).round().to(torch.uint8) if self.specs.eight_bit else attacked
        file = self.out / "adversarial" / f"{key}.safetensors"
        with replacing(file) as temporary:
            save_file({"images": stored.cpu().contiguous()}, temporary)
        return attacked

    def _once(self, group: str, name: str, make: Callable):
        if (group, name) not in self._made:
            spec = getattr(self.specs, group)[name]
            arguments = (spec,) if group == "classifiers" else (name, spec)
            self._made[group, name] = make(*arguments, device=self.device)
        return self._made[group, name]


def read_attacked(out: Path, key: str) -> Tensor | None:
    """The attacked images of a key (n, 3, H, W) in [0, 1], None where there are none."""
    file = Path(out) / "adversarial" / f"{key}.safetensors"
    if not file.exists():
        return None
    stored = load_file(file)["images"]
    return stored.float() / 255 if stored.dtype == torch.uint8 else stored


def read_cell(out: Path, key: str) -> pa.Table | None:
    """What :meth:`Cells.do` wrote, None where it is not there; the time it took is in the metadata."""
    file = Path(out) / "cells" / f"{key}.parquet"
    return pq.read_table(file) if file.exists() else None


def _eight_bit(images: Tensor) -> Tensor:
    return (images * 255).round() / 255


def summed(tables: list[pa.Table]) -> tuple[dict[str, np.ndarray], float]:
    """The columns of the batches of a cell as arrays, and seconds per image: the median of the batches."""
    joined = pa.concat_tables(tables)
    each = [float(table.schema.metadata[b"seconds"]) / len(table) for table in tables]
    return {name: joined[name].to_numpy(zero_copy_only=False) for name in COLUMNS.names}, float(np.median(each))
