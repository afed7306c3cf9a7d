"""What strata look like: the training images nearest to each centroid."""

from typing import NamedTuple

import numpy as np
import torch

from raypurify.clusters.blocks import Block, EachBlock
from raypurify.clusters.strata import Strata

_ROWS = 2048


class Near(NamedTuple):
    """The pass that finds, for each centroid, the ``most`` nearest rows of a block among those that are nearest to no
    other: block → a pair of their distances and numbers, both of at most (most,), for each of the K centroids."""

    strata: Strata
    most: int

    def __call__(self, block: Block) -> list[tuple[np.ndarray, np.ndarray]]:
        parts = [torch.from_numpy(block.latents[at : at + _ROWS]) for at in range(0, len(block.latents), _ROWS)]
        distances = np.concatenate([self.strata.distances(part).numpy() for part in parts])
        own, least = distances.argmin(1), distances.min(1)
        found = []
        for k in range(self.strata.count):
            members = np.flatnonzero(own == k)
            best = members[np.lexsort((block.numbers[members], least[members]))[: self.most]]
            found.append((least[best], block.numbers[best]))
        return found


def nearest_examples(each_block: EachBlock, strata: Strata, most: int) -> list[np.ndarray]:
    """For each centroid the numbers (≤ most,) of the nearest latents, nearest first, that are nearer to no other.

    >>> from raypurify.clusters.strata import fit_strata
    >>> from raypurify.config import StrataSettings
    >>> rows = np.float32([[0, 0], [0, 3], [9, 9], [9, 8]])
    >>> strata = fit_strata(rows, StrataSettings(count=2, neighbours=1)).strata
    >>> near = nearest_examples(lambda look: [look(Block(rows, np.arange(4)))], strata, 2)
    >>> sorted(sorted(rows.tolist()) for rows in near)
    [[0, 1], [2, 3]]
    """
    of_block = list(each_block(Near(strata, most)))
    rows = []
    for pairs in zip(*of_block):
        distances, numbers = (np.concatenate(part) for part in zip(*pairs))
        rows.append(numbers[np.lexsort((numbers, distances))[:most]])
    return rows
