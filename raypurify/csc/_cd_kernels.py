"""Compiled loops of coordinate descent with a working set. Import only where Numba is installed.

One image at a time, all in plain arrays. An *active* coefficient k is an entry of the working set: atom ``atom[k]`` at
pixel ``(row[k], col[k])`` with value ``value[k]``; ``corr[k]`` is its correlation ``(Dᴴr)`` with the current residual.
"""

import numpy as np
from numba import njit

_MATH = {"contract", "nsz", "arcp"}
# Pixels of one stretch of a correlation (what stays in the first-level cache), and taps added at once.
_CHUNK, TAPS = 2048, 8
# A working set is solved with a dense Gram while that beats gathering neighbours: images up to this many pixels, sets
# up to this many coefficients (a 16 MB matrix in float32).
_DENSE_PIXELS, _DENSE_COUNT = 64 * 64, 2048
# Per round at most one coefficient joins in each cell of this many pixels squared, and only if its excess over λ is at
# least this share of the largest. Sweeps stop at this share of it too. Measured: see docs/decisions.md.
_CELL, _SHARE, _SLACK = 3, 0.4, 0.2
# Sweeps over the working set per round, and the share of the tolerance below which a step is not worth taking.
_SWEEPS, _IDLE = 200, 0.1


def _compiled(**options):
    """Numba's ``njit`` without the GIL, cached on disk where a cache directory can be written."""

    def decorate(function):
        try:
            return njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:
            return njit(nogil=True, **options)(function)

    return decorate


@_compiled(fastmath=_MATH)
def residual(out, signal, atoms, atom, row, col, value, count):
    """``s − Dx`` from the active coefficients, wrapped around on the bottom and right for :func:`correlate`."""
    _, height, width = signal.shape
    _, channels, h, w = atoms.shape
    out[:, :height, :width] = signal
    for k in range(count):
        v = value[k]
        if v == 0:
            continue
        for c in range(channels):
            for i in range(h):
                y, x = row[k] + i, col[k]
                if y >= height:
                    y -= height
                for j in range(w):
                    out[c, y, x] -= v * atoms[atom[k], c, i, j]
                    x += 1
                    if x == width:
                        x = 0
    for c in range(channels):
        for i in range(out.shape[1]):
            out[c, i, :width] = out[c, i % height, :width]
            for j in range(width, out.shape[2]):
                out[c, i, j] = out[c, i, j - width]


@_compiled(fastmath=_MATH)
def _accumulate(out, flat, offsets, weights, m, t, start, n):
    # Unsigned indices: one that might be negative keeps the loop from being vectorised, and a slice costs an atomic.
    a0, a1, a2, a3 = offsets[t] + start, offsets[t + 1] + start, offsets[t + 2] + start, offsets[t + 3] + start
    a4, a5, a6, a7 = offsets[t + 4] + start, offsets[t + 5] + start, offsets[t + 6] + start, offsets[t + 7] + start
    w0, w1, w2, w3 = weights[m, t], weights[m, t + 1], weights[m, t + 2], weights[m, t + 3]
    w4, w5, w6, w7 = weights[m, t + 4], weights[m, t + 5], weights[m, t + 6], weights[m, t + 7]
    for i in range(n):
        left = w0 * flat[a0 + i] + w1 * flat[a1 + i] + w2 * flat[a2 + i] + w3 * flat[a3 + i]
        right = w4 * flat[a4 + i] + w5 * flat[a5 + i] + w6 * flat[a6 + i] + w7 * flat[a7 + i]
        out[start + i] += left + right


@_compiled(fastmath=_MATH)
def correlate(beta, peak, flat, offsets, weights):
    """``Dᴴr`` and its largest magnitude over the atoms, for all pixels of the padded, flat image."""
    for first in range(0, peak.shape[0], _CHUNK):
        last = min(peak.shape[0], first + _CHUNK)
        peak[first:last] = 0
        over = peak[first:last]
        for m in range(beta.shape[0]):
            out = beta[m]
            out[first:last] = 0
            for t in range(0, offsets.shape[0], TAPS):
                _accumulate(out, flat, offsets, weights, m, t, np.uint64(first), np.uint64(last - first))
            here = out[first:last]
            for i in range(last - first):
                over[i] = max(over[i], abs(here[i]))


@_compiled()
def largest(peak, height, width, pitch):
    """The largest entry of ``peak`` inside the image."""
    best = peak[0]
    for y in range(height):
        line = peak[y * pitch : y * pitch + width]
        for x in range(width):
            best = max(best, line[x])
    return best


@_compiled(fastmath=_MATH | {"reassoc"})
def _dot(a, b):
    total = a.dtype.type(0)
    for j in range(a.shape[0]):
        total += a[j] * b[j]
    return total


@_compiled()
def overlap(a, b, down, right, h, w, channels):
    """``<a, b shifted by (down, right)>`` of two atoms in the layout of ``packed``.

    There every row of w·channels numbers lies between as many zeros, so that a shift in the plane is a shift of the
    flat array and the inner product one long loop.
    """
    span = w * channels
    rows = h - abs(down)
    n = (2 * rows - 1) * span
    i = span + 2 * span * max(0, down)
    j = span + 2 * span * max(0, -down) - right * channels
    return _dot(a[i : i + n], b[j : j + n])


