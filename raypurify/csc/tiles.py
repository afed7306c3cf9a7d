"""Sparse coding of images that are too large to be coded at once: overlapping tiles."""

from collections.abc import Callable, Iterator

import torch

from raypurify.csc.convolution import reconstruct
from raypurify.csc.optimality import Solution, extremes
from raypurify.errors import DataError

# Pixels that a tile sees beyond its own, in sides of an atom. Codes reach far: the error of the reconstruction of
# Imagenette images at λ = 0.2 is 4e-3, 2e-3 and 1e-3 of its norm with an overlap of 4, 6 and 8 atoms.
_OVERLAP = 8


def largest_side(max_bytes: int, bytes_per_pixel: int, size: int) -> int:
    """Side of the tiles, without the overlap, whose working memory is ``max_bytes``; ``size`` is that of an atom.

    Raises DataError where that is less than an atom.
    """
    side = int((max_bytes / bytes_per_pixel) ** 0.5) - 2 * _OVERLAP * size
    if side < size:
        needed = ((2 * _OVERLAP + 1) * size) ** 2 * bytes_per_pixel
        raise DataError(f"max_bytes={max_bytes}: the smallest tile needs {needed} bytes")
    return side


def solve_tiled(
    solve: Callable[[torch.Tensor, torch.Tensor | None], Solution],
    atoms: torch.Tensor,
    signal: torch.Tensor,
    side: int,
    lmbda: torch.Tensor,
    nonneg: bool,
    mask: torch.Tensor | None = None,
) -> Solution:
    """Code one image tile by tile; a tile's borders, which it codes without knowing what lies beyond, are thrown away.

    Args:
        solve: a window (1, C, ., .) and that of the mask to its :class:`Solution` with sparse codes.
        atoms: (1, M, C, h, w); ``signal`` (1, C, H, W), ``mask`` alike; ``lmbda`` (1, 1) or (1, M).
        side: of the tiles. Memory is that of one window, besides the image and the sparse codes.
    """
    height, width = signal.shape[2:]
    size = max(atoms.shape[3:])
    places, values, iterations, converged = [], [], [], []
    for rows, cols, (top, left), (y, x, tall, wide) in _windows(height, width, side, _OVERLAP * size):
        weights = None if mask is None else mask[:, :, rows][..., cols]
        solved = solve(signal[:, :, rows][..., cols], weights)
        codes = solved.codes.coalesce()
        place, value = codes.indices(), codes.values()
        inside = (place[2] >= top) & (place[2] < top + tall) & (place[3] >= left) & (place[3] < left + wide)
        place = place[:, inside]
        place[2] += y - top
        place[3] += x - left
        places.append(place)
        values.append(value[inside])
        iterations.append(solved.iterations)
        converged.append(solved.converged)
    shape = (1, atoms.shape[1], height, width)
    codes = torch.sparse_coo_tensor(torch.cat(places, 1), torch.cat(values), shape, check_invariants=False).coalesce()
    rest = _residual(atoms, codes, signal, side)
    violation, top = _extremes(atoms, codes, rest, side, lmbda, nonneg, mask)
    magnitude = codes.values().abs()
    if lmbda.shape[1] == 1:
        penalty = lmbda[:, 0] * magnitude.sum(0, True, dtype=torch.float64)
    else:
        penalty = (lmbda[0, codes.indices()[1]] * magnitude).sum(0, True, dtype=torch.float64)
    steps, done = torch.cat(iterations).amax(0, True), torch.cat(converged).all(0, True)
    return Solution(codes, rest, steps, done, penalty, violation, top)


def _windows(height: int, width: int, side: int, margin: int) -> Iterator[tuple]:
    """``(rows, columns, where the tile begins in its window, where and how large it is in the image)`` of each tile."""
    for y, top, rows in _spans(height, side, margin):
        for x, left, cols in _spans(width, side, margin):
            yield rows, cols, (top, left), (y, x, min(side, height - y), min(side, width - x))


def _spans(length: int, side: int, margin: int) -> Iterator[tuple[int, int, torch.Tensor]]:
    for begin in range(0, length, side):
        tile = min(side, length - begin)
        if tile + 2 * margin >= length:
            yield begin, begin, torch.arange(length)
        else:
            yield begin, margin, torch.arange(begin - margin, begin + tile + margin) % length


def _residual(atoms: torch.Tensor, codes: torch.Tensor, signal: torch.Tensor, side: int) -> torch.Tensor:
    """``s − Dx`` window by window: with a margin of an atom, whose copies reach down and right, they do not wrap."""
    rest = torch.empty_like(signal)
    height, width = signal.shape[2:]
    for rows, cols, (top, left), (y, x, tall, wide) in _windows(height, width, side, max(atoms.shape[3:])):
        made = reconstruct(atoms, _crop(codes, rows, cols))
        here = (..., slice(y, y + tall), slice(x, x + wide))
        rest[here] = signal[here] - made[..., top : top + tall, left : left + wide]
    return rest


def _extremes(
    atoms: torch.Tensor,
    codes: torch.Tensor,
    rest: torch.Tensor,
    side: int,
    lmbda: torch.Tensor,
    nonneg: bool,
    mask: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    found = []
    height, width = rest.shape[2:]
    for rows, cols, (top, left), (_, _, tall, wide) in _windows(height, width, side, max(atoms.shape[3:])):
        inside = (slice(top, top + tall), slice(left, left + wide))
        window = _crop(codes, rows, cols)
        weights = None if mask is None else mask[:, :, rows][..., cols]
        found.append(extremes(atoms, window, rest[:, :, rows][..., cols], lmbda, nonneg, weights, inside))
    violation, largest = (torch.stack(each).amax(0) for each in zip(*found))
    return violation, largest


def _crop(codes: torch.Tensor, rows: torch.Tensor, cols: torch.Tensor) -> torch.Tensor:
    """A dense window of sparse codes."""
    window = torch.zeros(*codes.shape[:2], len(rows), len(cols), dtype=codes.dtype, device=codes.device)
    place, value = codes.indices(), codes.values()
    y = (place[2] - rows[0].to(place)) % codes.shape[2]
    x = (place[3] - cols[0].to(place)) % codes.shape[3]
    inside = (y < len(rows)) & (x < len(cols))
    window[0, place[1, inside], y[inside], x[inside]] = value[inside]
    return window
