"""Part of a source: its first images, a seeded sample of them, or one of several equal parts of its shards."""

import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from raypurify.containers.registry import CONTAINERS
from raypurify.containers.rows import Shard
from raypurify.containers.source import Source
from raypurify.errors import SourceError


def select(source: Source, limit: int | None = None, sample: int | None = None, seed: int = 0) -> Source:
    """The source of ``sample`` images drawn by ``seed``, or of the first ``limit``, or of a sample of those; all of it
    where neither is given, or there are no more. Its digest is another one.

    Raises SourceError where a number is below 1.
    """
    for name, value in (("limit", limit), ("sample", sample)):
        if value is not None and value < 1:
            raise SourceError(f"{name} is {value}; it must be 1 or more")
    count = min(source.rows, limit or source.rows)
    if sample is not None and sample < count:
        rows = np.sort(np.random.default_rng(seed).permutation(count)[:sample]).tolist()
    elif count < source.rows:
        rows = list(range(count))
    else:
        return source
    shards: list[Shard] = []
    first = 0
    for shard in source.shards:
        begin, end = (bisect_left(rows, edge) for edge in (shard.first_row, shard.first_row + shard.rows))
        if begin < end:
            picked = tuple(row - shard.first_row for row in rows[begin:end])
            cut = CONTAINERS[shard.kind].pick(shard.cut, picked)
            shards.append(replace(shard, index=len(shards), first_row=first, rows=len(picked), cut=cut))
            first += end - begin
    mark = f"{source.digest} limit {limit} sample {sample} seed {seed if sample else None}"
    return replace(source, shards=tuple(shards), rows=first, digest=hashlib.sha256(mark.encode()).hexdigest())


def part_of(text: str) -> tuple[int, int]:
    """``(i, n)`` of "i/n", the i-th of n parts, counted from 1. Raises SourceError for anything else.

    >>> part_of("2/8")
    (2, 8)
    """
    number, sign, count = text.partition("/")
    if sign and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
        return int(number), int(count)
    raise SourceError(f"{text!r} is no part; give i/n with i from 1 to n, e.g. 2/8")


def shards_of(shards: Sequence[Shard], part: tuple[int, int] | None) -> list[Shard]:
    """The shards that one of n jobs does: every n-th; all where there is one job."""
    return list(shards[part[0] - 1 :: part[1]]) if part else list(shards)
