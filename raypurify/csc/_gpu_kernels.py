"""Kernels of ADMM's iteration for GPUs, in Triton: each reads and writes every array once.

Complex numbers enter as words of 64 bits, the real part in the lower half: a program then loads each in one piece
whatever the sizes are. Offsets that grow with the batch are 64 bits wide too.
With TRITON_INTERPRET=1 in the environment the same kernels run on CPU tensors.
"""

import torch
import triton
import triton.language as tl

# Elements, respectively frequencies, per program of four warps.
_ELEMENTS, _FREQUENCIES = 1024, 128
# Images per program that share each value of a common dictionary: it is read from cache once for so many codes.
_IMAGES = 4


def update_state(
    v: torch.Tensor, w: torch.Tensor, threshold: torch.Tensor, relax: float, nonneg: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """``v ← y + (1 − α)u + αw`` and ``z = y' − u'``, where ``y = shrink(v, λ/ρ)`` and ``u = v − y``.

    Args:
        v: (n, M, H, W) float32, overwritten by the new state.
        w: (n, M, H, W) float32, overwritten by z.
        threshold: (n,) λ/ρ of each image.

    Returns:
        z, and the norms ``‖x − y'‖, ‖x‖, ‖y'‖, ‖y' − y‖, ‖u'‖`` (n, 5) in float64, where ``x = y − u + w``.
    """
    count, size = len(v), v[0].numel()
    programs = triton.cdiv(size, _ELEMENTS)
    # One sum per program instead of atomic additions, whose order and rounding would change from run to run.
    partial = v.new_empty(count, programs, 5)
    _update[(count * programs,)](
        v, w, threshold, partial, size, programs, float(relax), 1.0 - relax, NONNEG=nonneg, BLOCK=_ELEMENTS, num_warps=4
    )
    return w, partial.sum(1, dtype=torch.float64).sqrt()


def correct_spectra(
    maps_hat: torch.Tensor,
    spectra: torch.Tensor,
    solver: torch.Tensor,
    signal_hat: torch.Tensor,
    rows: torch.Tensor,
) -> torch.Tensor:
    """``Dᴴ S (s − D z)`` per frequency, S being the inverse of ``DDᴴ + ρI``.

    Args:
        maps_hat: spectra of z (n, M, H, Wf) complex64.
        spectra: of the atoms (N, 3, M, H, Wf), or (1, ...) shared.
        solver: S (N, 3, 3, H, Wf), or (1, ...) shared.
        signal_hat: (N, 3, H, Wf).
        rows: (n,) int64, which of the N images each of the n is.

    Returns:
        (n, M, H, Wf).
    """
    maps_hat = maps_hat.contiguous()
    out = torch.empty_like(maps_hat)
    count, atoms = maps_hat.shape[:2]
    frequencies = maps_hat[0, 0].numel()
    shared = len(spectra) == 1
    images = _IMAGES if shared and count >= _IMAGES else 1
    groups = triton.cdiv(count, images)
    packed = (t.view(torch.int64) for t in (maps_hat, spectra, solver, signal_hat, out))
    # Neighbouring programs take the same frequencies of other images, so that a shared dictionary stays in cache.
    _correct[(groups * triton.cdiv(frequencies, _FREQUENCIES),)](
        *packed,
        rows,
        count,
        groups,
        frequencies,
        frequencies * atoms,
        0 if shared else 3 * frequencies * atoms,
        0 if len(solver) == 1 else 9 * frequencies,
        ATOMS=atoms,
        IMAGES=images,
        BLOCK=_FREQUENCIES,
        num_warps=4,
    )
    return out


@triton.jit
def _shrink(v, threshold, NONNEG: tl.constexpr):
    """``(y, u)`` of ``v = y + u``."""
    u = tl.minimum(v, threshold)
    if not NONNEG:
        u = tl.maximum(u, -threshold)
    return v - u, u


@triton.jit
def _update(
    v_start,
    w_start,
    threshold_start,
    partial_start,
    size,
    programs,
    relax,
    rest,
    NONNEG: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    n = program // programs
    first = (program % programs).to(tl.int64) * BLOCK
    lane = tl.arange(0, BLOCK)
    inside = lane < size - first
    here = n.to(tl.int64) * size + first
    v_at, w_at = v_start + here + lane, w_start + here + lane
    threshold = tl.load(threshold_start + n)
    w = tl.load(w_at, mask=inside, other=0.0)
    y_before, u_before = _shrink(tl.load(v_at, mask=inside, other=0.0), threshold, NONNEG)
    x = y_before - u_before + w
    v = y_before + rest * u_before + relax * w
    y, u = _shrink(v, threshold, NONNEG)
    tl.store(v_at, v, mask=inside)
    tl.store(w_at, y - u, mask=inside)
    out = partial_start + program.to(tl.int64) * 5
    tl.store(out, tl.sum((x - y) * (x - y)))
    tl.store(out + 1, tl.sum(x * x))
    tl.store(out + 2, tl.sum(y * y))
    tl.store(out + 3, tl.sum((y - y_before) * (y - y_before)))
    tl.store(out + 4, tl.sum(u * u))


@triton.jit
def _complex(at, mask):
    packed = tl.load(at, mask=mask, other=0)
    return packed.to(tl.int32).to(tl.float32, bitcast=True), (packed >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _packed(real, imaginary):
    low, high = real.to(tl.int32, bitcast=True), imaginary.to(tl.int32, bitcast=True)
    return (high.to(tl.int64) << 32) | (low.to(tl.int64) & 0xFFFFFFFF)


@triton.jit
def _row_times(at, mask, plane, r0, i0, r1, i1, r2, i2):
    """A row of the 3×3 matrix at ``at`` times the vector ``r + i√−1``."""
    ar, ai = _complex(at, mask)
    br, bi = _complex(at + plane, mask)
    cr, ci = _complex(at + plane + plane, mask)
    real = ar * r0 - ai * i0 + br * r1 - bi * i1 + cr * r2 - ci * i2
    imaginary = ar * i0 + ai * r0 + br * i1 + bi * r1 + cr * i2 + ci * r2
    return real, imaginary


# Unspecialised, or tiles of one image and of several would be laid out in two ways and converted at every step.
@triton.jit(do_not_specialize_on_alignment=["frequencies", "maps_step", "spectra_step", "solver_step"])
def _correct(
    maps_start,
    spectra_start,
    solver_start,
    signal_start,
    out_start,
    rows_start,
    count,
    groups,
    frequencies,
    maps_step,
    spectra_step,
    solver_step,
    ATOMS: tl.constexpr,
    IMAGES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    frequency = ((program // groups) * BLOCK + tl.arange(0, BLOCK))[None, :]
    n = ((program % groups) * IMAGES + tl.arange(0, IMAGES))[:, None]
    row = tl.load(rows_start + n, mask=n < count, other=0)
    known = frequency < frequencies
    inside = (n < count) & known
    # Several images in a program means one dictionary for all.
    atom0 = frequency.to(tl.int64)
    if IMAGES == 1:
        atom0 += row * spectra_step
    atom1 = atom0 + maps_step
    atom2 = atom1 + maps_step
    here = n.to(tl.int64) * maps_step + frequency

    signal_at = signal_start + row * 3 * frequencies + frequency
    r0, i0 = _complex(signal_at, inside)
    r1, i1 = _complex(signal_at + frequencies, inside)
    r2, i2 = _complex(signal_at + frequencies + frequencies, inside)
    maps_at, atom_at = maps_start, spectra_start
    for _ in range(ATOMS):
        zr, zi = _complex(maps_at + here, inside)
        ar, ai = _complex(atom_at + atom0, known)
        br, bi = _complex(atom_at + atom1, known)
        cr, ci = _complex(atom_at + atom2, known)
        r0 -= ar * zr - ai * zi
        i0 -= ar * zi + ai * zr
        r1 -= br * zr - bi * zi
        i1 -= br * zi + bi * zr
        r2 -= cr * zr - ci * zi
        i2 -= cr * zi + ci * zr
        maps_at += frequencies
        atom_at += frequencies

    solver_at = solver_start + row * solver_step + frequency
    p0, q0 = _row_times(solver_at, inside, frequencies, r0, i0, r1, i1, r2, i2)
    solver_at += 3 * frequencies
    p1, q1 = _row_times(solver_at, inside, frequencies, r0, i0, r1, i1, r2, i2)
    solver_at += 3 * frequencies
    p2, q2 = _row_times(solver_at, inside, frequencies, r0, i0, r1, i1, r2, i2)

    out_at, atom_at = out_start, spectra_start
    for _ in range(ATOMS):
        ar, ai = _complex(atom_at + atom0, known)
        br, bi = _complex(atom_at + atom1, known)
        cr, ci = _complex(atom_at + atom2, known)
        real = ar * p0 + ai * q0 + br * p1 + bi * q1 + cr * p2 + ci * q2
        imaginary = ar * q0 - ai * p0 + br * q1 - bi * p1 + cr * q2 - ci * p2
        tl.store(out_at + here, _packed(real, imaginary), mask=inside)
        out_at += frequencies
        atom_at += frequencies
