"""Units of prepared images: ranges of rows that are worked off and committed as a whole, cut from the data alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raypurify.files import fingerprint


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
    units: list[Unit] = []
    for start in range(0, firsts[-1], unit_rows):
        stop = min(start + unit_rows, firsts[-1])
        spans = ((path, max(0, start - first), min(rows, stop - first)) for (path, rows), first in zip(files, firsts))
        pieces = tuple((path, begin, end) for path, begin, end in spans if begin < end)
        mark = fingerprint([(path.name, begin, end) for path, begin, end in pieces])
        units.append(Unit(f"{len(units):05d}-{mark[:12]}", stop - start, pieces))
    return units


def take_rows(units: list[Unit], first: int, stop: int) -> list[Unit]:
    """The rows ``first`` to ``stop`` of units laid end to end: whole units, and parts of those at the ends.

    >>> units = cut_units([(Path("a"), 6)], 3)
    >>> [unit.pieces for unit in take_rows(units[::-1], 2, 4)]
    [((PosixPath('a'), 5, 6),), ((PosixPath('a'), 0, 1),)]
    """
    taken, at = [], 0
    for unit in units:
        pieces = []
        for path, begin, end in unit.pieces:
            low, high = max(begin, begin + first - at), min(end, begin + stop - at)
            if low < high:
                pieces.append((path, low, high))
            at += end - begin
        if pieces:
            taken.append(Unit(unit.name, sum(end - begin for _, begin, end in pieces), tuple(pieces)))
    return taken


def read_tables(unit: Unit, size: int) -> Iterator[pa.Table]:
    """The unit's images in tables of at most ``size`` rows: shorter where a file of the unit begins or ends."""
    for path, start, stop in unit.pieces:
        with pq.ParquetFile(path, buffer_size=1 << 20) as file:
            rows = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            firsts = list(accumulate(rows, initial=0))
            groups = [i for i in range(len(rows)) if firsts[i] < stop and firsts[i + 1] > start]
            at = firsts[groups[0]]
            for part in file.iter_batches(size, row_groups=groups, columns=["row", "id", "label", "image"]):
                wanted = part[max(0, start - at) : max(0, stop - at)]
                at += len(part)
                if len(wanted):
                    yield pa.Table.from_batches([wanted])
