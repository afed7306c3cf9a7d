"""The kinds of classifier whose networks this package knows, by their names in a grid."""

from collections.abc import Callable

from torch import nn

from raypurify.nets.bottleneck_resnet import BottleneckResNet
from raypurify.nets.cifar_resnet import load_cifar_resnet
from raypurify.nets.cnn6 import CNN6
from raypurify.nets.efficientnet_lite import load_efficientnet_lite
from raypurify.nets.store import load_network
from raypurify.nets.torchvision_nets import load_torchvision
from raypurify.nets.vgg import VGG16
from raypurify.nets.wide_resnet import WideResNet

NETWORKS: dict[str, Callable[[str, str | None], nn.Module]] = {
    "cifar-resnet": lambda path, weights: load_cifar_resnet(path),
    "wide-resnet": lambda path, weights: load_network(path, WideResNet),
    "vgg16": lambda path, weights: load_network(path, VGG16),
    "bottleneck-resnet": lambda path, weights: load_network(path, BottleneckResNet),
    "cnn6": lambda path, weights: load_network(path, CNN6),
    "torchvision": load_torchvision,
    "efficientnet-lite": lambda path, weights: load_efficientnet_lite(path),
}
"""What loads a classifier of each kind from a file or name, its ``path``, and torchvision's from ``weights``."""
