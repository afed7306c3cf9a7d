"""Classifiers of torchvision (VGG-16, ResNet-50, AlexNet, GoogLeNet …) with a user's own weights or torchvision's."""

import pickle
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from raypurify.errors import ConfigError
from raypurify.nets.normalised import IMAGENET_MEAN, IMAGENET_STD, Normalised
from raypurify.nets.state import filled, read_state


def load_torchvision(name: str, weights: str | Path | None) -> nn.Module:
    """Load torchvision's classifier ``name``, frozen and in evaluation mode.

    ``weights`` is a file with a state dict, or a name of torchvision's own weights for it, as "DEFAULT", which are
    downloaded. The network takes images (N, 3, H, W) in [0, 1], standardises them as those weights ask, or by
    ImageNet's statistics, and has as many classes as the weights; auxiliary heads are left out.

    Raises ConfigError for a name that torchvision does not have, without weights, and for weights that cannot be
    downloaded, SourceError for a file that is no state dict of that architecture. Only tensors are read from it.
    """
    models = torchvision_models()
    if name not in models.list_models(models):
        raise ConfigError(
            f"torchvision has no classifier {name!r}; choose one of {', '.join(models.list_models(models)[:8])} …"
        )
    if weights is None:
        raise ConfigError(
            f"{name} needs weights: the path of a state dict saved with torch.save, "
            f"or one of torchvision's, {', '.join(_named(name).__members__)}"
        )
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    if url := weights_url(name, weights):
        own: Any = _named(name)[str(weights)]
        state = _downloaded(own, url)
        mean, std = (tuple(getattr(own.transforms(), part, value)) for part, value in (("mean", mean), ("std", std)))
    else:
        state = read_state(weights)
    classes = next((len(value) for value in reversed(state.values()) if value.ndim == 1), 0)
    options = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    network = filled(
        lambda: models.get_model(name, weights=None, num_classes=classes, **options),
        {key: value for key, value in state.items() if not key.lower().startswith("aux")},
        weights,
        name,
    )
    return Normalised(network, mean, std).eval().requires_grad_(False)


def efficientnet_b0(classes: int) -> Normalised:
    """EfficientNet-B0 (Tan and Le 2019) of so many classes, as torchvision has it, its weights drawn.

    The network takes images (N, 3, H, W) in [0, 1] of any size, standardises them by ImageNet's statistics and gives
    logits (N, classes).
    """
    return Normalised(torchvision_models().efficientnet_b0(num_classes=classes), IMAGENET_MEAN, IMAGENET_STD)


def weights_url(name: str, weights: str | Path) -> str | None:
    """Where torchvision's own weights of that name come from, which tells them from others; None for any other name."""
    models = torchvision_models()
    found = _named(name).__members__.get(str(weights)) if name in models.list_models(models) else None
    return found.value.url if found else None


def torchvision_models() -> ModuleType:
    """The module ``torchvision.models``, also where its operators were built for another build of torch than this.

    Such a torchvision stops at the missing operator ``nms``, which no classifier needs: declaring it lets the import
    pass.
    """
    try:
        import torchvision.models as models
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        _declare_operators()
        import torchvision.models as models
    return models


def _declare_operators() -> None:
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT.append(library)


# A library's declarations go when it does.
_KEPT: list = []


def _named(name: str) -> type[Enum]:
    """The weights that torchvision has for its classifier ``name``."""
    return torchvision_models().get_model_weights(name)


def _downloaded(weights: Any, url: str) -> dict[str, torch.Tensor]:
    try:
        # By itself it would unpickle whatever the file holds.
        return weights.get_state_dict(check_hash=True, weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise ConfigError(
            f"cannot get {url}: {' '.join(str(error).split())[:200]}; get it where there is a network, "
            "and give the file's path in weights"
        ) from error
