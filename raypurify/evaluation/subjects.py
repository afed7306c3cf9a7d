"""Makes what a grid names: classifiers, attacks and purifiers, each with a digest of what decides its results."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import raypurify
from raypurify.attacks import ATTACKS
from raypurify.bundle import load_bundle
from raypurify.errors import ConfigError
from raypurify.evaluation import grid
from raypurify.files import fingerprint
from raypurify.nets.cifar_resnet import load_cifar_resnet
from raypurify.nets.efficientnet_lite import load_efficientnet_lite
from raypurify.nets.normalised import Normalised
from raypurify.nets.store import load_network, load_weights
from raypurify.nets.torchvision_nets import load_torchvision
from raypurify.purifiers import PURIFIERS


def make_classifier(spec: grid.Classifier, device: str = "cpu") -> nn.Module:
    """The classifier: images in [0, 1] to logits, frozen, in evaluation mode."""
    network = _CLASSIFIERS[spec.kind](spec)
    if spec.size or spec.outputs:
        network = Normalised(network, size=spec.size, outputs=spec.outputs)
    if spec.retrained:
        load_weights(Path(spec.retrained), network)
    return network.to(device).eval().requires_grad_(False)


def classifier_digest(spec: grid.Classifier) -> str:
    """What tells a classifier from another: its settings, and the content of its file or its bundle."""
    file = Path(spec.weights or spec.path)
    if spec.kind == "bundle":
        content = load_bundle(spec.path).digest
    else:
        content = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else spec.path
    # Not the path: the same weights elsewhere are the same classifier.
    parts = [spec.kind, content, spec.path if spec.weights else None, spec.size, spec.outputs]
    if spec.retrained:
        if not (retrained := Path(spec.retrained)).is_file():
            raise ConfigError(f"there are no retrained weights at {retrained}: raypurify retrain makes them")
        parts.append(hashlib.sha256(retrained.read_bytes()).hexdigest())
    return fingerprint(*parts)


def make_attack(name: str, spec: grid.Attack) -> Callable | None:
    """The attack, None for clean images. Raises ConfigError for a name or setting that is not known."""
    if spec.attack == "clean":
        return None
    if spec.attack not in ATTACKS:
        raise ConfigError(f"attack {name!r}: unknown {spec.attack!r}; use clean, {', '.join(ATTACKS)}")
    return _made(f"attack {name!r}", ATTACKS[spec.attack], spec.settings)


def make_purifier(name: str, spec: grid.Purifier, device: str = "cpu"):
    """The purifier. Raises ConfigError for a name or setting that is not known."""
    if spec.purifier == "rsfp":
        settings = spec.settings
        purifier = raypurify.load(settings.pop("bundle", "cifar10"), device)
        if not settings:
            return purifier
        try:
            csc = type(purifier.settings.csc).model_validate(purifier.settings.csc.model_dump() | settings)
        except ValueError as error:
            raise ConfigError(f"purifier {name!r}: {' '.join(str(error).split())}") from error
        purifier.settings = purifier.settings.model_copy(update={"csc": csc})
        return purifier
    if spec.purifier not in PURIFIERS:
        raise ConfigError(f"purifier {name!r}: unknown {spec.purifier!r}; use rsfp, {', '.join(PURIFIERS)}")
    return _made(f"purifier {name!r}", PURIFIERS[spec.purifier], spec.settings)


def purifier_digest(spec: grid.Purifier) -> str:
    """What tells a purifier from another: its settings, the content of files they name, and its bundle's digest."""
    bundle = load_bundle(spec.settings.get("bundle", "cifar10")).digest if spec.purifier == "rsfp" else None
    paths = [Path(value) for value in spec.settings.values() if isinstance(value, str)]
    files = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()]
    return fingerprint(spec.model_dump(), bundle, files)


def _made(where: str, kind: Callable, settings: dict[str, Any]):
    try:
        return kind(**settings)
    except TypeError as error:
        raise ConfigError(f"{where}: {str(error).replace('.__init__()', '')}") from error


_CLASSIFIERS: dict[str, Callable[[grid.Classifier], nn.Module]] = {
    "cifar-resnet": lambda spec: load_cifar_resnet(spec.path),
    "wide-resnet": lambda spec: load_network(Path(spec.path)),
    "bundle": lambda spec: load_bundle(spec.path).network,
    "torchvision": lambda spec: load_torchvision(spec.path, spec.weights),
    "efficientnet-lite": lambda spec: load_efficientnet_lite(spec.path),
}


def predict(network: nn.Module, images: Tensor) -> Tensor:
    """The class of each image, (n,) int64."""
    with torch.no_grad():
        return network(images).argmax(1)
