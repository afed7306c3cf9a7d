"""A front end over images that are too many or too large at once: a few at a time, of a large one strips of rows."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from raypurify.nets.front_decoder import AROUND, FrontDecoder
from raypurify.nets.front_encoder import FrontEncoder

COEFFICIENTS = 1 << 23
"""Coefficients that are made at a time, 32 MiB of them: with 500 atoms and stride 2 those of 2¹⁶ pixels."""

Coder: TypeAlias = Callable[[Tensor, Tensor, int], Tensor]
"""Gives codes (N, L, m, n) of images, the draws by seeds (N,), patch rows from a number on: ``FrontEncoder.code``."""


def in_strips(
    encoder: FrontEncoder,
    decoder: FrontDecoder,
    images: Tensor,
    seeds: Tensor,
    most: int | None = None,
    code: Coder | None = None,
) -> Tensor:
    """What encoder and decoder make of images (N, 3, H, W), the draws by ``seeds`` (N,), of not many more than ``most``
    pixels at a time; None: those of ``COEFFICIENTS``.

    A patch of ``stride``² pixels more has L coefficients more, of which nearly all are 0. Rows of patches are coded
    without the others, and a row of pixels depends on the patches over it and ``AROUND`` rows above and below. ``code``
    stands for ``encoder.code``, of which it gives the values.

    Where ``images`` require a gradient, each strip of a large one is computed once more when the gradient comes, so
    that the graph of one alone is in memory; smaller images stay together, as many as there are.

    >>> encoder = FrontEncoder(atoms=6, top=2).fill(torch.randn(6, 3, 4, 4))
    >>> in_strips(encoder, FrontDecoder(6, channels=(2, 2)), torch.rand(1, 3, 20, 9), torch.tensor([0]), 40).shape
    torch.Size([1, 3, 20, 9])
    """
    code = code or encoder.code
    most = most or max(1, COEFFICIENTS * encoder.stride**2 // len(encoder.dictionary))
    followed = images.requires_grad and torch.is_grad_enabled()
    height, width = images.shape[-2:]

    def made(some: Tensor, own: Tensor, first: int, tall: int) -> Tensor:
        return decoder(code(some, own, first), (tall, width))

    if height * width <= most:
        each = max(1, len(images) if followed else most // (height * width))
        return torch.cat([made(some, own, 0, height) for some, own in zip(images.split(each), seeds.split(each))])
    tall, size, stride = max(1, most // width), encoder.size, encoder.stride
    strips = []
    for top in range(0, height, tall):
        bottom = min(height, top + tall)
        first = max(0, (top - AROUND - size + 1) // stride)
        last = (bottom - 1 + AROUND) // stride
        above = first * stride
        seen = images[:, :, above : last * stride + size]
        arguments = [(one, own, first, bottom - above) for one, own in zip(seen.split(1), seeds.split(1))]
        parts = [checkpoint(made, *each, use_reentrant=False) if followed else made(*each) for each in arguments]
        strips.append(torch.cat(parts)[:, :, top - above :])
    return torch.cat(strips, 2)
