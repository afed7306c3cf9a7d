"""An attacker of the sparse front end (Bakiskan et al.): its gradient but for the quantisation, W-NFGA."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from raypurify.attacks.adaptive import straight_through
from raypurify.attacks.base import Model
from raypurify.nets.front_encoder import FrontEncoder

SIGMA = 0.25
"""How sharp the smooth stand-in for the quantisation is: the σ of the paper's Table 2, in units of ‖d‖₁."""


class SparseFront(Protocol):
    """What is asked of a purifier that is a sparse front end: its ``encoder`` and ``decoder``, and with
    ``draws(images)`` the seeds (N,) int64 that decide what of each image is dropped, as it purifies them."""

    @property
    def encoder(self) -> FrontEncoder: ...
    @property
    def decoder(self) -> Callable[[Tensor, tuple[int, int]], Tensor]: ...
    def draws(self, images: Tensor) -> Tensor: ...
    def purify(self, images: Tensor) -> Any: ...


def is_front(purifier: Any) -> bool:
    """Whether a purifier is a sparse front end, as :class:`SparseFront` says.

    >>> is_front(object())
    False
    """
    return isinstance(getattr(purifier, "encoder", None), FrontEncoder)


def near_full_gradient(classifier: Model, purifier: SparseFront, smooth: bool = False, sigma: float = SIGMA) -> Model:
    """The model classifier(purify(x)) with the gradient of all but the quantisation: W-NFGA.

    Bakiskan et al., sections 4, 8.3 and 8.4. What goes forward is what is deployed. Backward, decoder and projections
    have their own gradient; the choice of the T largest and dropout hand it on through the coefficients that survive
    them alone, as max-pooling does; and quantisation hands it on as if it were the identity, or with ``smooth`` as
    :func:`smooth_step` of ``sigma`` has it. A coefficient that survives and is below its threshold is 0 forward and
    has a gradient all the same. An encoder without quantisation has its own gradient. Of images that require no
    gradient the model gives ``purifier.purify``'s to the bit.

    What the purifier draws is drawn anew for images that differ; an attacker averages over other draws by
    ``adaptive.eot``. W-AIGA, which takes the whole front end for the identity, is ``adaptive.bpda``.
    """

    def model(images: Tensor) -> Tensor:
        if not (images.requires_grad and torch.is_grad_enabled()):
            return classifier(purifier.purify(images).images)
        encoder, (height, width) = purifier.encoder, images.shape[-2:]
        values = encoder.survivors(images, purifier.draws(images)).values
        code = quantised_through(encoder, values, sigma if smooth else None)
        return classifier(purifier.decoder(code, (height, width)))

    return model


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
