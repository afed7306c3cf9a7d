"""The networks that ``semantic_losses.py`` trains, and where each has the layers that PCL counts in its Table 1."""

from collections.abc import Callable, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import nn

from raypurify.nets.bottleneck_resnet import BottleneckResNet
from raypurify.nets.cifar_resnet import CifarResNet
from raypurify.nets.cnn6 import CNN6


class Studied(NamedTuple):
    """A network: what makes it, what its checkpoints are of, its places by the paper's numbers of layers, each a group
    of layers with the features of a branch behind it (0: without a map), or None, the latents; and ``settings`` of its
    own, of every training."""

    make: Callable[[], nn.Module]
    about: dict[str, Any]
    layers: dict[int, tuple[int, int] | None]
    settings: MappingProxyType[str, Any] = MappingProxyType({})


# Layer 5, a linear layer on the latents, is a branch where the network has none.
BASIC = {2: (1, 512), 3: (2, 512), 4: None, 5: (3, 512)}
RESNET_110 = {2: (1, 512), 3: (2, 512), 4: (3, 0), 5: None}
CNN_6 = {1: (1, 0), 2: (2, 0), 3: (3, 0), 4: (4, 0), 5: None}

# Lower than for the others: in so deep a network, or one without batch norm, the features that a linear layer maps are
# long at first, and so are the gradients of losses of their squares. Not tuned.
GENTLE = MappingProxyType({"lr": 0.02, "alpha": 0.01})

NETWORKS = {
    **{
        f"resnet-{depth}": Studied(partial(CifarResNet, depth), {"cifar_resnet": depth}, BASIC)
        for depth in (8, 20, 32, 44, 56)
    },
    **{
        f"resnet-{depth}": Studied(partial(BottleneckResNet, depth), {"bottleneck_resnet": depth}, RESNET_110, GENTLE)
        for depth in (110, 164)
    },
    "cnn-6": Studied(CNN6, {"cnn6": {}}, CNN_6, MappingProxyType(GENTLE | {"lr": 0.005})),
}
"""By the names that ``--network`` takes: CIFAR ResNets of basic blocks, PCL's ResNet-110 of bottlenecks (164: as its
authors' code has it), and its CNN-6."""


def held_at(network: Studied, layers: Sequence[int]) -> dict[str, Any]:
    """The settings that hold features at these layers of the paper.

    >>> held_at(NETWORKS["resnet-110"], (3, 4, 5))
    {'latents': True, 'branches': [2, 3], 'branch_dim': [512, 0]}
    """
    branches = dict(found for layer in layers if (found := network.layers[layer]))
    settings = {"latents": any(network.layers[layer] is None for layer in layers), "branches": [*branches]}
    dims = [*branches.values()]
    # One for all where it is one, as files of earlier trainings have it.
    return settings | ({"branch_dim": dims[0] if len({*dims}) == 1 else dims} if dims else {})
