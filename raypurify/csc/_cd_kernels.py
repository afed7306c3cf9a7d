"""Compiled loops of coordinate descent with a working set. Import only where Numba is installed.

An *active* coefficient is an entry of the working set: atom ``m`` at pixel ``(y, x)`` with value ``v``. The residual
``s − Dx`` is kept up to date with the channels of a pixel side by side; the correlation with all atoms takes it as
planes, block by block. Where pixels have weights, ``W²(s − Dx)`` is, and ``squares``, W² laid out as the residual is,
multiplies each atom that is added; None: all are 1. ``residual``, ``atoms``, ``active`` and ``cells`` are the named
tuples of :mod:`raypurify.csc._cd_arrays`, which says the shapes of what they hold; T is the precision of all of it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from raypurify.csc._cd_arrays import PATCH, TOGETHER, Atoms, Cells, Residual, WorkingSet, block_side
from raypurify.csc._lanes import window_add, window_add_weighted, window_dot

_MATH = {"contract", "nsz", "arcp"}
# Pixels of one stretch of a correlation.
_CHUNK = 2048
# Sweeps over the working set per round, and the share of the tolerance below which a step is not worth taking.
_SWEEPS, _IDLE = 200, 0.1


def _compiled(**options: Any) -> Callable[[Callable], Callable]:
    """Numba's ``njit`` without the GIL, cached on disk where a cache directory can be written."""

    def decorate(function: Callable) -> Callable:
        try:
            return njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:
            return njit(nogil=True, **options)(function)

    return decorate


@_compiled()
def _add_window(
    flat: np.ndarray, start: int, pitch: int, atoms: Atoms, base: int, factor: float, squares: np.ndarray | None
) -> None:
    begin, step, first = np.uint64(start), np.uint64(pitch), np.uint64(base)
    h, span = np.uint64(atoms.h), np.uint64(atoms.span)
    if squares is None:
        window_add(flat, begin, step, atoms.taps, first, h, span, factor)
    else:
        window_add_weighted(flat, begin, step, atoms.taps, first, h, span, factor, squares.reshape(-1))


@_compiled()
def add_atom(
    residual: Residual, y: int, x: int, atoms: Atoms, base: int, factor: float, squares: np.ndarray | None
) -> None:
    """Add ``factor`` times the atom that begins at ``base`` in the taps to the residual at ``(y, x)``.

    It goes wherever it shows on the torus and its margins of h − 1 rows above, 2(h − 1) below, and alike left and
    right: wide enough for every copy of an atom that reaches into the part that is read, rows 0 to H + h − 2.
    """
    pixels, height, width = residual
    h, w = atoms.h, atoms.w
    pitch = pixels.shape[1]
    flat = pixels.reshape(-1)
    for down in range(-1, 2):
        top = y + down * height + h - 1
        if top < 0 or top >= height + 2 * (h - 1):
            continue
        for right in range(-1, 2):
            left = x + right * width + w - 1
            if left < 0 or left >= width + 2 * (w - 1):
                continue
            _add_window(flat, top * pitch + left * atoms.channels, pitch, atoms, base, factor, squares)


@_compiled()
def _shrink(t: float, lmbda: float, nonneg: bool) -> float:
    if t > lmbda:
        return t - lmbda
    if t < -lmbda and not nonneg:
        return t + lmbda
    return t - t