@_compiled()
def wrapped_overlap(a, b, down, right, height, width, h, w, channels):
    """Inner product of two atoms ``(down, right)`` pixels apart on a torus; small images meet around both sides."""
    total = a.dtype.type(0)
    for dy in (down % height, down % height - height):
        if -h < dy < h:
            for dx in (right % width, right % width - width):
                if -w < dx < w:
                    total += overlap(a, b, dy, dx, h, w, channels)
    return total


@_compiled()
def _shrink(t, lmbda):
    if t > lmbda:
        return t - lmbda
    if t < -lmbda:
        return t + lmbda
    return t - t


@_compiled()
def violation(corr, value, norm, lmbda, count):
    """Largest change, in units of the correlation, that an active coefficient still asks for."""
    worst = corr.dtype.type(0)
    for k in range(count):
        step = _shrink(corr[k] + norm[k] * value[k], lmbda) - norm[k] * value[k]
        worst = max(worst, abs(step))
    return worst


@_compiled(fastmath=_MATH)
def descend(corr, value, norm, lmbda, tol, count, first, neighbour, gram):
    """Cyclic coordinate descent on the working set until no coefficient is more than ``tol`` from optimal."""
    for _ in range(_SWEEPS):
        worst = corr.dtype.type(0)
        for k in range(count):
            old = value[k]
            target = _shrink(corr[k] + norm[k] * old, lmbda)
            step = target - norm[k] * old
            size = abs(step)
            worst = max(worst, size)
            # A coefficient that should vanish does so, however small it is.
            if size > tol * _IDLE or (target == 0 and old != 0):
                step = target / norm[k] - old
                value[k] = target / norm[k]
                for e in range(first[k], first[k + 1]):
                    corr[neighbour[e]] -= step * gram[e]
        if worst <= tol:
            return


@_compiled(fastmath=_MATH)
def descend_dense(corr, value, norm, lmbda, tol, count, gram):
    """:func:`descend` with the Gram of the working set as a matrix: longer rows, but read in order."""
    for _ in range(_SWEEPS):
        worst = corr.dtype.type(0)
        for k in range(count):
            old = value[k]
            target = _shrink(corr[k] + norm[k] * old, lmbda)
            step = target - norm[k] * old
            size = abs(step)
            worst = max(worst, size)
            if size > tol * _IDLE or (target == 0 and old != 0):
                step = target / norm[k] - old
                value[k] = target / norm[k]
                for j in range(count):
                    corr[j] -= step * gram[k, j]
        if worst <= tol:
            return


@_compiled()
def symmetric(count, lower_first, lower_neighbour, lower_gram, first, neighbour, gram):
    """Rows of a symmetric sparse matrix from those of its lower triangle (diagonal included)."""
    first[: count + 1] = 0
    for k in range(count):
        for e in range(lower_first[k], lower_first[k + 1]):
            j = lower_neighbour[e]
            first[k + 1] += 1
            if j != k:
                first[j + 1] += 1
    for k in range(count):
        first[k + 1] += first[k]
    fill = first[:count].copy()
    for k in range(count):
        for e in range(lower_first[k], lower_first[k + 1]):
            j = lower_neighbour[e]
            neighbour[fill[k]], gram[fill[k]] = j, lower_gram[e]
            fill[k] += 1
            if j != k:
                neighbour[fill[j]], gram[fill[j]] = k, lower_gram[e]
                fill[j] += 1


@_compiled()
def _longer(a):
    out = np.zeros(2 * a.shape[0], a.dtype)
    out[: a.shape[0]] = a
    return out


@_compiled()
def _wider(a):
    out = np.zeros((2 * a.shape[0], 2 * a.shape[1]), a.dtype)
    out[: a.shape[0], : a.shape[1]] = a
    return out


@_compiled()
def candidate(beta, peak, level, y0, x0, height, width, pitch):
    """Atom, row and column of the largest correlation above ``level`` in one cell; row −1 where there is none."""
    best, row, col = level, -1, -1
    for y in range(y0, min(height, y0 + _CELL)):
        for x in range(x0, min(width, x0 + _CELL)):
            if peak[y * pitch + x] > best:
                best, row, col = peak[y * pitch + x], y, x
    atom = 0
    while row >= 0 and abs(beta[atom, row * pitch + col]) < best:
        atom += 1
    return atom, row, col


