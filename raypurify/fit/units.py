"""Units of prepared images: ranges of rows that are worked off and committed as a whole, cut from the data alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import pyarrow as pa

from raypurify.files import fingerprint, open_parquet, parquet_rows
from raypurify.storage import Place, overlapped


@dataclass(frozen=True)
class Unit:
    """Consecutive prepared images: (path, first row, row after the last) in every file they stand in.

    The name says which images they are: another cut, or other files, has other names.
    """

    name: str
    rows: int
    pieces: tuple[tuple[Place, int, int], ...]


def prepared_files(folder: Place) -> list[tuple[Place, int]]:
    """The Parquet files of a part of the prepared images, by their names, with their rows."""
    files = folder.files(".parquet")
    return list(zip(files, overlapped(parquet_rows, files)))


def cut_units(files: list[tuple[Place, int]], unit_rows: int) -> list[Unit]:
    """Units of ``unit_rows`` images, the last one shorter, from (place, rows) of the files in their order.

    >>> [unit.rows for unit in cut_units([(Place("a"), 3), (Place("b"), 4)], 5)]
    [5, 2]
    """
    firsts = list(accumulate((rows for _, rows in files), initial=0))
    units: list[Unit] = []
    for start in range(0, firsts[-1], unit_rows):
        stop = min(start + unit_rows, firsts[-1])
        spans = ((file, max(0, start - first), min(rows, stop - first)) for (file, rows), first in zip(files, firsts))
        pieces = tuple((file, begin, end) for file, begin, end in spans if begin < end)
        mark = fingerprint([(file.name, begin, end) for file, begin, end in pieces])
        units.append(Unit(f"{len(units):05d}-{mark[:12]}", stop - start, pieces))
    return units


def take_rows(units: list[Unit], first: int, stop: int) -> list[Unit]:
    """The rows ``first`` to ``stop`` of units laid end to end: whole units, and parts of those at the ends.

    >>> units = cut_units([(Place("a"), 6)], 3)
    >>> [(str(file), begin, end) for unit in take_rows(units[::-1], 2, 4) for file, begin, end in unit.pieces]
    [('a', 5, 6), ('a', 0, 1)]
    """
    taken, at = [], 0
    for unit in units:
        pieces = []
        for file, begin, end in unit.pieces:
            low, high = max(begin, begin + first - at), min(end, begin + stop - at)
            if low < high:
                pieces.append((file, low, high))
            at += end - begin
        if pieces:
            taken.append(Unit(unit.name, sum(end - begin for _, begin, end in pieces), tuple(pieces)))
    return taken


def read_tables(unit: Unit, size: int) -> Iterator[pa.Table]:
    """The unit's images in tables of at most ``size`` rows: shorter where a file of the unit begins or ends. Raises
    SourceError naming a file that is damaged."""
    columns = ["row", "id", "label", "image"]
    for place, start, stop in unit.pieces:
        with open_parquet(place, columns) as file:
            rows = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            firsts = list(accumulate(rows, initial=0))
            groups = [i for i in range(len(rows)) if firsts[i] < stop and firsts[i + 1] > start]
            at = firsts[groups[0]]
            for part in file.iter_batches(size, row_groups=groups, columns=columns):
                wanted = part[max(0, start - at) : max(0, stop - at)]
                at += len(part)
                if len(wanted):
                    yield pa.Table.from_batches([wanted])