@_compiled()
def _energies(atoms: Atoms, active: WorkingSet, squares: np.ndarray | None) -> np.ndarray:
    """``‖W d‖²`` of the atom of each active coefficient, at its place: (n,) T."""
    if squares is None:
        return atoms.energy[active.atom]
    h, w, channels, span = atoms.h, atoms.w, atoms.channels, np.uint64(atoms.span)
    taps, size, pitch = np.square(atoms.taps), atoms.taps.shape[0] // atoms.energy.shape[0], squares.shape[1]
    flat, found = squares.reshape(-1), np.empty_like(active.value)
    for k in range(found.shape[0]):
        start = np.uint64((active.row[k] + h - 1) * pitch + (active.col[k] + w - 1) * channels)
        base = np.uint64(active.atom[k] * size)
        found[k] = window_dot(flat, start, np.uint64(pitch), taps, base, np.uint64(size) // span, span)
    return found


@_compiled()
def compute_residual(
    residual: Residual,
    signal: np.ndarray,
    atoms: Atoms,
    active: WorkingSet,
    squares: np.ndarray | None,
    lmbda: float,
    nonneg: bool,
) -> float:
    """``s − Dx`` of ``signal`` (C, H, W) and the active coefficients, on the torus and one atom further.

    Returns the violation: the largest change, in units of the correlation, that an active coefficient still asks for.
    """
    h, w, channels, taps, span, _, _ = atoms
    pixels, height, width = residual
    atom, row, col, value = active
    pixels[:] = 0
    for i in range(height + h - 1):
        for j in range(width + w - 1):
            for c in range(channels):
                pixels[i + h - 1, (j + w - 1) * channels + c] = signal[c, i % height, j % width]
    if squares is not None:
        pixels *= squares
    pitch, size = pixels.shape[1], taps.shape[0] // atoms.energy.shape[0]
    for k in range(value.shape[0]):
        add_atom(residual, row[k], col[k], atoms, atom[k] * size, -value[k], squares)

    flat, energy = pixels.reshape(-1), _energies(atoms, active, squares)
    worst = lmbda - lmbda
    for k in range(value.shape[0]):
        m = atom[k]
        start, base = np.uint64((row[k] + h - 1) * pitch + (col[k] + w - 1) * channels), np.uint64(m * size)
        slope = window_dot(flat, start, np.uint64(pitch), taps, base, np.uint64(size // span), np.uint64(span))
        old = energy[k] * value[k]
        worst = max(worst, abs(_shrink(slope + old, lmbda, nonneg) - old))
    return worst


@_compiled(fastmath=_MATH)
def _accumulate(
    out: np.ndarray,
    m: np.uint64,
    to: np.uint64,
    n: np.uint64,
    planes: np.ndarray,
    start: np.uint64,
    offsets: np.ndarray,
    weights: np.ndarray,
    t: np.uint64,
) -> None:
    """Add four taps from ``t`` on of four atoms from ``m`` on to ``n`` pixels of ``out`` from ``to`` on.

    Shapes as in :func:`correlate`, with ``out`` for ``beta``; integers are uint64.
    """
    # Unsigned indices: one that might be negative keeps the loop from being vectorised, and so does a strided view.
    a0, a1, a2, a3 = offsets[t] + start, offsets[t + 1] + start, offsets[t + 2] + start, offsets[t + 3] + start
    p0, p1, p2, p3 = weights[m, t], weights[m, t + 1], weights[m, t + 2], weights[m, t + 3]
    q0, q1, q2, q3 = weights[m + 1, t], weights[m + 1, t + 1], weights[m + 1, t + 2], weights[m + 1, t + 3]
    r0, r1, r2, r3 = weights[m + 2, t], weights[m + 2, t + 1], weights[m + 2, t + 2], weights[m + 2, t + 3]
    s0, s1, s2, s3 = weights[m + 3, t], weights[m + 3, t + 1], weights[m + 3, t + 2], weights[m + 3, t + 3]
    for i in range(n):
        f0, f1, f2, f3 = planes[a0 + i], planes[a1 + i], planes[a2 + i], planes[a3 + i]
        out[m, to + i] += p0 * f0 + p1 * f1 + p2 * f2 + p3 * f3
        out[m + 1, to + i] += q0 * f0 + q1 * f1 + q2 * f2 + q3 * f3
        out[m + 2, to + i] += r0 * f0 + r1 * f1 + r2 * f2 + r3 * f3
        out[m + 3, to + i] += s0 * f0 + s1 * f1 + s2 * f2 + s3 * f3


@_compiled(fastmath=_MATH)
def correlate(
    beta: np.ndarray,
    peak: np.ndarray,
    planes: np.ndarray,
    offsets: np.ndarray,
    weights: np.ndarray,
    count: int,
    nonneg: bool,
) -> None:
    """``Dᴴr`` at the first ``count`` pixels of the flat planes, and its largest magnitude over the atoms.

    ``beta`` (M', count) and ``peak`` (count,) are overwritten. ``planes`` (pixels of C channels, one plane after the
    other) T; ``offsets`` (Chw',) uint64, how far from its pixel each tap reads; ``weights`` (M', Chw') T.
    """
    for first in range(0, count, _CHUNK):
        last = min(count, first + _CHUNK)
        begin, n = np.uint64(first), np.uint64(last - first)
        beta[:, first:last] = 0
        for m in range(0, beta.shape[0], TOGETHER):
            for t in range(0, offsets.shape[0], TOGETHER):
                _accumulate(beta, np.uint64(m), begin, n, planes, begin, offsets, weights, np.uint64(t))
        over = peak[first:last]
        over[:] = 0
        for m in range(beta.shape[0]):
            here = beta[m, first:last]
            if nonneg:
                for i in range(last - first):
                    over[i] = max(over[i], here[i])
            else:
                for i in range(last - first):
                    over[i] = max(over[i], abs(here[i]))


@_compiled()
def screen(patches: np.ndarray, residual: Residual, y0: int, x0: int, atoms: Atoms, nonneg: bool) -> float:
    """The largest correlation in every patch of the block at ``(y0, x0)``; returns the largest of all.

    ``patches`` is (patches, 4) T: the magnitude, and the atom, row and column where it is; those of the block are
    overwritten.
    """
    pixels, height, width = residual
    h, w, channels, weights = atoms.h, atoms.w, atoms.channels, atoms.weights
    y1, x1 = min(height, y0 + block_side(height)), min(width, x0 + block_side(width))
    across = (width + PATCH - 1) // PATCH
    rows, pitch = y1 - y0 + h, x1 - x0 + w - 1
    planes = np.zeros((channels, rows, pitch), pixels.dtype)
    for i in range(rows - 1):
        for j in range(pitch):
            for c in range(channels):
                planes[c, i, j] = pixels[y0 + i + h - 1, (x0 + j + w - 1) * channels + c]
    offsets = np.zeros(weights.shape[1], np.uint64)
    for t in range(channels * h * w):
        offsets[t] = t // (h * w) * rows * pitch + t // w % h * pitch + t % w
    count = (y1 - y0) * pitch
    beta, peak = np.empty((weights.shape[0], count), pixels.dtype), np.empty(count, pixels.dtype)
    correlate(beta, peak, planes.reshape(-1), offsets, weights, count, nonneg)
    top = peak.dtype.type(0)
    for i in range(y0, y1, PATCH):
        for j in range(x0, x1, PATCH):
            best, p = peak[(i - y0) * pitch + j - x0], (i - y0) * pitch + j - x0
            for y in range(i - y0, min(y1, i + PATCH) - y0):
                for x in range(j - x0, min(x1, j + PATCH) - x0):
                    if peak[y * pitch + x] > best:
                        best, p = peak[y * pitch + x], y * pitch + x
            m = 0
            while m < beta.shape[0] - 1 and beta[m, p] < best and (nonneg or -beta[m, p] < best):
                m += 1
            entry = patches[i // PATCH * across + j // PATCH]
            entry[0], entry[1], entry[2], entry[3] = best, m, y0 + p // pitch, x0 + p % pitch
            top = max(top, best)
    return top


@_compiled()
def descend(
    residual: Residual,
    atoms: Atoms,
    active: WorkingSet,
    squares: np.ndarray | None,
    cells: Cells,
    lmbda: float,
    tol: float,
    nonneg: bool,
) -> None:
    """Cyclic coordinate descent on the working set until no coefficient is more than ``tol`` from optimal.

    A cell of coefficients is left alone until one in it or beside it has moved by more than that. Values and residual
    change in place.
    """
    h, w, channels, taps, span, _, _ = atoms
    pixels, height, width = residual
    atom, row, col, value = active
    first, dirty, across = cells
    pitch, size = pixels.shape[1], taps.shape[0] // atoms.energy.shape[0]
    flat, energy = pixels.reshape(-1), _energies(atoms, active, squares)
    down = dirty.shape[0] // across
    dirty[:] = True
    for _ in range(_SWEEPS):
        moved = False
        for c in range(dirty.shape[0]):
            if not dirty[c]:
                continue
            worst = tol - tol
            for k in range(first[c], first[c + 1]):
                m, y, x = atom[k], row[k], col[k]
                base = np.uint64(m * size)
                start = np.uint64((y + h - 1) * pitch + (x + w - 1) * channels)
                slope = window_dot(flat, start, np.uint64(pitch), taps, base, np.uint64(size // span), np.uint64(span))
                old = value[k]
                goal = _shrink(slope + energy[k] * old, lmbda, nonneg)
                change = abs(goal - energy[k] * old)
                worst = max(worst, change)
                # A coefficient that should vanish does so, however small it is.
                if change > tol * _IDLE or (goal == 0 and old != 0):
                    # An atom of zeros, which only a start can have put here, must not divide by its energy.
                    value[k] = goal / energy[k] if goal != 0 else goal
                    step = old - value[k]
                    if h <= y + 1 <= height - h + 1 and w <= x + 1 <= width - w + 1:
                        _add_window(flat, start, pitch, atoms, base, step, squares)
                    else:
                        add_atom(residual, y, x, atoms, base, step, squares)
            dirty[c] = worst > tol
            if dirty[c]:
                moved = True
                i, j = c // across, c % across
                for a in range(-1, 2):
                    for b in range(-1, 2):
                        dirty[(i + a) % down * across + (j + b) % across] = True
        if not moved:
            return


@_compiled()
def join(
    patches: np.ndarray, level: float, height: int, width: int, active: WorkingSet, cells: Cells
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Let the best coefficient of every patch join if it is above ``level``, and let zeros go.

    ``patches`` is :func:`screen`'s. Returns the fields of the new working set, sorted by cell, and overwrites
    ``cells.first`` with where each cell begins in it.
    """
    atom, row, col, value = active
    first, dirty, across = cells
    count, last = value.shape[0], dirty.shape[0]
    down = last // across
    cell = np.empty(count + patches.shape[0], np.int64)
    for k in range(count):
        cell[k] = row[k] * down // height * across + col[k] * across // width
    for patch in range(patches.shape[0]):
        e = count + patch
        cell[e] = -1
        if patches[patch, 0] > level:
            m, y, x = int(patches[patch, 1]), int(patches[patch, 2]), int(patches[patch, 3])
            cell[e] = y * down // height * across + x * across // width
            for k in range(first[cell[e]], first[cell[e] + 1]):
                if atom[k] == m and row[k] == y and col[k] == x:
                    cell[e] = -1
                    break
    for k in range(count):
        if value[k] == 0:
            cell[k] = -1

    for c in range(last + 1):
        first[c] = 0
    for e in range(cell.shape[0]):
        if cell[e] >= 0:
            first[cell[e] + 1] += 1
    for c in range(last):
        first[c + 1] += first[c]
    total = first[last]
    atoms, rows, cols = np.empty(total, np.int32), np.empty(total, np.int32), np.empty(total, np.int32)
    values = np.empty(total, value.dtype)
    for e in range(cell.shape[0]):
        if cell[e] >= 0:
            to = first[cell[e]]
            first[cell[e]] += 1
            if e < count:
                atoms[to], rows[to], cols[to], values[to] = atom[e], row[e], col[e], value[e]
            else:
                entry = patches[e - count]
                atoms[to], rows[to], cols[to], values[to] = int(entry[1]), int(entry[2]), int(entry[3]), 0
    for c in range(last, 0, -1):
        first[c] = first[c - 1]
    first[0] = 0
    return atoms, rows, cols, values
