"""The subjects of a grid: classifiers, attacks and purifiers made from their specifications."""

from collections.abc import Callable, Mapping
from typing import Any, cast, get_args, get_type_hints

import torch
from torch import Tensor, nn

import raypurify
from raypurify.attacks import ATTACKS, Attack
from raypurify.errors import ConfigError
from raypurify.evaluation import own
from raypurify.evaluation.centres import Supervised
from raypurify.evaluation.classifiers import CLASSIFIERS
from raypurify.evaluation.contract import check_attack, check_purifier
from raypurify.evaluation.grid import Grid
from raypurify.evaluation.specs import BUNDLED, AttackSpec, ClassifierSpec, PurifierSpec
from raypurify.nets.normalised import Normalised
from raypurify.nets.store import load_weights
from raypurify.purifiers import PURIFIERS, Purifier
from raypurify.trees import check_number


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

    def ensemble(self, name: str) -> int:
        """Over how many draws of the purifier of that name its defence is an ensemble; 1 where it is none."""
        return self.grid.purifiers[name].ensemble or 1


def make_classifier(spec: ClassifierSpec, device: str = "cpu") -> nn.Module:
    """A classifier: images (N, 3, H, W) in [0, 1] to logits, frozen, in evaluation mode."""
    network = CLASSIFIERS[spec.kind].load(spec.path, spec.weights, spec.settings or {})
    if spec.size or spec.outputs:
        network = Normalised(network, size=spec.size, outputs=spec.outputs)
    if spec.retrained:
        load_weights(spec.retrained, network)
    if spec.centres:
        network = Supervised(network, spec.centres)
    return network.to(device).eval().requires_grad_(False)


def make_attack(name: str, spec: AttackSpec) -> Attack | None:
    """An attack, None for clean images. Raises ConfigError for a name or setting that is not known."""
    if spec.attack == "clean":
        return None
    where = f"attack {name!r}"
    attack = _made(where, spec.attack, ATTACKS, spec.settings, "clean")
    if own.is_own(spec.attack):
        check_attack(where, attack)
    return attack


def make_purifier(name: str, spec: PurifierSpec, device: str = "cpu") -> Purifier:
    """A purifier on a device. Raises ConfigError for a name or setting that is not known."""
    where = f"purifier {name!r}"
    if spec.bundle:
        settings = {key: value for key, value in spec.settings.items() if key != "bundle"}
        purifier = raypurify.load(spec.bundle, device)
        if spec.purifier not in ("bundle", method := purifier.bundle.manifest.method):
            raise ConfigError(f"{where}: {spec.bundle} is a bundle of the method {method}: write purifier: bundle")
        try:
            return purifier.with_settings(**settings)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
    made: Any = _made(where, spec.purifier, PURIFIERS, spec.settings, ", ".join(BUNDLED))
    if own.is_own(spec.purifier):
        check_purifier(where, made)
    return cast(Purifier, made.to(device).eval() if isinstance(made, nn.Module) else made)


def predict(network: nn.Module, images: Tensor, *others: Tensor) -> Tensor:
    """The class that a network gives to each image, (N,) int64; with ``others``, the same images of more draws, that of
    the largest mean softmax (Bakiskan et al., eq. 8)."""
    with torch.no_grad():
        if not others:
            return network(images).argmax(1)
        # No mean, as a division decides nothing.
        return sum(network(one).softmax(1) for one in (images, *others)).argmax(1)


def _made(where: str, name: str, known: Mapping[str, Callable], settings: dict[str, Any], beside: str) -> Any:
    if own.is_own(name):
        return own.made(where, own.own_callable(where, name), settings)
    if name not in known:
        raise ConfigError(f"{where}: unknown {name!r}; use {beside}, {', '.join(known)}, or a package.module:name")
    make = known[name]
    kinds = get_type_hints(make.__init__ if isinstance(make, type) else make)  # type: ignore[misc]  # of this class
    try:
        for setting, value in settings.items():
            check_number(value, (kinds.get(setting), *get_args(kinds.get(setting))))
    except ValueError as error:
        raise ConfigError(f"{where}: {setting}: {error}; mend it in the grid") from error
    try:
        return make(**settings)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    except TypeError as error:
        raise ConfigError(f"{where}: {str(error).replace('.__init__()', '')}; mend its settings in the grid") from error
