"""Compiled loops of coordinate descent with a working set. Import only where Numba is installed.

One image at a time, all in plain arrays. An *active* coefficient k is an entry of the working set: atom ``atom[k]`` at
pixel ``(row[k], col[k])`` with value ``value[k]``; ``corr[k]`` is its correlation ``(Dᴴr)`` with the current residual.
"""

import numpy as np
from numba import njit

# No reassociation: the order of every sum is fixed, so a result does not depend on the other images of a batch.
_MATH = {"contract", "nsz", "arcp"}
_CHUNK = 2048
_LANES = 8


@njit(nogil=True, fastmath=_MATH, cache=True)
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


@njit(nogil=True, fastmath=_MATH, cache=True)
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
        into[i] += (
            w0 * r0[i] + w1 * r1[i] + w2 * r2[i] + w3 * r3[i] + w4 * r4[i] + w5 * r5[i] + w6 * r6[i] + w7 * r7[i]
        )


@njit(nogil=True, fastmath=_MATH, cache=True)
def correlate(beta, peak, flat, offsets, weights, start, stop):
    """``Dᴴr`` and its largest magnitude over the atoms, for the pixels ``start:stop`` of the padded, flat image."""
    for first in range(start, stop, _CHUNK):
        last = min(stop, first + _CHUNK)
        peak[first:last] = 0
        for m in range(beta.shape[0]):
            out = beta[m]
            out[first:last] = 0
            for t in range(0, offsets.shape[0], _LANES):
                _accumulate(out, flat, offsets[t : t + _LANES], weights[m, t : t + _LANES], first, last)
            here, over = out[first:last], peak[first:last]
            for i in range(last - first):
                over[i] = max(over[i], abs(here[i]))


@njit(nogil=True, cache=True)
def largest(peak, height, width, pitch):
    """The largest entry of ``peak`` inside the image."""
    best = peak[0]
    for y in range(height):
        line = peak[y * pitch : y * pitch + width]
        for x in range(width):
            best = max(best, line[x])
    return best


@njit(nogil=True, fastmath=_MATH, cache=True)
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


@njit(nogil=True, cache=True)
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


@njit(nogil=True, cache=True)
def _shrink(t, lmbda):
    if t > lmbda:
        return t - lmbda
    if t < -lmbda:
        return t + lmbda
    return t * 0


@njit(nogil=True, cache=True)
def violation(corr, value, norm, lmbda, count):
    """Largest change, in units of the correlation, that an active coefficient still asks for."""
    worst = corr[0] * 0
    for k in range(count):
        step = _shrink(corr[k] + norm[k] * value[k], lmbda) - norm[k] * value[k]
        worst = max(worst, abs(step))
    return worst


@njit(nogil=True, fastmath=_MATH, cache=True)
def descend(corr, value, norm, lmbda, tol, sweeps, count, first, neighbour, gram):
    """Cyclic coordinate descent on the working set, to an optimality residual of ``tol``."""
    for sweep in range(sweeps):
        worst = corr[0] * 0
        for k in range(count):
            old = value[k]
            t = corr[k] + norm[k] * old
            step = _shrink(t, lmbda) - norm[k] * old
            size = abs(step)
            worst = max(worst, size)
            if size > tol * 0.1:
                step /= norm[k]
                value[k] = old + step
                for e in range(first[k], first[k + 1]):
                    corr[neighbour[e]] -= step * gram[e]
        if worst <= tol:
            return sweep + 1
    return sweeps


@njit(nogil=True, cache=True)
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


@njit(nogil=True, cache=True)
def _grown(a):
    out = np.empty(2 * a.shape[0], a.dtype)
    out[: a.shape[0]] = a
    return out


