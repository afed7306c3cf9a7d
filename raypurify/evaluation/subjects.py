"""The subjects of a grid: classifiers, attacks and purifiers made from their specifications, and their digests."""

import hashlib
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

import raypurify
from raypurify.attacks import ATTACKS, Attack
from raypurify.bundle import read_facts
from raypurify.errors import ConfigError
from raypurify.evaluation.classifiers import CLASSIFIERS
from raypurify.evaluation.code import code_digest
from raypurify.evaluation.grid import AttackSpec, ClassifierSpec, Grid, PurifierSpec
from raypurify.files import fingerprint
from raypurify.nets.normalised import Normalised
from raypurify.nets.store import load_weights
from raypurify.purifiers import PURIFIERS, Purifier
from raypurify.storage import resolve

PACKAGES = {"autoattack": "pyautoattack"}
"""Attacks whose work another package does, with its name."""


class Subjects:
    """The subjects of one grid on one device, by their names there; each is made once, when it is first asked for."""

    def __init__(self, grid: Grid, device: str = "cpu"):
        self.grid, self.device = grid, device
        self._classifiers: dict[str, nn.Module] = {}
        self._purifiers: dict[str, Purifier] = {}

    def classifier(self, name: str) -> nn.Module:
        """The classifier of that name: images (N, 3, H, W) in [0, 1] to logits."""
        if name not in self._classifiers:
            self._classifiers[name] = make_classifier(self.grid.classifiers[name], self.device)
        return self._classifiers[name]

    def attack(self, name: str) -> Attack | None:
        """The attack of that name, None for clean images. Raises what ``make_attack`` raises."""
        return make_attack(name, self.grid.attacks[name])

    def purifier(self, name: str) -> Purifier:
        """The purifier of that name. Raises what ``make_purifier`` raises."""
        if name not in self._purifiers:
            self._purifiers[name] = make_purifier(name, self.grid.purifiers[name], self.device)
        return self._purifiers[name]


def make_classifier(spec: ClassifierSpec, device: str = "cpu") -> nn.Module:
    """A classifier: images (N, 3, H, W) in [0, 1] to logits, frozen, in evaluation mode."""
    network = CLASSIFIERS[spec.kind].load(spec.path, spec.weights)
    if spec.size or spec.outputs:
        network = Normalised(network, size=spec.size, outputs=spec.outputs)
    if spec.retrained:
        load_weights(spec.retrained, network)
    return network.to(device).eval().requires_grad_(False)


def classifier_digest(spec: ClassifierSpec) -> str:
    """The digest that tells a classifier from another: of its settings, and the content of its file or its bundle.

    Raises ConfigError where retrained weights are missing, BundleError for a bundle.
    """
    content = CLASSIFIERS[spec.kind].digest(spec.path, spec.weights)
    # Not the path: the same weights elsewhere are the same classifier.
    parts = [spec.kind, content, spec.path if spec.weights else None, spec.size, spec.outputs]
    if spec.retrained:
        if (retrained := resolve(spec.retrained)).kind != "file":
            raise ConfigError(f"there are no retrained weights at {retrained}: raypurify retrain makes them")
        parts.append(hashlib.sha256(retrained.read()).hexdigest())
    return fingerprint(*parts)


def classifier_code(spec: ClassifierSpec) -> str:
    """The digest of the code of a classifier: of its network, and of how it is made and asked."""
    network = CLASSIFIERS[spec.kind].module
    return code_digest(network, "raypurify.nets.normalised", alone=("raypurify.evaluation.subjects",))


def make_attack(name: str, spec: AttackSpec) -> Attack | None:
    """An attack, None for clean images. Raises ConfigError for a name or setting that is not known."""
    if spec.attack == "clean":
        return None
    if spec.attack not in ATTACKS:
        raise ConfigError(f"attack {name!r}: unknown {spec.attack!r}; use clean, {', '.join(ATTACKS)}")
    return _made(f"attack {name!r}", ATTACKS[spec.attack], spec.settings)


def make_purifier(name: str, spec: PurifierSpec, device: str = "cpu") -> Purifier:
    """A purifier on a device. Raises ConfigError for a name or setting that is not known."""
    if spec.purifier == "rsfp":
        settings = spec.settings
        purifier = raypurify.load(settings.pop("bundle", "cifar10"), device)
        if not settings:
            return purifier
        try:
            csc = type(purifier.settings.csc).model_validate(purifier.settings.csc.model_dump() | settings)
        except ValueError as error:
            raise ConfigError(
                f"purifier {name!r}: {' '.join(str(error).split())}; mend its settings in the grid"
            ) from error
        purifier.settings = purifier.settings.model_copy(update={"csc": csc})
        return purifier
    if spec.purifier not in PURIFIERS:
        raise ConfigError(f"purifier {name!r}: unknown {spec.purifier!r}; use rsfp, {', '.join(PURIFIERS)}")
    return _made(f"purifier {name!r}", PURIFIERS[spec.purifier], spec.settings)


def purifier_digest(spec: PurifierSpec) -> str:
    """The digest that tells a purifier from another: of its settings, the files they name, and its bundle."""
    bundle = read_facts(spec.settings.get("bundle", "cifar10")).digest if spec.purifier == "rsfp" else None
    named = [resolve(value) for value in spec.settings.values() if isinstance(value, str)]
    files = [hashlib.sha256(file.read()).hexdigest() for file in named if file.kind == "file"]
    return fingerprint(spec.model_dump(), bundle, files)


def purifier_code(spec: PurifierSpec) -> str:
    """The digest of the code of a purifier: of its module and of the mathematics that it imports."""
    if spec.purifier == "rsfp":
        # Its bundle hands it the network and the distributions.
        return code_digest("raypurify.purifiers.rsfp", "raypurify.clusters", "raypurify.nets.wide_resnet")
    return code_digest(PURIFIERS[spec.purifier].__module__) if spec.purifier in PURIFIERS else ""


def attack_code(spec: AttackSpec) -> str:
    """The digest of the code of an attack, with the version of a package that does its work, and of the threat model
    where it knows the purifier."""
    if spec.attack not in ATTACKS:
        return ""
    knowing = () if spec.knows == "classifier" else ("raypurify.evaluation.threat_model",)
    code = code_digest(ATTACKS[spec.attack].__module__, *knowing)
    package = PACKAGES.get(spec.attack)
    return fingerprint(code, version(package)) if package and find_spec(package) else code


def predict(network: nn.Module, images: Tensor) -> Tensor:
    """The class that a network gives to each image, (N,) int64."""
    with torch.no_grad():
        return network(images).argmax(1)


def _made(where: str, kind: Callable, settings: dict[str, Any]) -> Any:
    try:
        return kind(**settings)
    except TypeError as error:
        raise ConfigError(f"{where}: {str(error).replace('.__init__()', '')}; mend its settings in the grid") from error
