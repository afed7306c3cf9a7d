"""Compiled loops of coordinate descent with a working set. Import only where Numba is installed.

One image at a time, all in plain arrays. An *active* coefficient k is an entry of the working set: atom ``atom[k]`` at
pixel ``(row[k], col[k])`` with value ``value[k]``; ``corr[k]`` is its correlation ``(Dᴴr)`` with the current residual.
"""

import numpy as np
from numba import njit

# No reassociation: the order of every sum is fixed, so a result does not depend on the other images of a batch.
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
                line, d = out[c, (row[k] + i) % height], atoms[atom[k], c, i]
                if col[k] + w <= width:
                    for j in range(w):
                        line[col[k] + j] -= v * d[j]
                else:
                    for j in range(w):
                        line[(col[k] + j) % width] -= v * d[j]
    for c in range(channels):
        for i in range(out.shape[1]):
            out[c, i, :width] = out[c, i % height, :width]
            for j in range(width, out.shape[2]):
                out[c, i, j] = out[c, i, j - width]


@_compiled(fastmath=_MATH)
def _accumulate(out, flat, offsets, weights, start, stop):
    n = stop - start
    a0, a1, a2, a3 = offsets[0] + start, offsets[1] + start, offsets[2] + start, offsets[3] + start
    a4, a5, a6, a7 = offsets[4] + start, offsets[5] + start, offsets[6] + start, offsets[7] + start
    r0, r1, r2, r3 = flat[a0 : a0 + n], flat[a1 : a1 + n], flat[a2 : a2 + n], flat[a3 : a3 + n]
    r4, r5, r6, r7 = flat[a4 : a4 + n], flat[a5 : a5 + n], flat[a6 : a6 + n], flat[a7 : a7 + n]
    w0, w1, w2, w3 = weights[0], weights[1], weights[2], weights[3]
    w4, w5, w6, w7 = weights[4], weights[5], weights[6], weights[7]
    # A slice, because an index that might be negative keeps the loop from being vectorised.
    into = out[start:stop]
    for i in range(n):
        into[i] += w0 * r0[i] + w1 * r1[i] + w2 * r2[i] + w3 * r3[i] + w4 * r4[i] + w5 * r5[i] + w6 * r6[i] + w7 * r7[i]


@_compiled(fastmath=_MATH)
def correlate(beta, peak, flat, offsets, weights, start, stop):
    """``Dᴴr`` and its largest magnitude over the atoms, for the pixels ``start:stop`` of the padded, flat image."""
    for first in range(start, stop, _CHUNK):
        last = min(stop, first + _CHUNK)
        peak[first:last] = 0
        for m in range(beta.shape[0]):
            out = beta[m]
            out[first:last] = 0
            for t in range(0, offsets.shape[0], TAPS):
                _accumulate(out, flat, offsets[t : t + TAPS], weights[m, t : t + TAPS], first, last)
            here, over = out[first:last], peak[first:last]
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


@_compiled(fastmath=_MATH)
def overlap(a, b, down, right, channels):
    """``<a, b shifted by (down, right)>`` of two atoms stored as (h, w·channels)."""
    h, span = a.shape
    shift = right * channels
    total = a[0, 0] * 0
    lo, hi = max(0, shift), min(span, span + shift)
    for i in range(max(0, down), min(h, h + down)):
        p, q = a[i], b[i - down]
        for j in range(lo, hi):
            total += p[j] * q[j - shift]
    return total


@_compiled()
def wrapped_overlap(a, b, down, right, height, width, channels):
    """Inner product of two atoms ``(down, right)`` pixels apart on a torus; small images meet around both sides."""
    h, w = a.shape[0], a.shape[1] // channels
    total = a[0, 0] * 0
    for dy in (down % height, down % height - height):
        if -h < dy < h:
            for dx in (right % width, right % width - width):
                if -w < dx < w:
                    total += overlap(a, b, dy, dx, channels)
    return total


@_compiled()
def _shrink(t, lmbda):
    if t > lmbda:
        return t - lmbda
    if t < -lmbda:
        return t + lmbda
    return t * 0


@_compiled()
def violation(corr, value, norm, lmbda, count):
    """Largest change, in units of the correlation, that an active coefficient still asks for."""
    worst = corr[0] * 0
    for k in range(count):
        step = _shrink(corr[k] + norm[k] * value[k], lmbda) - norm[k] * value[k]
        worst = max(worst, abs(step))
    return worst


@_compiled(fastmath=_MATH)
def descend(corr, value, norm, lmbda, tol, count, first, neighbour, gram):
    """Cyclic coordinate descent on the working set until no coefficient is more than ``tol`` from optimal."""
    for _ in range(_SWEEPS):
        worst = corr[0] * 0
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
        worst = corr[0] * 0
        for k in range(count):
            old = value[k]
            target = _shrink(corr[k] + norm[k] * old, lmbda)
            step = target - norm[k] * old
            size = abs(step)
            worst = max(worst, size)
            if size > tol * _IDLE or (target == 0 and old != 0):
                step = target / norm[k] - old
                value[k] = target / norm[k]
                line = gram[k]
                for j in range(count):
                    corr[j] -= step * line[j]
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
def append_row(packed, atom, new, y, x, head, chain, channels, lower_neighbour, lower_gram, e):
    """Write the Gram of coefficient ``new`` with all that it overlaps, itself included, from entry ``e`` on."""
    height, width = head.shape
    h, w = packed.shape[1], packed.shape[2] // channels
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
                    packed[atom[new]], packed[atom[k]], yy - y, xx - x, height, width, channels
                )
                e += 1
                k = chain[k]
    return lower_neighbour, lower_gram, e


@_compiled()
def solve_image(signal, atoms, packed, offsets, weights, lmbda, tol, max_rounds, codes):
    """Write the codes of one image into ``codes`` (M, H, W), zero before; returns ``(rounds, solved)``.

    Args:
        signal: (3, H, W).
        atoms: (M, 3, h, w); ``packed`` the same as (M, h, w·3).
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
        energy[m] = overlap(packed[m], packed[m], 0, 0, channels)

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
        correlate(beta, peak, flat, offsets, weights, 0, height * pitch)
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
                    packed, atom, count, y, x, head, chain, channels, lower_neighbour, lower_gram, lower_first[count]
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
