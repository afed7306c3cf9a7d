"""Classifiers of torchvision (VGG-16, ResNet-50, AlexNet, GoogLeNet …) with a user's own weights."""

import pickle
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from raypurify.errors import ConfigError, SourceError
from raypurify.nets.normalised import IMAGENET_MEAN, IMAGENET_STD, Normalised


def load_torchvision(name: str, weights: str | Path | None) -> nn.Module:
    """Load torchvision's classifier ``name`` with the state dict in ``weights``, frozen and in evaluation mode.

    The network takes images (N, 3, H, W) in [0, 1], standardises them by ImageNet's statistics and has as many classes
    as the weights; GoogLeNet's auxiliary heads are left out.

    Raises ConfigError for a name that torchvision does not have or without weights, SourceError for a file that is no
    state dict of that architecture. Only tensors are read from it.
    """
    models = torchvision_models()
    if name not in models.list_models(models):
        raise ConfigError(
            f"torchvision has no classifier {name!r}; choose one of {', '.join(models.list_models(models)[:8])} …"
        )
    if weights is None:
        raise ConfigError(f"{name} needs weights: the path of a state dict saved with torch.save")
    state = _state(Path(weights))
    classes = next((len(value) for value in reversed(state.values()) if value.ndim == 1), 0)
    options = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    try:
        network = models.get_model(name, weights=None, num_classes=classes, **options)
        network.load_state_dict({key: value for key, value in state.items() if not key.lower().startswith("aux")})
    except (RuntimeError, TypeError, ValueError) as error:
        raise SourceError(
            f"{weights}: does not fit {name}: {' '.join(str(error).split())[:300]}; check the name"
        ) from error
    return Normalised(network, IMAGENET_MEAN, IMAGENET_STD).eval().requires_grad_(False)


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


def _state(path: Path) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise SourceError(f"{path}: no such file of weights; check the path") from None
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise SourceError(
            f"{path}: not a file of plain tensors ({str(error).partition(chr(10))[0]}); save its state_dict"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise SourceError(f"{path}: holds no state dict; save one by torch.save(network.state_dict(), …)")
    return {str(key).removeprefix("module."): value for key, value in state.items()}
