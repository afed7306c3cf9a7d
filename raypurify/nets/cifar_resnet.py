"""CIFAR ResNets as target classifiers: He et al., "Deep residual learning for image recognition", 2016, section 4.2.

Depth 6n + 2 (20, 32, 44, 56, ...): three stages of n basic blocks with 16, 32 and 64 channels, parameter-free shortcuts
(option A). Module names match the widely used ``pytorch_resnet_cifar10`` checkpoints, so those load as they are.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu

from raypurify.errors import ConfigError, SourceError
from raypurify.nets.state import filled, read_state

# The checkpoints were trained with ImageNet's statistics, not CIFAR-10's.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class BasicBlock(nn.Module):
    """A basic block, relu(bn(conv(relu(bn(conv(x))))) + shortcut(x)).

    The shortcut subsamples by the stride and zero-pads the channels (option A).
    """

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.padding = (channels - in_channels) // 2

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = relu(self.bn1(self.conv1(inputs)))
        shortcut = inputs[:, :, :: self.stride, :: self.stride]
        shortcut = pad(shortcut, (0, 0, 0, 0, self.padding, self.padding))
        return relu(self.bn2(self.conv2(hidden)) + shortcut)


class CifarResNet(nn.Module):
    """ResNet-``depth`` for images (N, 3, H, W) in [0, 1]; normalisation is part of the network.

    ``network(images)`` gives logits (N, classes), ``network.latents(images)`` the pooled features (N, 64). Raises
    ConfigError for a depth that is not 6n + 2.

    >>> CifarResNet(20).eval()(torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, depth: int, classes: int = 10):
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ConfigError(f"depth={depth}: a CIFAR ResNet must have 6n + 2 layers: 20, 32, 44, 56, ...")
        blocks = (depth - 2) // 6
        self.depth = depth
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks)
        self.layer2 = _stage(16, 32, blocks)
        self.layer3 = _stage(32, 64, blocks)
        self.linear = nn.Linear(64, classes)
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(3, 1, 1), persistent=False)

    def latents(self, images: Tensor) -> Tensor:
        """Pooled features (N, 64) of images (N, 3, H, W) in [0, 1]."""
        hidden = relu(self.bn1(self.conv1((images - self.mean) / self.std)))
        return self.layer3(self.layer2(self.layer1(hidden))).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.latents(images))


def load_cifar_resnet(path: str | Path, depth: int | None = None) -> CifarResNet:
    """Read a pretrained CIFAR ResNet, in evaluation mode and frozen (no parameter asks for a gradient).

    ``path`` is a ``torch.save`` file holding a state dict, bare or under ``"state_dict"``, with or without the
    ``module.`` prefix of ``DataParallel``. Only tensors are read from it, never arbitrary objects. ``depth`` is found
    from the file; give it to insist on it.

    Raises SourceError when the file is missing, is no such checkpoint, or is of another depth.
    """
    state = read_state(path)
    blocks = len({name.split(".")[1] for name in state if name.startswith("layer1.")})
    found = 6 * blocks + 2
    if not blocks or "linear.weight" not in state:
        raise SourceError(f"{path}: holds no CIFAR ResNet; expected tensors of conv1, bn1, layer1..3 and linear")
    if depth is not None and depth != found:
        raise SourceError(f"{path}: holds a ResNet-{found}, but ResNet-{depth} was asked for; leave depth out")
    network = filled(lambda: CifarResNet(found, len(state["linear.weight"])), state, path, f"ResNet-{found}")
    return network.eval().requires_grad_(False)


def _stage(in_channels: int, channels: int, blocks: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride=1 if in_channels == channels else 2)
    return nn.Sequential(first, *(BasicBlock(channels, channels, stride=1) for _ in range(blocks - 1)))
