"""The sparse front end (Bakiskan et al.): an encoder that is not trained, and the decoder that makes images of it."""

from collections.abc import Sequence

from torch import Tensor, nn

from raypurify.nets.front_decoder import FrontDecoder
from raypurify.nets.front_encoder import Draws, FrontEncoder


class FrontEnd(nn.Module):
    """The front end: images through an ``encoder`` (``FrontEncoder``), whose codes a ``decoder`` (``FrontDecoder``)
    makes images of.

    Bakiskan et al., section 2. The settings are those of the two. Only the decoder has parameters.

    ``network(images, draws)`` gives images (N, 3, H, W) in [0, 1], float32, of images (N, 3, H, W) in [0, 1], no side
    below ``size``; ``draws`` are those of :meth:`FrontEncoder.survivors`. No gradient comes through equation 3, whose
    slope is 0 where it has one.

    >>> import torch
    >>> network = FrontEnd(atoms=20, top=5, dropout=0.5, channels=(8, 4))
    >>> network(torch.rand(2, 3, 9, 9), torch.Generator()).shape
    torch.Size([2, 3, 9, 9])
    """

    def __init__(
        self,
        atoms: int = 500,
        size: int = 4,
        stride: int = 2,
        top: int | None = 50,
        dropout: float = 0.95,
        quantise: bool = True,
        beta: float = 3.0,
        eps: float = 8 / 255,
        channels: Sequence[int] = (300, 100),
    ):
        super().__init__()
        self.settings = {
            "atoms": atoms,
            "size": size,
            "stride": stride,
            "top": top,
            "dropout": dropout,
            "quantise": quantise,
            "beta": beta,
            "eps": eps,
            "channels": list(channels),
        }
        self.encoder = FrontEncoder(atoms, size, stride, top, dropout, quantise, beta, eps)
        self.decoder = FrontDecoder(atoms, size, stride, channels)

    def forward(self, images: Tensor, draws: Draws | None = None) -> Tensor:
        height, width = images.shape[-2:]
        return self.decoder(self.encoder.code(images, draws), (height, width))
