"""The k nearest of many rows, exactly, and what they vote for: in tiles, so that memory stays small."""

import torch
from torch import Tensor

# Squared distances of a tile, 32 MiB of float64, and rows of it at most: a tile of 256 queries has 2¹⁴ features.
_PAIRS, QUERIES = 1 << 22, 1 << 8
# Features whose minimum is looked at first: selecting among minima is cheaper than among all.
_GROUP = 32


@torch.no_grad()
def nearest_rows(queries: Tensor, rows: Tensor, count: int) -> Tensor:
    """The indices (N, count) int64 of the rows (n, p) nearest to each query (N, p), Euclidean, nearest first.

    Exact: ‖q − r‖² = ‖q‖² + ‖r‖² − 2⟨q, r⟩ is computed in float64. ``count`` is at most n; which of equally near rows
    come is not said. Queries that come in pieces, each of a multiple of ``QUERIES`` but the last, have the same rows as
    all at once. Needs about 100 MB beyond queries, rows and result, however many there are.

    >>> nearest_rows(torch.tensor([[0.4]]), torch.tensor([[0.0], [5.0], [1.0]]), 2).tolist()
    [[0, 2]]
    """
    found = []
    for some in queries.split(QUERIES):
        some = some.double()
        best = some.new_empty(len(some), 0)
        index = torch.empty_like(best, dtype=torch.int64)
        tile = max(_GROUP * count, _PAIRS // max(1, len(some)))
        for start in range(0, len(rows), tile):
            part = rows[start : start + tile].double()
            # ‖q‖² is the same for all rows of a query.
            squares = torch.addmm(part.square().sum(1), some, part.T, alpha=-2)
            near, at = _least(squares, min(count, len(part)))
            best, index = torch.cat([best, near], 1), torch.cat([index, at + start], 1)
            best, order = best.topk(min(count, best.shape[1]), largest=False)
            index = index.gather(1, order)
        found.append(index)
    return torch.cat(found) if found else torch.empty(0, count, dtype=torch.int64, device=rows.device)


def _least(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` least of each row of ``values`` (N, n) and where they are, ascending.

    They are in the ``count`` groups of least minima: a value of another group has as many minima below it.
    """
    width = values.shape[1] // _GROUP * _GROUP
    if width < 2 * _GROUP * count:
        return values.topk(count, largest=False)
    groups = values[:, :width].unflatten(1, (_GROUP, -1)).amin(1).topk(count, largest=False).indices
    stride = width // _GROUP
    at = (groups[:, :, None] + stride * torch.arange(_GROUP, device=values.device)).flatten(1)
    rest = torch.arange(width, values.shape[1], device=values.device).expand(len(values), -1)
    at = torch.cat([at, rest], 1)
    near, order = values.gather(1, at).topk(count, largest=False)
    return near, at.gather(1, order)


def majority(votes: Tensor, count: int) -> Tensor:
    """What most of the ``votes`` (N, k), in 0..count−1 and the nearest neighbour's first, are for: (N,) int64.

    Between equally many votes the one of the nearest voter decides.

    >>> majority(torch.tensor([[2, 0, 0], [2, 0, 1]]), 3).tolist()
    [0, 2]
    """
    size, k = votes.shape
    tally = torch.zeros(size, count, dtype=torch.int64, device=votes.device)
    tally.scatter_add_(1, votes, torch.ones_like(votes))
    place = torch.arange(k, device=votes.device).expand_as(votes)
    first = torch.full_like(tally, k).scatter_reduce_(1, votes, place, "amin")
    return (tally * (k + 1) - first).argmax(1)
