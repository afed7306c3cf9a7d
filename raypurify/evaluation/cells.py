"""Cells of a grid on one batch: attack, purify, classify, and keep what came of every image."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from raypurify.attacks import NORMS, Attack
from raypurify.attacks.budget import eight_bit, size
from raypurify.errors import DataError, one_line
from raypurify.evaluation.attacked import attacked_images
from raypurify.evaluation.batches import GridBatch
from raypurify.evaluation.clock import clock
from raypurify.evaluation.grid import CellName
from raypurify.evaluation.plan import CellUnit, GridPlan
from raypurify.evaluation.subjects import Subjects, predict
from raypurify.evaluation.threat_model import done_about
from raypurify.purifiers.draws import draws_of
from raypurify.storage import Place, overlapped
from raypurify.training.denoising import psnr

COLUMNS = pa.schema(
    [
        ("id", pa.string()),
        ("label", pa.int64()),
        ("predicted", pa.int64()),
        ("correct", pa.bool_()),
        ("dissimilarity", pa.float32()),
        ("linf", pa.float32()),
        ("size", pa.float32()),
        ("psnr", pa.float32()),
        ("cluster", pa.int64()),
        ("cluster_class", pa.string()),
        ("distance", pa.float32()),
        ("flagged", pa.bool_()),
        ("relative_change", pa.float32()),
    ]
)


def compute_cells(plan: GridPlan, subjects: Subjects, unit: CellUnit, batch: GridBatch) -> None:
    """Compute the cells of a unit on its batch and write each to the file that the plan names.

    Attacked images are taken from their file where it is there, and else written to it.
    """
    network, device = subjects.classifier(unit.classifier), subjects.device
    attack = subjects.attack(unit.attack)
    labels = torch.from_numpy(batch.labels).to(device)
    clean = torch.from_numpy(batch.pixels).to(device).float() / 255
    for purifier in unit.purifiers:
        name = CellName(unit.classifier, unit.attack, purifier)
        attacked = attacked_images(plan, subjects, name, unit.batch, clean, labels)
        defence = subjects.purifier(purifier)
        begun = clock()
        # The first is the purifier's own, and all there is without an ensemble.
        purified, *others = (one.purify(attacked) for one in draws_of(defence, subjects.ensemble(purifier)))
        seconds = clock() - begun
        cluster, classes = purified.cluster.cpu().numpy(), getattr(defence, "classes_of_cluster", None)
        seen = eight_bit(purified.images) if plan.grid.eight_bit else purified.images
        predicted = predict(
            network, seen, *(eight_bit(one.images) if plan.grid.eight_bit else one.images for one in others)
        )
        columns = {
            "id": list(batch.ids),
            "label": batch.labels,
            "predicted": predicted.cpu().numpy(),
            "correct": (predicted == labels).cpu().numpy(),
            "dissimilarity": size(attacked - clean, clean, "dissimilarity").cpu().numpy(),
            "linf": size(attacked - clean, clean, "linf").cpu().numpy(),
            "size": _own_size(attack, attacked, clean).cpu().numpy(),
            "psnr": psnr(seen, clean).cpu().numpy(),
            "cluster": cluster,
            "cluster_class": [classes[k] for k in cluster] if classes else [None] * len(cluster),
            **{fact: getattr(purified, fact).cpu().numpy() for fact in ("distance", "flagged", "relative_change")},
        }
        known = subjects.purifier(plan.grid.known(name))
        facts = {"seconds": repr(seconds), "done": done_about(plan.grid.attacks[unit.attack].knows, known)}
        table = pa.table(columns, schema=COLUMNS).replace_schema_metadata(facts)
        with plan.cell(name, unit.batch).writing() as file:
            pq.write_table(table, file)


def read_columns(files: Sequence[Place]) -> tuple[dict[str, np.ndarray], float, str]:
    """The columns of a cell as arrays, the files of its batches joined; seconds per image, the batches' median; and
    what the attacker did about the purifier, a case of :mod:`raypurify.evaluation.threat_model`."""
    tables = list(overlapped(_table, files))
    joined = pa.concat_tables(tables)
    each = [float(table.schema.metadata[b"seconds"]) / len(table) for table in tables]
    columns = {name: joined[name].to_numpy(zero_copy_only=False) for name in COLUMNS.names}
    return columns, float(np.median(each)), tables[0].schema.metadata[b"done"].decode()


def _own_size(attack: Attack | None, attacked: Tensor, clean: Tensor) -> Tensor:
    """The size of each perturbation in the attack's own norm, NaN where that is none of a difference."""
    norm = attack.norm if attack else "linf"
    return size(attacked - clean, clean, norm) if norm in NORMS else torch.full((len(clean),), torch.nan)


def _table(file: Place) -> pa.Table:
    try:
        with file.open() as opened:
            return pq.read_table(opened, columns=COLUMNS.names)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"cannot read the cell {file}: {one_line(error)}; delete it, and run the same command again"
        ) from error
