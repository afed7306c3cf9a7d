"""Places in a network whose features a training may look at: behind each group of layers, and before the last one."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from raypurify.errors import ConfigError
from raypurify.nets.bottleneck_resnet import BottleneckResNet
from raypurify.nets.cifar_resnet import CifarResNet
from raypurify.nets.cnn6 import CNN6
from raypurify.nets.vgg import VGG16
from raypurify.nets.wide_resnet import WideResNet, blocks_per_group

LATENTS = "latents"


class Places(NamedTuple):
    """Names of modules: those that end the groups of layers, first to last, and the last linear layer."""

    groups: tuple[str, ...]
    head: str


def _wide_resnet(network: WideResNet) -> Places:
    # The convolution before the blocks is number 0.
    count = blocks_per_group(network.settings["depth"])
    return Places(tuple(f"features.{group * count}" for group in (1, 2, 3)), "head")


def _vgg16(network: VGG16) -> Places:
    pools = [i for i, layer in enumerate(network.features) if isinstance(layer, nn.MaxPool2d)]
    return Places(tuple(f"features.{i}" for i in pools), "head")


PLACES: dict[type[nn.Module], Callable[[Any], Places]] = {
    WideResNet: _wide_resnet,
    VGG16: _vgg16,
    CifarResNet: lambda network: Places(("layer1", "layer2", "layer3"), "linear"),
    BottleneckResNet: lambda network: Places(("groups.0", "groups.1", "groups.2"), "head"),
    # The wide linear layer is a group, as Table 1 has a loss behind it.
    CNN6: lambda network: Places(("groups.0", "groups.1", "groups.2", "wide"), "head"),
}
"""Networks whose places are known."""


def places_of(network: nn.Module) -> Places:
    """The places of a network. Raises ConfigError for one that is none of ``PLACES``.

    >>> places_of(WideResNet(depth=16, width=1, classes=2)).groups
    ('features.2', 'features.4', 'features.6')
    """
    if type(network) not in PLACES:
        known = ", ".join(kind.__name__ for kind in PLACES)
        raise ConfigError(
            f"a semantic loss knows no places in a {type(network).__name__}: train one of {known}, or set semantic to "
            "none and branches to []"
        )
    return PLACES[type(network)](network)


def behind(group: int) -> str:
    """What the place behind a group of layers, counted from 1, is called.

    >>> behind(2)
    'group2'
    """
    return f"group{group}"


def head_of(network: nn.Module) -> nn.Linear:
    """The last linear layer. Raises ConfigError as ``places_of`` does."""
    found = network.get_submodule(places_of(network).head)
    assert isinstance(found, nn.Linear)
    return found


@contextmanager
def features_at(network: nn.Module, wanted: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Within it, each pass through the network leaves its features at these places in the dictionary, by their names.

    ``"latents"`` are the inputs (N, d) of the last layer; ``behind(g)`` the output of group g, a map globally pooled,
    (N, channels). Float32 whatever the autocast precision. Raises ConfigError for a group that the network has not.

    >>> network = WideResNet(depth=10, width=1, classes=2)
    >>> with features_at(network, ["group1", "latents"]) as found:
    ...     _ = network(torch.rand(2, 3, 32, 32))
    >>> {name: tuple(features.shape) for name, features in found.items()}
    {'group1': (2, 16), 'latents': (2, 64)}
    """
    places = places_of(network)
    known = {behind(i): name for i, name in enumerate(places.groups, 1)}
    found: dict[str, Tensor] = {}
    handles = []
    try:
        for place in wanted:
            if place == LATENTS:
                handles.append(head_of(network).register_forward_pre_hook(_keep_input(found)))
            elif place in known:
                handles.append(network.get_submodule(known[place]).register_forward_hook(_keep_pooled(found, place)))
            else:
                raise ConfigError(
                    f"the network has no {place}: a {type(network).__name__} has groups 1 to {len(known)}; "
                    "name others as branches"
                )
        yield found
    finally:
        for handle in handles:
            handle.remove()


def widths_at(network: nn.Module, wanted: Sequence[str], side: int = 32) -> dict[str, int]:
    """How many features there are at each of these places: those of one black image.

    >>> widths_at(VGG16(), ["group3"])
    {'group3': 256}
    """
    training, device = network.training, next(network.parameters()).device
    with features_at(network, wanted) as found, torch.no_grad():
        network.eval()(torch.zeros(1, 3, side, side, device=device))
    network.train(training)
    return {place: found[place].shape[1] for place in wanted}


def _keep_input(found: dict[str, Tensor]) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found[LATENTS] = inputs[0].float()

    return hook


def _keep_pooled(found: dict[str, Tensor], place: str) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found[place] = output.float() if output.ndim == 2 else output.float().mean((2, 3))

    return hook
