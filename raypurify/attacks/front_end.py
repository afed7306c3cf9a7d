"""An attacker of the sparse front end (Bakiskan et al.): its gradient but for the quantisation, W-NFGA."""

from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from raypurify.attacks.base import Model
from raypurify.nets.front_decoder import FrontDecoder
from raypurify.nets.front_encoder import FrontEncoder
from raypurify.nets.front_gradient import SIGMA, decoded_through


class SparseFront(Protocol):
    """What is asked of a purifier that is a sparse front end: its ``encoder`` and ``decoder``, and with
    ``draws(images)`` the seeds (N,) int64 that decide what of each image is dropped, as it purifies them."""

    @property
    def encoder(self) -> FrontEncoder: ...
    @property
    def decoder(self) -> FrontDecoder: ...
    def draws(self, images: Tensor) -> Tensor: ...
    def purify(self, images: Tensor) -> Any: ...


def is_front(purifier: Any) -> bool:
    """Whether a purifier is a sparse front end, as :class:`SparseFront` says.

    >>> is_front(object())
    False
    """
    return isinstance(getattr(purifier, "encoder", None), FrontEncoder)


def near_full_gradient(
    classifier: Model,
    purifier: SparseFront,
    smooth: bool = False,
    sigma: float = SIGMA,
    top: int | Literal["all"] | None = None,
    dropped: bool = False,
) -> Model:
    """The model classifier(purify(x)) with the gradient of all but the quantisation: W-NFGA.

    Bakiskan et al., sections 4, 8.3 and 8.4. What goes forward is what is deployed. Backward, the purifier is passed as
    ``nets.front_gradient.decoded_through`` says: through the coefficients that survive alone, and through quantisation
    as if it were the identity, or with ``smooth`` a smooth step of ``sigma``; with ``top`` and ``dropped`` through
    others, too, as the authors' code can. Of images that require no gradient the model gives ``purifier.purify``'s to
    the bit.

    What the purifier draws is drawn anew for images that differ; an attacker averages over other draws by
    ``adaptive.eot``. W-AIGA, which takes the whole front end for the identity, is ``adaptive.bpda``.
    """

    def model(images: Tensor) -> Tensor:
        if not (images.requires_grad and torch.is_grad_enabled()):
            return classifier(purifier.purify(images).images)
        passed = purifier.encoder, purifier.decoder, images, purifier.draws(images)
        return classifier(decoded_through(*passed, sigma if smooth else None, top, dropped))

    return model
