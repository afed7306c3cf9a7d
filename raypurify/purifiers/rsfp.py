"""Robust semantic feature purification: stage iii of RSFP's Algorithm 1."""

from functools import partial

import torch
from torch import Tensor

from raypurify.bundle import Bundle
from raypurify.bundle.names import DICTIONARIES, DISTRIBUTIONS, NETWORK
from raypurify.bundle.tensors import Tensors, fitting
from raypurify.clusters import ClusterDistributions
from raypurify.nets.wide_resnet import WideResNet
from raypurify.purifiers.bundled import latents_at, weighted
from raypurify.purifiers.convolutional import Convolutional


class RSFP(Convolutional):
    """RSFP, the purifier of a bundle of that method: rewrites the high part of an image with the atoms of its nearest
    cluster.

    As :class:`~raypurify.purifiers.convolutional.Convolutional` (Silva et al., section III-E), where the cluster (c, j)
    is the one whose clean distribution is nearest to R_rob(x) by Mahalanobis distance, and that is the distance.

    The network sees the image resized to its own input size; everything else works at the image's size. The
    dictionaries were learned on images of the setting ``dictionaries.image_size``, by default the network's size, also
    where larger ones are purified.

    >>> import raypurify, torch
    >>> raypurify.load("cifar10").purify(torch.rand(2, 3, 32, 40)).images.shape
    torch.Size([2, 3, 32, 40])
    """

    network: WideResNet
    distributions: ClusterDistributions

    def latents(self, images: Tensor) -> Tensor:
        """Robust latents R_rob (N, d) of images (N, 3, H, W) of any size, resized to the network's."""
        return latents_at(self.settings.data.image_size, self.network.latents, images)

    def choose(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest cluster (N,) of each image, and the Mahalanobis distance (N,) to it."""
        return self.distributions.nearest(self.latents(images))

    def own_distance(self, images: Tensor, cluster: Tensor) -> Tensor:
        """The Mahalanobis distance (N,) of each image's latent to the ``cluster`` (N,) that is named for it."""
        return self.distributions.own_distance(self.latents(images), cluster)

    def cluster_distances(self, images: Tensor) -> Tensor:
        """The Mahalanobis distance (N, K) of each image's latent to each cluster, differentiable.

        Needs K·N·d numbers at a time.
        """
        latents, clusters = self.latents(images), self.distributions.clusters
        index = torch.arange(clusters, device=latents.device).repeat(len(latents))
        distance = self.distributions.own_distance(latents.repeat_interleave(clusters, 0), index)
        return distance.reshape(len(latents), clusters)

    def _assemble(self) -> None:
        tensors = self.bundle.tensors
        self.network = network_of(self.bundle)
        self.distributions = ClusterDistributions.from_state(
            dict(tensors[DISTRIBUTIONS]), form=self.settings.clusters.form
        )
        if self.distributions.dim != self.network.dim:
            raise ValueError(f"distributions of {self.distributions.dim} dimensions, latents of {self.network.dim}")


def network_of(bundle: Bundle) -> WideResNet:
    """The robust network of a bundle of the method rsfp, a classifier of its classes. Raises BundleError."""
    net = bundle.settings.network
    with fitting(bundle):
        make = partial(WideResNet, net.depth, net.width, len(bundle.manifest.classes))
        network = weighted(make, bundle.tensors[NETWORK])
    return network.eval()


def rsfp_tensors(network: WideResNet, distributions: ClusterDistributions, dictionaries: Tensor) -> Tensors:
    """The tensors of a bundle of the method rsfp, for ``save_bundle``: weights and atoms (K, M, 3, h, w) as float16,
    distributions as float32."""
    return {
        NETWORK: {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()},
        DISTRIBUTIONS: distributions.state(),
        DICTIONARIES: {"atoms": dictionaries.half()},
    }
