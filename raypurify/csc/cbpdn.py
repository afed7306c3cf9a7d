"""Convolutional basis pursuit denoising: the sparse code of an image under a dictionary."""

from typing import NamedTuple

import torch

from raypurify.csc import cd
from raypurify.csc._checks import (
    check_dictionary,
    check_initial,
    check_lmbda,
    check_mask,
    check_options,
    check_settings,
    check_signal,
)
from raypurify.csc.admm import AdmmSettings
from raypurify.csc.levels import levels
from raypurify.csc.methods import METHODS, Problem, solve_by
from raypurify.csc.optimality import Solution, quality
from raypurify.csc.padding import pad_mirrored

# Coordinate descent beats ADMM while few coefficients are active. On CIFAR-10 the two meet at about this λ in units of
# the root mean square of an image's high part (0.06 to 0.13); at 224² descent is three times quicker there still.
_DESCENT_FROM = 0.03


class SparseCode(NamedTuple):
    """Sparse codes of a batch of images as :func:`solve_cbpdn` finds them, and how good each is.

    Attributes:
        codes: (N, M, H, W) coefficient maps, dense or sparse (COO) as asked; with ``pad``, of the padded image.
        reconstruction: (N, C, H, W), ``Σ_m d_m * x_m``, where the mask is 0 too.
        iterations: (N,) int64; of ADMM, or rounds of coordinate descent.
        objective: (N,) ``½‖W(Dx − s)‖² + Σ_m λ_m‖x_m‖₁``.
        converged: (N,) bool; False where ``max_iter`` came first.
        residual: (N,) violation of optimality: the largest step that any coefficient still asks for, in units of its
            correlation with the residual, relative to its λ. Both methods are measured by it, whatever stopped them.
        gap: (N,) duality gap: the objective is at most this far above the optimum.
    """

    codes: torch.Tensor
    reconstruction: torch.Tensor
    iterations: torch.Tensor
    objective: torch.Tensor
    converged: torch.Tensor
    residual: torch.Tensor
    gap: torch.Tensor


