"""Minimum-error boundary cuts (Efros and Freeman, SIGGRAPH 2001): where one piece of an image gives way to the next."""

import torch
from torch import Tensor
from torch.nn import functional as F


def least_seam(costs: Tensor) -> Tensor:
    """The seam of least total cost through each of ``costs`` (…, L, w): the place (…, L) int64 in 0..w−1 of every row.

    From row to row it moves by one place at most: Eᵢⱼ = eᵢⱼ + min(Eᵢ₋₁,ⱼ₋₁, Eᵢ₋₁,ⱼ, Eᵢ₋₁,ⱼ₊₁), followed back from the
    least of the last row (section 2.1 of the paper). All seams at once, in a loop over the L rows.

    >>> least_seam(torch.tensor([[0.0, 9.0, 9.0], [9.0, 0.0, 9.0], [9.0, 9.0, 0.0]])).tolist()
    [0, 1, 2]
    """
    totals = [costs[..., 0, :]]
    for row in costs.unbind(-2)[1:]:
        totals.append(row + _around(totals[-1]).amin(-1))
    places = [totals[-1].argmin(-1, keepdim=True)]
    for total in reversed(totals[:-1]):
        steps = _around(total).argmin(-1) - 1
        places.append(places[-1] + steps.gather(-1, places[-1]))
    return torch.cat(places[::-1], -1)


def _around(values: Tensor) -> Tensor:
    """Each value of the last axis with those beside it, (…, w, 3); infinity where there are none."""
    return F.pad(values, (1, 1), value=torch.inf).unfold(-1, 3, 1)


def joined(pieces: Tensor, starts: Tensor, overlap: int) -> Tensor:
    """Pieces (…, n, C, L, p) side by side along the last axis, (…, C, L, W), each beginning at its place of ``starts``.

    ``starts`` (n,) begins with 0, rises by 1 to p − ``overlap``, the latter but for its last step, and W = starts[−1] +
    p. The last ``overlap`` columns of a piece, at most ⌊p/2⌋ as cuts may not cross, are shared with the next one: there
    the two are parted by the :func:`least_seam` of their squared difference, summed over channels. So no cut depends on
    another, and all are found at once.

    >>> joined(torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 1, 4), torch.tensor([0, 2, 3]), 2)
    tensor([[[0., 0., 1., 1., 2., 2., 2.]]])
    """
    side = pieces.shape[-1]
    # Where each piece begins to be seen: the first one at once, others with the last columns of the one before.
    seen = torch.cat([starts[:1], starts[:-1] + side - overlap])
    column = torch.arange(int(starts[-1]) + side, device=pieces.device)
    piece = torch.searchsorted(seen, column, right=True) - 1
    found = _columns(pieces, piece, column - starts[piece])
    if len(starts) == 1:
        return found
    before = (piece - 1).clamp(min=0)
    shared = (piece > 0) & (column - seen[piece] < overlap)
    other = _columns(pieces, before, (column - starts[before]).clamp(max=side - 1))
    # (…, C, L, n − 1, overlap) to costs (…, n − 1, L, overlap)
    costs = (found - other)[..., shared].unflatten(-1, (-1, overlap)).square().sum(-4).movedim(-2, -3)
    seam = least_seam(costs)
    kept = (torch.arange(overlap, device=pieces.device) < seam[..., None]).movedim(-3, -2).flatten(-2)
    found[..., shared] = torch.where(kept.unsqueeze(-3), other[..., shared], found[..., shared])
    return found


def _columns(pieces: Tensor, piece: Tensor, place: Tensor) -> Tensor:
    """The columns (…, C, L, W) at ``place`` (W,) of the pieces of these indices (W,)."""
    # (…, C, L, n, p) with the last two as one
    return pieces.movedim(-4, -2).flatten(-2)[..., piece * pieces.shape[-1] + place]


def starts_of(side: int, patch: int, overlap: int, device: torch.device | None = None) -> Tensor:
    """Where patches of ``patch`` pixels begin that cover ``side`` ≥ ``patch`` pixels: each overlaps the one before by
    ``overlap``, the last one, which ends with the side, by as much or more.

    >>> starts_of(9, 5, 2).tolist()
    [0, 3, 4]
    """
    last = side - patch
    regular = torch.arange(0, last, patch - overlap, device=device)
    return torch.cat([regular, torch.tensor([last], device=device)])
