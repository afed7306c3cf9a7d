"""Stratified convolutional sparse coding: the sparse transformation layer of STL."""

from functools import partial

from torch import Tensor

from raypurify.bundle.names import DICTIONARIES, ENCODER, STRATA
from raypurify.bundle.tensors import Tensors
from raypurify.clusters.strata import Strata, halved
from raypurify.nets.dae import DenoisingAutoEncoder
from raypurify.purifiers.bundled import latents_at, weighted
from raypurify.purifiers.convolutional import Convolutional


class STL(Convolutional):
    """STL, the purifier of a bundle of that method: rewrites the high part of an image with the atoms of its stratum.

    As :class:`~raypurify.purifiers.convolutional.Convolutional`. Of Sun et al., "Adversarial Defense by Stratified
    Convolutional Sparse Coding" (CVPR 2019), for an image x:

    1. x_low, x_high by the Tikhonov split. The paper's equation 2 is for whole images; its authors' code, and this,
       code the high part and add the low part again.
    2. The denoising auto-encoder's code of x, squashed to the auto-encoder's size, 32² (section 5.1), and the stratum k
       of most of its nearest training codes (section 3.4). The ``distance`` is the mean one to these, see
       :meth:`~raypurify.clusters.strata.Strata.distance`.
    3. z = argmin_z ½‖Σ_i f_i ∗ z_i − x_high‖² + λ Σ_i‖z_i‖₁ with the filters f of stratum k (section 3.2, equation 2
       for given filters, which section 3.3 calls CBPDN). With ``csc.refine`` filters and maps are optimised in turns
       (figure 2).
    4. T(x) = clip(x_low + Σ_i f_i ∗ z_i, 0, 1).

    With one stratum it is what the paper's tables call "STL", with more "STL (cluster)".

    >>> import raypurify, torch
    >>> purifier = raypurify.load("cifar10-stl")
    >>> type(purifier).__name__, len(purifier.dictionaries)
    ('STL', 4)
    >>> out = purifier.purify(torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    >>> out.images.shape, out.cluster.shape, bool(out.distance > 0)
    (torch.Size([1, 3, 32, 32]), torch.Size([1]), True)
    """

    network: DenoisingAutoEncoder
    strata: Strata

    def latents(self, images: Tensor) -> Tensor:
        """Codes (N, d) of images (N, 3, H, W) of any size, resized to the auto-encoder's: bilinear, antialiased."""
        return latents_at(self.network.side, self.network.latents, images)

    def choose(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The stratum (N,) of each image, and its mean distance (N,) to the training codes that voted."""
        return self.strata.vote(self.latents(images))

    def own_distance(self, images: Tensor, cluster: Tensor) -> Tensor:
        """The mean distance (N,) of each image to its nearest training codes, of whichever stratum.

        Strata divide all images among them and have no distance of their own, so that ``cluster`` does not matter: an
        image whose stratum is given is as far from training images as it was.
        """
        return self.strata.distance(self.latents(images))

    def cluster_distances(self, images: Tensor) -> Tensor:
        """The distance (N, K) of each image's code to the centroid of each stratum, differentiable.

        The vote itself is not. The nearest centroid's stratum wins it, but near the boundary of two.
        """
        return self.strata.distances(self.latents(images))

    def _assemble(self) -> None:
        tensors, settings = self.bundle.tensors, self.settings
        make = partial(DenoisingAutoEncoder, settings.dae.width, settings.data.image_size)
        self.network = weighted(make, tensors[ENCODER])
        self.strata = Strata.from_state(dict(tensors[STRATA]), settings.strata.neighbours)
        if self.strata.dim != self.network.dim:
            raise ValueError(f"strata of {self.strata.dim} dimensions, latents of {self.network.dim}")
        if self.strata.count != len(self.dictionaries):
            raise ValueError(f"{self.strata.count} strata, {len(self.dictionaries)} dictionaries")


def stl_tensors(network: DenoisingAutoEncoder, strata: Strata, dictionaries: Tensor) -> Tensors:
    """The tensors of a bundle of the method stl, for ``save_bundle``: weights, atoms (K, M, 3, h, w) and, where it can
    hold them, the kept features as float16; what else the strata are made of as float32.

    >>> import torch
    >>> from raypurify.clusters import fit_strata
    >>> from raypurify.config import StrataSettings
    >>> network = DenoisingAutoEncoder(width=2)
    >>> strata = fit_strata(torch.rand(30, network.dim), StrataSettings(keep=20)).strata
    >>> sorted(stl_tensors(network, strata, torch.rand(4, 8, 3, 5, 5)))
    ['dictionaries.safetensors', 'encoder.safetensors', 'strata.safetensors']
    """
    return {
        ENCODER: {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()},
        STRATA: strata.state() | {"features": halved(strata.features)},
        DICTIONARIES: {"atoms": dictionaries.half()},
    }
