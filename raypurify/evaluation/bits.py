"""Which image was right in which cell: the one file from which anyone computes accuracies, intervals and tests again.

    python -m raypurify.evaluation.bits benchmarks/results/cifar10

``bits.parquet`` has a row for each image in each cell: classifier, attack, purifier, id, correct, before (whether it
was right before the attack), and size, that of the perturbation in the attack's own norm. Beside it, ``facts.json``
says which attacks are taken together.
"""

import io
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raypurify.evaluation.grid import CellName
from raypurify.evaluation.groups import Columns, Groups, comparisons, taken_together
from raypurify.evaluation.tables import Cell, as_markdown, cell_of, layout
from raypurify.files import read_json
from raypurify.storage import Place, Where, resolve

BITS = "bits.parquet"


def write_bits(file: Place, columns: Columns) -> None:
    """Write what became of every image of every cell, "id", "correct", "before" and "size" of ``columns``."""
    tables = []
    for name, values in columns.items():
        names = {part: pa.array([value] * len(values["id"])) for part, value in name._asdict().items()}
        bits = {"id": pa.array(values["id"], pa.string())}
        bits |= {part: pa.array(values[part], pa.bool_()) for part in ("correct", "before")}
        tables.append(pa.table(names | bits | {"size": pa.array(values["size"], pa.float32())}))
    strings = [*CellName._fields, "id"]
    buffer = io.BytesIO()
    # Images attacked by who knows no purifier are of the same sizes behind each: compression finds them again.
    pq.write_table(pa.concat_tables(tables), buffer, compression="zstd", compression_level=19, use_dictionary=strings)
    file.write(buffer.getvalue())


def read_bits(file: Where) -> Columns:
    """What :func:`write_bits` wrote, in the same order."""
    with resolve(file).open() as opened:
        table = pq.read_table(opened)
    keys = list(zip(*(table[part].to_pylist() for part in CellName._fields)))
    values = {part: table[part].to_numpy(zero_copy_only=False) for part in ("id", "correct", "before", "size")}
    begins = [k for k, key in enumerate(keys) if not k or key != keys[k - 1]]
    ends = [*begins[1:], len(keys)]
    return {CellName(*keys[k]): {part: value[k:end] for part, value in values.items()} for k, end in zip(begins, ends)}


def recompute(folder: Where) -> tuple[dict[CellName, Cell], list[dict]]:
    """The cells and comparisons of a report from its ``bits.parquet`` and ``facts.json`` alone.

    What the bits do not say (other sizes, flags, seconds) is NaN.
    """
    place = resolve(folder)
    columns, facts = read_bits(place / BITS), read_json(place / "facts.json")
    groups = Groups(**facts["groups"])
    cells = {}
    for name, values in columns.items():
        norm, budget = facts["budgets"].get(name.attack, ("", np.nan))
        cells[name] = cell_of(name, values, norm=norm, budget=budget)
    cells |= taken_together(groups, cells, columns)
    return cells, comparisons(groups, columns) if groups.reference else []


def main(folder: str) -> None:
    """Print the tables of a folder of results, computed again from its bits."""
    cells, compared = recompute(Path(folder))
    attacks, purifiers = (list(dict.fromkeys(getattr(name, part) for name in cells)) for part in ("attack", "purifier"))
    for classifier in dict.fromkeys(name.classifier for name in cells):

        def find(purifier: str, attack: str, classifier: str = classifier) -> Cell | None:
            return cells.get(CellName(classifier, attack, purifier))

        table = layout(purifiers, attacks, find)
        print(f"{classifier}:\n\n{as_markdown(*table)}\n")
    for row in compared:
        pair = f"{row['classifier']}, {row['attack']}: {row['reference']} − {row['other']}"
        print(f"{pair} = {row['value']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f}), p {row['p']:.3g}")


if __name__ == "__main__":
    main(sys.argv[1])