def solve_cbpdn(
    dictionary: torch.Tensor,
    signal: torch.Tensor,
    lmbda: float | torch.Tensor = 0.2,
    rel_tol: float = 5e-3,
    method: str = "auto",
    index: torch.Tensor | None = None,
    max_iter: int | None = None,
    rho: float | None = None,
    relax: float = 1.8,
    auto_rho: bool = False,
    nonneg: bool = False,
    initial: torch.Tensor | None = None,
    pad: int = 0,
    sparse: bool = False,
    differentiable: str | None = None,
    max_bytes: int = 2 << 30,
    mask: torch.Tensor | None = None,
) -> SparseCode:
    r"""Solve ``argmin_x ½‖W(Σ_m d_m * x_m − s)‖² + Σ_m λ_m ‖x_m‖₁`` for every image; W = 1: RSFP, equation 6.

    Convolution is circular, atoms have their origin in the top-left corner and the coefficient maps are shared by the
    channels, of which there may be any number: the problem of ``sporco.admm.cbpdn.ConvBPDN`` and, with a mask,
    ``ConvBPDNMaskDcpl`` with a dictionary of as many channels, and with ``method="admm"`` and sporco's AutoRho off,
    their iterates. What is done, and where it was published, say :mod:`raypurify.csc.cd`, :mod:`raypurify.csc.admm`
    and :mod:`raypurify.csc.admm_masked`.

    Args:
        dictionary: atoms (M, C, h, w), or a bank (K, M, C, h, w) together with ``index``.
        signal: images (N, C, H, W), normally their high part; float32 or float64, H ≥ h, W ≥ w.
        lmbda: weight λ ≥ 0 of the L1 norm: a number, one for each image (N,), for each atom (1, M), or both (N, M). A
            vector of M ≠ N weights is refused rather than guessed at.
        rel_tol: an image is finished when its relative primal and dual residuals are below this (ADMM), or when no
            coefficient violates optimality by more than ``10 rel_tol λ`` (coordinate descent). With the
            default ρ the latter ends at the lower objective.
        method: ``"admm"`` (any device), ``"cd"`` (coordinate descent, every λ > 0: on a CPU with Numba; on a GPU with
            Triton, in float32, atoms of at most 16×16 in up to 8 channels) or ``"auto"``: per image the quicker of the
            two on a CPU, and ADMM on a GPU, where descent is not measured yet, and where one of its settings is given.
        index: (N,) integers, the dictionary of the bank that each image uses.
        max_iter: stop there even if unfinished; None: until solved (given up after 10,000, see ``converged``).
        rho: ADMM's penalty; None: ``50 λ + 1``, sporco's default, λ being the median of an image's where atoms differ.
        relax: ADMM's over-relaxation in [1, 2).
        auto_rho: ADMM adapts the penalty to the residuals (sporco's AutoRho) in the first 200 iterations.
        nonneg: allow codes ≥ 0 only.
        initial: codes to start from, as in the result, dense or sparse; None: zeros.
        pad: mirror so many pixels around every side before coding and crop them from the reconstruction, so that
            opposite borders do not meet. ``codes`` are then those of the padded images, (N, M, H + 2 pad, W + 2 pad).
        sparse: return ``codes`` as a coalesced sparse COO tensor: coordinate descent then never holds a dense array.
        differentiable: how the result depends on ``signal`` for autograd. ``"unrolled"``: through the iterations of
            ADMM, exact for the iterate that is returned, memory for each; ``"implicit"``: by the optimality conditions
            of the solution, any method (:mod:`raypurify.csc.implicit`). Use ``rel_tol`` ≤ 1e-3 for either: at 5e-3 the
            gradient's cosine with the true one is 0.88. None: no gradient.
        max_bytes: working memory of the batch, besides ``signal`` and result. ADMM takes fewer images at once; an
            image that needs more by itself is coded in tiles with an overlap of eight atoms, and ``residual`` and
            ``gap`` are those of the whole. Descent needs about 80 bytes a pixel, ADMM 80 M.
        mask: W, how much each pixel counts, from 0 (unknown: inpainting) to 1; (N or 1, C or 1, H, W). None: all alike.
            ``reconstruction`` is there where it is 0, too. Not with ``auto_rho``.

    Returns:
        :class:`SparseCode`, in the dtype and on the device of ``signal``.

    Raises:
        DataError: shapes that do not fit, values that are not finite, a setting out of range, or a ``signal`` that
            requires a gradient with ``differentiable=None``: a gradient that is silently zero looks like robustness.

    >>> atom = torch.full((1, 3, 2, 2), 12**-0.5)
    >>> res = solve_cbpdn(atom, torch.ones(1, 3, 4, 4), lmbda=0.1, rel_tol=1e-4)
    >>> bool(res.converged.all()), bool(res.gap < 1e-3), res.reconstruction.shape
    (True, True, torch.Size([1, 3, 4, 4]))
    """
    check_signal(signal)
    check_options(signal, method, pad, sparse, differentiable, auto_rho and mask is not None)
    height, width = signal.shape[2:]
    mask = check_mask(mask, signal)
    if pad:
        signal, mask = pad_mirrored(signal, pad), None if mask is None else pad_mirrored(mask, pad)
    bank, index = check_dictionary(dictionary, signal, index)
    check_settings(rel_tol, max_iter, rho, relax, signal.dtype)
    weights = check_lmbda(lmbda, signal, bank.shape[1])
    initial = check_initial(initial, bank, signal)
    if not len(signal):
        return _empty(bank, signal, sparse, height, width)
    penalty = 50 * levels(weights) + 1 if rho is None else torch.full_like(weights[:, 0], rho)
    settings = AdmmSettings(weights, rel_tol, max_iter, penalty, relax, auto_rho, nonneg)
    if method == "auto":
        tuned = rho is not None or differentiable == "unrolled" or max_iter is not None or auto_rho
        seen = signal if mask is None else mask * signal
        descends = torch.zeros(len(signal), dtype=torch.bool) if tuned else _prefers_descent(seen, weights)
    else:
        descends = torch.full((len(signal),), method == "cd")
    problem = Problem(bank, index, signal, mask, weights, settings, initial, sparse, differentiable, max_bytes)
    # Each image by its own measure, or its code would depend on the company it came in.
    parts, order = [], []
    for name, members in (("cd", descends), ("admm", ~descends)):
        some = members.nonzero().flatten().to(signal.device)
        if len(some):
            parts.append(solve_by(METHODS[name], problem.part(some)))
            order.append(some)
    back = torch.argsort(torch.cat(order))
    code = Solution(*(torch.cat(field).index_select(0, back) for field in zip(*parts))) if len(parts) > 1 else parts[0]
    objective, residual, gap = quality(code, signal, weights, mask)
    reconstruction = (signal - code.rest)[..., pad : pad + height, pad : pad + width]
    codes = code.codes.coalesce() if sparse else code.codes
    return SparseCode(codes, reconstruction, code.iterations, objective, code.converged, residual, gap)


def _prefers_descent(signal: torch.Tensor, lmbda: torch.Tensor) -> torch.Tensor:
    if signal.device.type != "cpu" or not cd.available():
        return torch.zeros(len(signal), dtype=torch.bool)
    enough = levels(lmbda).to(signal) >= _DESCENT_FROM * signal.detach().square().mean((1, 2, 3)).sqrt()
    return enough & (lmbda > 0).all(1)


def _empty(bank: torch.Tensor, signal: torch.Tensor, sparse: bool, height: int, width: int) -> SparseCode:
    codes = signal.new_zeros(0, bank.shape[1], *signal.shape[2:])
    none = torch.zeros(0, dtype=torch.int64, device=signal.device)
    number = signal.new_zeros(0)
    codes = codes.to_sparse() if sparse else codes
    return SparseCode(codes, signal[..., :height, :width], none, number, none.bool(), number, number)
