"""The sparse front end: few signs of an image's patches, drawn at random, and an image made of them by a decoder."""

from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from raypurify.bundle import Bundle
from raypurify.bundle.names import DECODER, DICTIONARIES
from raypurify.bundle.tensors import Tensors, fitting
from raypurify.nets.front_classifiers import NETWORKS
from raypurify.nets.front_decoder import FrontDecoder
from raypurify.nets.front_encoder import FrontEncoder
from raypurify.nets.front_end import DefendedClassifier, FrontEnd
from raypurify.nets.front_gradient import decoded_through
from raypurify.nets.front_strips import in_strips
from raypurify.purifiers.base import checked
from raypurify.purifiers.bundled import Bundled, Work, weighted
from raypurify.purifiers.transform import generator_of

# Of the weights in a bundle's file: whose they are.
_DECODER, _CLASSIFIER = "decoder.", "classifier."


class FrontEndPurifier(Bundled):
    """The sparse front end, the purifier of a bundle of the method front_end: a decoder's image of the signs of a few
    coefficients of each patch.

    Of Bakiskan et al., "A Neuro-Inspired Autoencoding Defense Against Adversarial Perturbations", for an image x:

    1. a code of every patch: the T largest projections on the dictionary, most of them dropped at random, of the others
       the signs (section 2.2, equations 2 and 3; :class:`~raypurify.nets.front_encoder.FrontEncoder`);
    2. the decoder's image of it (section 2.3; :class:`~raypurify.nets.front_decoder.FrontDecoder`).

    The paper draws anew each time. Here the image's pixels and ``encoder.seed`` decide what is dropped, so that the
    same image gives the same result, and another ``seed`` another draw; ``random`` says whether there is anything to
    draw. ``encoder`` and ``decoder`` are for attackers who know them.

    A ``supervised`` decoder has learned with a classifier and makes images for that one alone, ``classifier_of`` the
    bundle: to people and to other classifiers they need not look like anything.

    There is one dictionary, and so one cluster, of all images. The ``distance`` is the root mean square of what the
    image that comes back differs by, in units of pixels in [0, 1]: how little the image is made of what the decoder
    knows.
    """

    tunable: ClassVar[str] = "encoder"

    decoder: FrontDecoder

    @property
    def encoder(self) -> FrontEncoder:
        """The encoder of the settings as they are, over the bundle's dictionary, on the purifier's device."""
        how = self.settings.encoder
        with torch.device("meta"):
            made = FrontEncoder(
                len(self.dictionaries[0]),
                self.settings.dictionary.size,
                self.settings.dictionary.stride,
                how.top,
                how.dropout,
                how.quantise,
                how.beta,
                how.eps,
            )
        # Of norm 1 already, and not copied.
        made.dictionary = self.dictionaries[0]
        return made

    @property
    def seed(self) -> int:
        """The number of the draw."""
        return self.settings.encoder.seed

    @seed.setter
    def seed(self, seed: int) -> None:
        encoder = self.settings.encoder.model_copy(update={"seed": seed})
        self.settings = self.settings.model_copy(update={"encoder": encoder})

    @property
    def random(self) -> bool:
        """Whether another seed can give another result."""
        return self.settings.encoder.dropout > 0

    @property
    def supervised(self) -> bool:
        """Whether the decoder makes images for its own classifier alone."""
        return self.settings.decoder.supervised

    def draws(self, images: Tensor) -> Tensor:
        """The seeds (N,) int64 of what is dropped of images (N, 3, H, W), from their pixels and ``seed``."""
        pixels = images.detach().permute(0, 2, 3, 1).cpu().numpy()
        numbers = [generator_of(np.ascontiguousarray(image), self.seed).integers(1 << 62) for image in pixels]
        return torch.tensor(numbers, dtype=torch.int64)

    def choose(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The one cluster (N,), 0, and the distance (N,)."""
        cluster = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        return cluster, self.own_distance(images, cluster)

    def own_distance(self, images: Tensor, cluster: Tensor) -> Tensor:
        """The distance (N,) of each image to what the decoder makes of it."""
        return _distance(self._decoded(images), images)

    def cluster_distances(self, images: Tensor) -> Tensor:
        """The distance (N, 1) of each image to the one cluster, differentiable, through equation 3 as the identity."""
        return _distance(self._decoded(images, straight=True), images)[:, None]

    def purify_differentiably(
        self, images: Tensor, rel_tol: float = 1e-3, differentiable: str = "implicit", hold_lmbda: bool = False
    ) -> Tensor:
        """Purified images (N, 3, H, W), differentiable in ``images``: for attackers who know the purifier.

        The gradient comes through the coefficients that survive alone, and through equation 3 as if it were the
        identity: the paper's W-NFGA, identity (``nets.front_gradient.decoded_through``). The other arguments, which
        those of other methods have, change nothing.
        """
        return self._decoded(checked(images, self.min_size, "an atom").to(self.device), straight=True)

    def _rewritten(self, images: Tensor, given: Tensor | None) -> Work:
        purified, cluster = self._decoded(images), torch.zeros(len(images), dtype=torch.int64, device=images.device)
        return Work(purified, cluster, _distance(purified, images), torch.zeros_like(cluster))

    def _decoded(self, images: Tensor, straight: bool = False) -> Tensor:
        if not len(images):
            return images
        passed = decoded_through if straight else in_strips
        return passed(self.encoder, self.decoder, images, self.draws(images))

    def _assemble(self) -> None:
        atoms, how = self.dictionaries, self.settings
        side = how.dictionary.size
        if len(atoms) != 1 or atoms.shape[-2:] != (side, side):
            raise ValueError(f"dictionaries of shape {tuple(atoms.shape)}, not (1, L, 3, {side}, {side})")
        if how.encoder.top is not None and how.encoder.top > atoms.shape[1]:
            raise ValueError(f"encoder.top is {how.encoder.top}, of {atoms.shape[1]} atoms")
        make = partial(FrontDecoder, atoms.shape[1], side, how.dictionary.stride, how.decoder.channels)
        self.decoder = weighted(make, _of(_DECODER, self.bundle))
        if self.supervised:
            self.classifier = network_of(self.bundle)


def network_of(bundle: Bundle) -> nn.Module:
    """The classifier that a supervised decoder of a bundle of the method front_end learned with, of its classes.

    It takes what that front end makes of images. Raises BundleError for weights that do not fit, ConfigError where the
    network needs a package that is missing.
    """
    # The method has checked that its file is as large as the settings say.
    how = bundle.settings.decoder
    network = NETWORKS[how.classifier](how.depth, len(bundle.manifest.classes))
    with fitting(bundle):
        network.load_state_dict(_of(_CLASSIFIER, bundle))
    return network.eval()


def front_end_tensors(network: FrontEnd | DefendedClassifier) -> Tensors:
    """The tensors of a bundle of the method front_end, for ``save_bundle``: atoms, the decoder's weights and, where it
    learned with one, the classifier's, as float16.

    >>> tensors = front_end_tensors(FrontEnd(atoms=20, top=5, channels=(8, 4)))
    >>> tensors["dictionaries.safetensors"]["atoms"].shape, len(tensors["decoder.safetensors"])
    (torch.Size([1, 20, 3, 4, 4]), 6)
    """
    front = network.front if isinstance(network, DefendedClassifier) else network
    parts: dict[str, nn.Module] = {_DECODER: front.decoder}
    if isinstance(network, DefendedClassifier):
        parts[_CLASSIFIER] = network.classifier
    weights = {prefix + name: value for prefix, part in parts.items() for name, value in part.state_dict().items()}
    return {
        DICTIONARIES: {"atoms": front.encoder.dictionary[None].half()},
        DECODER: {name: value.half() if value.is_floating_point() else value for name, value in weights.items()},
    }


def _of(prefix: str, bundle: Bundle) -> dict[str, Tensor]:
    """The weights of one part, by their names in it."""
    return {
        name.removeprefix(prefix): value for name, value in bundle.tensors[DECODER].items() if name.startswith(prefix)
    }


def _distance(purified: Tensor, images: Tensor) -> Tensor:
    return (purified - images).square().flatten(1).mean(1).sqrt()
