"""Orthogonal matching pursuit of many signals at once (Pati, Rezaiifar, Krishnaprasad 1993), on any device.

The correlations of a signal with all atoms are kept, not its residual, as Rubinstein, Zibulevsky, Elad ("Efficient
implementation of the K-SVD algorithm using batch orthogonal matching pursuit", 2008) have it: each step takes from them
what the new direction explains, which needs the atoms' Gram matrix alone.

All of it is in float64: which atom is taken is a comparison, and rounding that differs with the rest of a batch must
not decide it.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from raypurify.errors import DataError

# So many signals at a time: their correlations stay in a CPU's cache, and a GPU is filled.
CPU_ROWS, GPU_ROWS = 256, 1 << 15
# And fewer where each has many atoms: what is kept of all of them is at most so many numbers, 1 GiB.
KEPT = 1 << 27
# Of an atom of norm 1, what is new beside those that a signal has: below this, squared, it is in their span.
NEW = 1e-10
# Of the greatest correlation of a signal: what is left below this is rounding.
LEFT = 1e-9


class Support(NamedTuple):
    """The atoms that signals are coded with: ``atoms`` (N, K) int64, the number of each, in the order in which they
    were taken; ``taken`` (N, K), False where nothing was left to code or no atom was new."""

    atoms: Tensor
    taken: Tensor


def pursue(signals: Tensor, dictionary: Tensor, nonzeros: int) -> Support:
    """The support of the K-sparse code of each signal: the atom that correlates most with what is left of it, K times.

    What is left is the signal less its projection on the atoms taken so far, which is what makes the pursuit
    orthogonal.

    Args:
        signals: (N, d) floating point.
        dictionary: (M, d), atoms of L2 norm 1.
        nonzeros: K, 1 to the lesser of M and d.

    Raises DataError for another K, or shapes that do not go together.

    >>> pursue(torch.tensor([[0.0, -3.0, 1.0]]), torch.eye(3), 2).atoms
    tensor([[1, 2]])
    """
    if signals.ndim != 2 or dictionary.ndim != 2 or signals.shape[1] != dictionary.shape[1]:
        raise DataError(
            f"signals of shape {tuple(signals.shape)} and atoms of {tuple(dictionary.shape)} do not go together: "
            "give (N, d) and (M, d)"
        )
    if not 1 <= nonzeros <= min(dictionary.shape):
        raise DataError(
            f"nonzeros={nonzeros} of {dictionary.shape[0]} atoms of {dictionary.shape[1]} numbers: "
            f"give 1 to {min(dictionary.shape)}"
        )
    dictionary = dictionary.detach().double()
    # To the last digit: an atom's remainder is told by what 1 is more than its projections.
    dictionary = dictionary / torch.linalg.vector_norm(dictionary, dim=1, keepdim=True)
    gram = dictionary @ dictionary.T
    rows = _rows(signals, dictionary, nonzeros)
    parts = [_pursue(part @ dictionary.T, gram, nonzeros) for part in _in_parts(signals.detach(), rows)]
    if not parts:
        nothing = signals.new_empty((0, nonzeros))
        return Support(nothing.long(), nothing.bool())
    return Support(*map(torch.cat, zip(*parts)))


def coded(signals: Tensor, dictionary: Tensor, support: Support) -> Tensor:
    """The projection Ψ_S argmin_a ‖x − Ψ_S a‖² of each signal x on the atoms S of its support, (N, d) float64.

    Differentiable in ``signals``; the support is a constant to that.

    >>> coded(torch.tensor([[0.0, -3.0, 1.0]]), torch.eye(3), pursue(torch.tensor([[0.0, -3.0, 1.0]]), torch.eye(3), 1))
    tensor([[ 0., -3.,  0.]], dtype=torch.float64)
    """
    dictionary = dictionary.detach().double()
    rows = _rows(signals, dictionary, support.atoms.shape[1])
    parts = [
        _project(part, dictionary[atoms] * taken[..., None], taken)
        for part, atoms, taken in zip(_in_parts(signals, rows), *(of.split(rows) for of in support))
    ]
    return torch.cat(parts) if parts else signals.double()


def _in_parts(signals: Tensor, rows: int) -> Iterator[Tensor]:
    """The signals (N, d), ``rows`` at a time, as float64."""
    return (part.double() for part in signals.split(rows) if len(part))


def _rows(signals: Tensor, dictionary: Tensor, nonzeros: int) -> int:
    """How many signals are worked on at a time: each has ``nonzeros`` rows of as many numbers as there are atoms, or as
    an atom has."""
    return min(GPU_ROWS if signals.is_cuda else CPU_ROWS, max(1, KEPT // (nonzeros * max(dictionary.shape))))


def _pursue(left: Tensor, gram: Tensor, nonzeros: int) -> tuple[Tensor, Tensor]:
    """The support by the correlations ``left`` (N, M) of signals with all atoms, which is written to.

    The taken atoms are orthonormalised one by one (Gram–Schmidt); of each direction only its inner products with all
    atoms are kept, ``seen`` (N, K, M).
    """
    count, every = left.shape
    rows = torch.arange(count, device=left.device)
    chosen = torch.zeros((count, nonzeros), dtype=torch.int64, device=left.device)
    taken = torch.zeros((count, nonzeros), dtype=torch.bool, device=left.device)
    seen = left.new_empty((count, nonzeros, every))
    for k in range(nonzeros):
        atom = left.abs().argmax(1)
        direction = gram[atom]
        if k:
            # What of the atom lies along the directions before.
            along = seen[rows, :k, atom]
            direction = torch.baddbmm(direction[:, None], along[:, None], seen[:, :k], alpha=-1)[:, 0]
            new = 1 - along.square().sum(1)
        else:
            new = torch.ones_like(left[:, 0])
        strength = left[rows, atom]
        if k == 0:
            least = LEFT * strength.abs()
        is_new = (new > NEW) & (strength.abs() > least)
        scale = torch.where(is_new, new.clamp(min=NEW).rsqrt(), 0)
        seen[:, k] = direction * scale[:, None]
        left -= (strength * scale)[:, None] * seen[:, k]
        chosen[:, k], taken[:, k] = atom, is_new
    return chosen, taken


def _project(signals: Tensor, atoms: Tensor, taken: Tensor) -> Tensor:
    """The projection of signals (N, d) on their own atoms (N, K, d), zeros where none was ``taken`` (N, K)."""
    gram = atoms @ atoms.mT + torch.diag_embed((~taken).to(atoms))
    values = torch.cholesky_solve(atoms @ signals[..., None], torch.linalg.cholesky(gram))
    return (values.mT @ atoms)[:, 0]
