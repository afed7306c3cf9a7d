"""Classifiers of timm by name, with its pretrained weights or a user's own; timm is installed by whoever wants it."""

import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from raypurify.errors import ConfigError, one_line
from raypurify.nets.normalised import Normalised
from raypurify.nets.state import filled, read_state
from raypurify.nets.torchvision_nets import torchvision_models


def load_timm(name: str, weights: str | Path | None, settings: Mapping[str, Any] | None = None) -> nn.Module:
    """Load timm's classifier ``name``, frozen and in evaluation mode.

    ``weights`` is a file with a state dict; without it timm gets its own, by the network. ``settings`` go to
    ``timm.create_model``; ``num_classes`` is read off a file. The network takes images (N, 3, H, W) in [0, 1],
    standardises them as its ``pretrained_cfg`` says, and resizes them where it takes one size only.

    Raises ConfigError where timm is not installed, for a name or a setting that it does not know, and for weights that
    it cannot get, SourceError for a file that is no state dict of that architecture. Only tensors are read from files.
    """
    timm = _timm()
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.partition('.')[0][:6]}*")[:8] or timm.list_models()[:8]
        raise ConfigError(f"timm has no classifier {name!r}; choose one of {', '.join(near)} …")
    options = {"pretrained": weights is None, **(settings or {})}
    state = None
    if weights is not None:
        state = read_state(weights)
        head = getattr(timm.models.get_pretrained_cfg(name), "classifier", None)
        last = state.get(f"{head}.weight") if isinstance(head, str) else None
        options = {"num_classes": len(last), **options} if last is not None else options
    try:
        network = timm.create_model(name, **options)
    except Exception as error:  # of the architecture, of the hub, of files
        said = f"{type(error).__name__}: {one_line(error)[:200]}"
        raise ConfigError(
            f"timm cannot make {name}: {said}; mend its settings, or give the path of a file in weights"
        ) from error
    if state is not None:
        filled(lambda: network, state, str(weights), name)
    facts = network.pretrained_cfg
    size = facts["input_size"][-1] if facts.get("fixed_input_size") else None
    if size and "img_size" in inspect.signature(type(network)).parameters:
        size = options.get("img_size", size)
    return Normalised(network, facts["mean"], facts["std"], size=size).eval().requires_grad_(False)


def _timm() -> ModuleType:
    # timm imports torchvision, which may need a hand.
    torchvision_models()
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ConfigError(f"kind timm needs timm, which cannot be imported ({error}): pip install timm") from error
