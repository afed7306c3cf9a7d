"""A gradient for the sparse front end, whose quantisation has none (Bakiskan et al., sections 4 and 8.4)."""

from typing import Literal

import torch
from torch import Tensor

from raypurify.nets.front_decoder import FrontDecoder
from raypurify.nets.front_encoder import FrontEncoder, Survivors
from raypurify.nets.front_strips import in_strips
from raypurify.nets.straight import straight_through

SIGMA = 0.25
"""How sharp the smooth stand-in for the quantisation is: the σ of the paper's Table 2, in units of ‖d‖₁."""


def decoded_through(
    encoder: FrontEncoder,
    decoder: FrontDecoder,
    images: Tensor,
    seeds: Tensor,
    sigma: float | None = None,
    top: int | Literal["all"] | None = None,
    dropped: bool = False,
    most: int | None = None,
) -> Tensor:
    """What encoder and decoder make of images (N, 3, H, W), the draws by ``seeds`` (N,), with a gradient.

    Backward, decoder and projections have their own; the choice of the T largest and dropout hand it on through the
    coefficients that survive them alone, as max-pooling does; and quantisation as :func:`quantised_through` has it. A
    coefficient that survives and is below its threshold is 0 forward and has a gradient all the same. ``top`` and
    ``dropped`` hand it on through others, too, as :func:`values_through` says. ``most`` is that of
    ``front_strips.in_strips``.

    >>> encoder = FrontEncoder(atoms=6, top=2).fill(torch.randn(6, 3, 4, 4))
    >>> x = torch.rand(1, 3, 8, 9, requires_grad=True)
    >>> torch.autograd.grad(decoded_through(encoder, FrontDecoder(6), x, torch.tensor([0])).sum(), x)[0].shape
    torch.Size([1, 3, 8, 9])
    """

    def code(some: Tensor, own: Tensor, first: int) -> Tensor:
        values = values_through(encoder, encoder.survivors(some, own, first), top, dropped)
        return quantised_through(encoder, values, sigma)

    return in_strips(encoder, decoder, images, seeds, most, code)


def values_through(
    encoder: FrontEncoder, found: Survivors, top: int | Literal["all"] | None = None, dropped: bool = False
) -> Tensor:
    """The values x̃ (N, L, m, n) of survivors, to the bit, with the gradient of more projections or fewer than survive.

    That is of the ``top`` largest of each patch, None for the encoder's T, which go forward, or of "all"; of those that
    dropout leaves, or with ``dropped`` of the others, too. The authors' code has all of these: a coefficient just below
    the T-th is one that a small step brings among them, and one that was dropped may stay in the next draw.

    >>> encoder = FrontEncoder(atoms=3, size=1, stride=1, top=1, dropout=0.0).fill(torch.rand(3, 3, 1, 1))
    >>> found = encoder.survivors(torch.ones(1, 3, 1, 1, requires_grad=True))
    >>> torch.autograd.grad(values_through(encoder, found, 2).sum(), found.projections)[0].sum().item()
    2.0
    """
    if top is None and not dropped:
        return found.values
    projections = found.projections
    largest = found.largest if top is None else encoder.largest(projections, None if top == "all" else top)
    passed = largest if dropped else largest & found.left
    return straight_through(projections * passed, found.values.detach())


def quantised_through(encoder: FrontEncoder, values: Tensor, sigma: float | None = None) -> Tensor:
    """The code of values x̃ (N, L, m, n), to the bit, with the gradient of the identity, or of :func:`smooth_step`.

    >>> encoder = FrontEncoder(atoms=2, size=1, stride=1, top=1, dropout=0.0).fill(torch.ones(2, 3, 1, 1))
    >>> x = torch.tensor([0.5, 0.0]).view(1, 2, 1, 1).requires_grad_()
    >>> code = quantised_through(encoder, x)
    >>> code.flatten().tolist(), torch.autograd.grad(code.sum(), x)[0].flatten().tolist()
    ([1.7320507764816284, 0.0], [1.0, 1.0])
    """
    if not encoder.quantise:
        return values
    stand_in = values if sigma is None else smooth_step(values, encoder.norms, encoder.thresholds, sigma)
    return straight_through(stand_in, encoder.quantised(values.detach()))


def smooth_step(values: Tensor, norms: Tensor, thresholds: Tensor, sigma: float = SIGMA) -> Tensor:
    """The smooth stand-in for the quantisation, ‖d‖₁/2 · (tanh((x − t)/s) + tanh((x + t)/s)), t = β·ε·‖d‖₁, s = σ·‖d‖₁.

    Bakiskan et al., eq. 10; its derivative is their eq. 9, far from the thresholds too, where it is small but has a
    sign. The equations have σ itself for s; the authors' code divides x by ‖d‖₁ first, and so it is here: an s of 0.25
    leaves most coefficients, which are several units from their thresholds, next to no gradient. ``norms`` ‖d‖₁ and
    ``thresholds`` t are of each atom.

    >>> smooth_step(torch.tensor([-9.0, 0.0, 9.0]), torch.tensor(2.0), torch.tensor(1.0)).tolist()
    [-2.0, 0.0, 2.0]
    """
    scale = sigma * norms
    return norms / 2 * (_tanh((values - thresholds) / scale) + _tanh((values + thresholds) / scale))


def _tanh(values: Tensor) -> Tensor:
    """tanh, whose gradient keeps its tails: 1 − tanh² is exactly 0 in float32 from 9 on, and a pixel that only such
    coefficients see would not be attacked at all."""
    above = values > 0
    tail = 2 * (2 * torch.where(above, -values, values)).sigmoid()
    return torch.where(above, 1 - tail, tail - 1)
