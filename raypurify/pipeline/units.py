"""Units of prepared images: ranges of rows that are worked off and committed as a whole, cut from the data alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raypurify.pipeline.stages import fingerprint


@dataclass(frozen=True)
class Unit:
    """Consecutive prepared images: (path, first row, row after the last) in every file they stand in.

    The name says which images they are: another cut, or other files, has other names.
    """

    name: str
    rows: int
    pieces: tuple[tuple[Path, int, int], ...]


def cut_units(files: list[tuple[Path, int]], unit_rows: int) -> list[Unit]:
    """Units of ``unit_rows`` images, the last one shorter, from (path, rows) of the files in their order.

    >>> [unit.rows for unit in cut_units([(Path("a"), 3), (Path("b"), 4)], 5)]
    [5, 2]
    """
    firsts = list(accumulate((rows for _, rows in files), initial=0))
    units = []
    for start in range(0, firsts[-1], unit_rows):
        stop = min(start + unit_rows, firsts[-1])
        spans = ((path, max(0, start - first), min(rows, stop - first)) for (path, rows), first in zip(files, firsts))
        pieces = tuple((path, begin, end) for path, begin, end in spans if begin < end)
        mark = fingerprint([(path.name, begin, end) for path, begin, end in pieces])
        units.append(Unit(f"{len(units):05d}-{mark[:12]}", stop - start, pieces))
    return units


def read_tables(unit: Unit, size: int) -> Iterator[pa.Table]:
    """The unit's images in tables of at most ``size`` rows: shorter where a file of the unit begins or ends."""
    for path, start, stop in unit.pieces:
        at = 0
        with pq.ParquetFile(path, buffer_size=1 << 20) as file:
            for part in file.iter_batches(size, columns=["row", "id", "label", "image"]):
                wanted = part[max(0, start - at) : max(0, stop - at)]
                at += len(part)
                if len(wanted):
                    yield pa.Table.from_batches([wanted])
                if at >= stop:
                    break
