"""Classifiers that the decoder of a sparse front end can learn with; one entry of ``NETWORKS`` each."""

from collections.abc import Callable

from torch import nn

from raypurify.nets.cifar_resnet import CifarResNet
from raypurify.nets.efficientnet_lite import efficientnet_lite, load_efficientnet_lite
from raypurify.nets.torchvision_nets import efficientnet_b0

NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {
    "cifar-resnet": CifarResNet,
    "efficientnet-b0": lambda depth, classes: efficientnet_b0(classes),
    "efficientnet-lite0": lambda depth, classes: efficientnet_lite("efficientnet-lite0", classes),
}
"""What makes each of ``raypurify.fronts.LEARNERS`` of a depth, where it may have another, and so many classes.

Images (N, 3, H, W) in [0, 1] of any size become logits (N, classes).
"""

PRETRAINED: dict[str, Callable[[], nn.Module]] = {
    "efficientnet-lite0": lambda: load_efficientnet_lite("efficientnet-lite0")
}
"""What loads those whose package carries weights of ImageNet, for its 1,000 classes."""


def start_from_pretrained(name: str, network: nn.Module, head: str) -> None:
    """Give a network of ``NETWORKS`` the pretrained weights of its name, but for those of its last layer, of which
    ``head`` is the tensor: its classes are others.

    Raises ConfigError where the package that carries them is missing.
    """
    last = head.rpartition(".")[0]
    state = {key: value for key, value in PRETRAINED[name]().state_dict().items() if not key.startswith(f"{last}.")}
    network.load_state_dict(network.state_dict() | state)