@njit(nogil=True, cache=True)
def solve_image(signal, atoms, packed, offsets, weights, lmbda, tol, max_rounds, codes, cell, cont, slack, sweeps, info):
    """Write the codes of one image; returns the rounds taken, negative when ``max_rounds`` came first."""
    channels, height, width = signal.shape
    count_atoms, _, h, w = atoms.shape
    pitch = width + w - 1
    padded = np.zeros((channels, height + h, pitch), signal.dtype)
    flat = padded.reshape(-1)
    n = height * pitch
    beta = np.empty((count_atoms, n), signal.dtype)
    peak = np.empty(n, signal.dtype)
    energy = np.empty(count_atoms, signal.dtype)
    for m in range(count_atoms):
        energy[m] = overlap(packed[m], packed[m], 0, 0, channels)

    cap = 256
    atom, row, col, chain = (np.empty(cap, np.int32), np.empty(cap, np.int32), np.empty(cap, np.int32), np.empty(cap, np.int32))
    value, norm, corr = np.empty(cap, signal.dtype), np.empty(cap, signal.dtype), np.empty(cap, signal.dtype)
    lower_first = np.zeros(cap + 1, np.int64)
    lower_neighbour, lower_gram = np.empty(64 * cap, np.int32), np.empty(64 * cap, signal.dtype)
    head = np.full((height, width), -1, np.int32)
    count = 0
    nsw = 0
    for rounds in range(max_rounds):
        residual(padded, signal, atoms, atom, row, col, value, count)
        correlate(beta, peak, flat, offsets, weights, 0, n)
        top = largest(peak, height, width, pitch)
        for k in range(count):
            corr[k] = beta[atom[k], row[k] * pitch + col[k]]
        excess = top / lmbda - 1
        if excess <= tol and violation(corr, value, norm, lmbda, count) <= tol * lmbda:
            for k in range(count):
                codes[atom[k], row[k], col[k]] = value[k]
            info[0] = count; info[1] = nsw
            return rounds
        level = lmbda * (1 + max(tol, cont * excess))
        before=count
        for y0 in range(0, height, cell):
            for x0 in range(0, width, cell):
                best = level
                by = -1
                bx = -1
                for y in range(y0, min(height, y0 + cell)):
                    for x in range(x0, min(width, x0 + cell)):
                        if peak[y * pitch + x] > best:
                            best, by, bx = peak[y * pitch + x], y, x
                if by < 0:
                    continue
                bm = 0
                while abs(beta[bm, by * pitch + bx]) < best:
                    bm += 1
                k = head[by, bx]
                while k >= 0 and atom[k] != bm:
                    k = chain[k]
                if k >= 0:
                    continue
                if count == cap:
                    atom, row, col, chain = _grown(atom), _grown(row), _grown(col), _grown(chain)
                    value, norm, corr = _grown(value), _grown(norm), _grown(corr)
                    lf = np.zeros(2 * cap + 1, np.int64)
                    lf[: cap + 1] = lower_first
                    lower_first = lf
                    cap *= 2
                atom[count], row[count], col[count] = bm, by, bx
                value[count], norm[count], corr[count] = 0, energy[bm], beta[bm, by * pitch + bx]
                chain[count] = head[by, bx]
                head[by, bx] = count
                e = lower_first[count]
                for dy in range(min(height, 2 * h - 1)):
                    y = (by + dy - h + 1) % height
                    for dx in range(min(width, 2 * w - 1)):
                        x = (bx + dx - w + 1) % width
                        k = head[y, x]
                        while k >= 0:
                            if e == lower_gram.shape[0]:
                                lower_neighbour, lower_gram = _grown(lower_neighbour), _grown(lower_gram)
                            lower_neighbour[e] = k
                            lower_gram[e] = wrapped_overlap(packed[bm], packed[atom[k]], y - by, x - bx, height, width, channels)
                            e += 1
                            k = chain[k]
                count += 1
                lower_first[count] = e
        first = np.empty(count + 1, np.int64)
        neighbour, gram = np.empty(2 * lower_first[count], np.int32), np.empty(2 * lower_first[count], signal.dtype)
        symmetric(count, lower_first, lower_neighbour, lower_gram, first, neighbour, gram)
        nsw += descend(corr, value, norm, lmbda, lmbda * max(0.5 * tol, slack * excess), sweeps, count, first, neighbour, gram)
    for k in range(count):
        codes[atom[k], row[k], col[k]] = value[k]
    return -max_rounds
