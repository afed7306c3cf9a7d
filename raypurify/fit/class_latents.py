"""The latents of one class, or of all: a block in memory where they fit, else blocks in the cluster's object store."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from raypurify.clusters.blocks import Block, EachBlock, Pass, T
from raypurify.errors import DataError
from raypurify.files import open_parquet
from raypurify.storage import Place

# A task whose node is lost is run again elsewhere, and so is what it needs.
RETRIES = 10


class Piece(NamedTuple):
    """A row group of a Parquet file with the columns row and latent."""

    file: Place
    group: int
    rows: int
    width: int


def pieces_of(folder: Place) -> list[Piece]:
    """All row groups of a class's folder, in the order of file names. Raises DataError where there is none,
    SourceError naming a file that is damaged."""
    pieces = []
    for place in folder.files(".parquet"):
        with open_parquet(place, ["row", "latent"]) as file:
            width = file.schema_arrow.field("latent").type.list_size
            rows = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        pieces += [Piece(place, group, count, width) for group, count in enumerate(rows) if count]
    if not pieces:
        raise DataError(f"{folder} holds no latents: remove the stage's folder and fit again")
    return pieces


def cut_blocks(pieces: list[Piece], block_bytes: int) -> list[list[Piece]]:
    """Consecutive pieces in blocks of at most ``block_bytes`` of float32 latents, but at least a piece each.

    >>> [len(block) for block in cut_blocks([Piece(Place("a"), i, 10, 8) for i in range(5)], block_bytes=640)]
    [2, 2, 1]
    """
    blocks: list[list[Piece]] = []
    room = 0
    for piece in pieces:
        size = 4 * piece.rows * piece.width
        if size > room or not blocks:
            blocks.append([])
            room = block_bytes
        blocks[-1].append(piece)
        room -= size
    return blocks


def read_latents(pieces: list[Piece]) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers (n,) int64 and latents (n, d) float32, in the order of the pieces."""
    latents = np.empty((sum(piece.rows for piece in pieces), pieces[0].width), np.float32)
    numbers = np.empty(len(latents), np.int64)
    start = 0
    for piece in pieces:
        with open_parquet(piece.file) as file:
            table = file.read_row_group(piece.group, columns=["row", "latent"])
        part = slice(start, start := start + len(table))
        numbers[part] = table.column("row").to_numpy()
        latents[part] = _matrix(table.column("latent"), piece.width)
    return numbers, latents


class ClassLatents(NamedTuple):
    """A class's latents for the passes of ``raypurify.clusters``, and the block itself where they are a single one."""

    each_block: EachBlock
    whole: Block | None


def open_class(pieces: list[Piece], block_bytes: int) -> ClassLatents:
    """Read the latents once: into this process, in the order of rows, where they are one block; else into the object
    store, where a task per block and pass looks at them, and only what a pass returns moves.

    Results come in the order of blocks. Ray spills blocks to disk when memory runs out, and reads again those that
    were on a lost node.
    """
    blocks = cut_blocks(pieces, block_bytes)
    if len(blocks) > 1:
        return ClassLatents(_on_cluster(blocks), None)
    numbers, latents = read_latents(pieces)
    order = np.argsort(numbers)
    block = Block(latents[order], numbers[order], keep=True)
    return ClassLatents(lambda look: [look(block)], block)


def telling_passes(each_block: EachBlock, what: str, progress: Any) -> EachBlock:
    """``each_block`` with the number of the pass in the stage's progress: many latents take long."""
    passes = itertools.count(1)

    def counted(look: Pass[T]) -> Iterable[T]:
        progress.add.remote(0, f"{what}: pass {next(passes)}")
        return each_block(look)

    return counted


def _on_cluster(blocks: list[list[Piece]]) -> EachBlock:
    import ray

    stored = [ray.remote(read_latents).options(max_retries=RETRIES).remote(pieces) for pieces in blocks]
    task = ray.remote(_look).options(max_retries=RETRIES)

    def each_block(look: Any) -> Iterator[Any]:
        shared = ray.put(look)
        results = [task.remote(shared, block) for block in stored]
        return (ray.get(result) for result in results)

    return each_block


def _look(look: Any, block: tuple[np.ndarray, np.ndarray]) -> Any:
    numbers, latents = block
    return look(Block(latents, numbers))


def _matrix(column: pa.ChunkedArray, width: int) -> np.ndarray:
    return np.concatenate([chunk.flatten().to_numpy() for chunk in column.chunks]).reshape(-1, width)
