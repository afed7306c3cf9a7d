"""A front end over images that are too many or too large at once: a few at a time, of a large one strips of rows."""

import torch
from torch import Tensor

from raypurify.nets.front_decoder import AROUND, FrontDecoder
from raypurify.nets.front_encoder import FrontEncoder


def in_strips(encoder: FrontEncoder, decoder: FrontDecoder, images: Tensor, seeds: Tensor, most: int) -> Tensor:
    """What encoder and decoder make of images (N, 3, H, W), the draws by ``seeds`` (N,), of not many more than ``most``
    pixels at a time.

    A patch of ``stride``² pixels more has L coefficients more, of which nearly all are 0. Rows of patches are coded
    without the others, and a row of pixels depends on the patches over it and ``AROUND`` rows above and below.

    >>> encoder = FrontEncoder(atoms=6, top=2).fill(torch.randn(6, 3, 4, 4))
    >>> in_strips(encoder, FrontDecoder(6, channels=(2, 2)), torch.rand(1, 3, 20, 9), torch.tensor([0]), 40).shape
    torch.Size([1, 3, 20, 9])
    """
    height, width = images.shape[-2:]
    if height * width <= most:
        parts = zip(images.split(max(1, most // (height * width))), seeds.split(max(1, most // (height * width))))
        return torch.cat([decoder(encoder.code(some, own), (height, width)) for some, own in parts])
    tall, size, stride = max(1, most // width), encoder.size, encoder.stride
    strips = []
    for top in range(0, height, tall):
        bottom = min(height, top + tall)
        first = max(0, (top - AROUND - size + 1) // stride)
        last = (bottom - 1 + AROUND) // stride
        above = first * stride
        seen = images[:, :, above : last * stride + size]
        codes = (encoder.code(one, own, first) for one, own in zip(seen.split(1), seeds.split(1)))
        strips.append(torch.cat([decoder(code, (bottom - above, width)) for code in codes])[:, :, top - above :])
    return torch.cat(strips, 2)