@_compiled()
def append_row(packed, atom, new, y, x, head, chain, h, w, channels, lower_neighbour, lower_gram, e):
    """Write the Gram of coefficient ``new`` with all that it overlaps, itself included, from entry ``e`` on."""
    height, width = head.shape
    for dy in range(min(height, 2 * h - 1)):
        yy = (y + dy - h + 1) % height
        for dx in range(min(width, 2 * w - 1)):
            xx = (x + dx - w + 1) % width
            k = head[yy, xx]
            while k >= 0:
                if e == lower_gram.shape[0]:
                    lower_neighbour, lower_gram = _longer(lower_neighbour), _longer(lower_gram)
                lower_neighbour[e] = k
                lower_gram[e] = wrapped_overlap(
                    packed[atom[new]], packed[atom[k]], yy - y, xx - x, height, width, h, w, channels
                )
                e += 1
                k = chain[k]
    return lower_neighbour, lower_gram, e


@_compiled()
def solve_image(signal, atoms, packed, offsets, weights, lmbda, tol, max_rounds, codes):
    """Write the codes of one image into ``codes`` (M, H, W), zero before; returns ``(rounds, solved)``.

    Args:
        signal: (3, H, W).
        atoms: (M, 3, h, w); ``packed`` the same as (M, (2h + 1)·w·3), see :func:`overlap`.
        offsets, weights: taps (T,) and (M, T) of :func:`correlate`, T a multiple of ``TAPS``.
        tol: bound of the optimality residual relative to λ.
    """
    channels, height, width = signal.shape
    h, w = atoms.shape[2], atoms.shape[3]
    pitch = width + w - 1
    padded = np.zeros((channels, height + h, pitch), signal.dtype)
    flat = padded.reshape(-1)
    beta = np.empty((atoms.shape[0], height * pitch), signal.dtype)
    peak = np.empty(height * pitch, signal.dtype)
    energy = np.empty(atoms.shape[0], signal.dtype)
    for m in range(atoms.shape[0]):
        energy[m] = overlap(packed[m], packed[m], 0, 0, h, w, channels)

    count, room = 0, 256
    atom, row, col = np.empty(room, np.int32), np.empty(room, np.int32), np.empty(room, np.int32)
    value, norm, corr = np.empty(room, signal.dtype), np.empty(room, signal.dtype), np.empty(room, signal.dtype)
    # Per pixel a chain of its active coefficients; the Gram's lower triangle row by row, so that it can be appended to.
    head, chain = np.full((height, width), -1, np.int32), np.empty(room, np.int32)
    lower_first = np.zeros(2 * room, np.int64)
    lower_neighbour, lower_gram = np.empty(64 * room, np.int32), np.empty(64 * room, signal.dtype)
    small = height * width <= _DENSE_PIXELS
    dense = np.zeros((room, room) if small else (1, 1), signal.dtype)

    for done in range(max_rounds + 1):
        residual(padded, signal, atoms, atom, row, col, value, count)
        correlate(beta, peak, flat, offsets, weights)
        excess = largest(peak, height, width, pitch) / lmbda - 1
        for k in range(count):
            corr[k] = beta[atom[k], row[k] * pitch + col[k]]
        solved = excess <= tol and violation(corr, value, norm, lmbda, count) <= tol * lmbda
        if solved or done == max_rounds:
            for k in range(count):
                codes[atom[k], row[k], col[k]] = value[k]
            return done, solved

        before = count
        level = lmbda * (1 + max(tol, _SHARE * excess))
        for y0 in range(0, height, _CELL):
            for x0 in range(0, width, _CELL):
                m, y, x = candidate(beta, peak, level, y0, x0, height, width, pitch)
                k = head[y, x] if y >= 0 else -1
                while k >= 0 and atom[k] != m:
                    k = chain[k]
                if y < 0 or k >= 0:
                    continue
                if count == room:
                    room *= 2
                    atom, row, col, chain = _longer(atom), _longer(row), _longer(col), _longer(chain)
                    value, norm, corr = _longer(value), _longer(norm), _longer(corr)
                    lower_first = _longer(lower_first)
                atom[count], row[count], col[count], chain[count] = m, y, x, head[y, x]
                value[count], norm[count], corr[count] = 0, energy[m], beta[m, y * pitch + x]
                head[y, x] = count
                lower_neighbour, lower_gram, lower_first[count + 1] = append_row(
                    packed,
                    atom,
                    count,
                    y,
                    x,
                    head,
                    chain,
                    h,
                    w,
                    channels,
                    lower_neighbour,
                    lower_gram,
                    lower_first[count],
                )
                count += 1

        bound = lmbda * max(0.5 * tol, _SLACK * excess)
        if small and count <= _DENSE_COUNT:
            while dense.shape[0] < count:
                dense = _wider(dense)
            for k in range(before, count):
                for e in range(lower_first[k], lower_first[k + 1]):
                    dense[k, lower_neighbour[e]] = dense[lower_neighbour[e], k] = lower_gram[e]
            descend_dense(corr, value, norm, lmbda, bound, count, dense)
        else:
            first = np.empty(count + 1, np.int64)
            neighbour = np.empty(2 * lower_first[count], np.int32)
            gram = np.empty(2 * lower_first[count], signal.dtype)
            symmetric(count, lower_first, lower_neighbour, lower_gram, first, neighbour, gram)
            descend(corr, value, norm, lmbda, bound, count, first, neighbour, gram)
    return max_rounds, False
