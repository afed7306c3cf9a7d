"""Digests of a grid's subjects: of their settings, of the files these name, and of the code that does the work."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from raypurify.attacks import ATTACKS
from raypurify.errors import ConfigError
from raypurify.evaluation.classifiers import CLASSIFIERS
from raypurify.evaluation.code import code_digest
from raypurify.evaluation.own import is_own, module_of
from raypurify.evaluation.specs import AttackSpec, ClassifierSpec, PurifierSpec
from raypurify.files import fingerprint
from raypurify.methods import checked_facts, opened
from raypurify.nets.state import state_digest
from raypurify.purifiers import PURIFIERS
from raypurify.storage import resolve

PACKAGES = {"autoattack": "pyautoattack"}
"""Attacks whose work another package does, with its name."""


def classifier_digest(spec: ClassifierSpec) -> str:
    """The digest that tells a classifier from another: of its settings, and the content of its file or its bundle.

    Raises ConfigError where retrained weights are missing, BundleError for a bundle, and what loading a classifier
    raises that has no file of its own.
    """
    kind, settings = CLASSIFIERS[spec.kind], spec.settings or {}
    if kind.digest:
        content = kind.digest(spec.path, spec.weights)
    else:
        content = fingerprint(spec.path, state_digest(kind.load(spec.path, spec.weights, settings)))
    # Not the path: the same weights elsewhere are the same classifier.
    parts: list[Any] = [spec.kind, content, spec.path if spec.weights else None, spec.size, spec.outputs]
    if spec.retrained:
        if (retrained := resolve(spec.retrained)).kind != "file":
            raise ConfigError(f"there are no retrained weights at {retrained}: raypurify retrain makes them")
        parts.append(hashlib.sha256(retrained.read()).hexdigest())
    if spec.centres:
        if (centres := resolve(spec.centres)).kind != "file":
            raise ConfigError(f"there are no centres at {centres}: check the path, or train by robust.semantic")
        parts.append(hashlib.sha256(centres.read()).hexdigest())
    return fingerprint(*parts, settings, _files(settings.values())) if settings else fingerprint(*parts)


def classifier_code(spec: ClassifierSpec) -> str:
    """The digest of the code of a classifier: of its network, and of how it is made and asked."""
    network = CLASSIFIERS[spec.kind].module(spec.path)
    return code_digest(network, "raypurify.nets.normalised", alone=("raypurify.evaluation.subjects",))


def purifier_digest(spec: PurifierSpec) -> str:
    """The digest that tells a purifier from another: of its settings, the files they name, and its bundle."""
    bundle = checked_facts(spec.bundle).digest if spec.bundle else None
    return fingerprint(spec.decisive, bundle, _files(spec.settings.values()))


def purifier_code(spec: PurifierSpec) -> str:
    """The digest of the code of a purifier: of its module and of the mathematics that it imports."""
    if spec.bundle:
        return code_digest(opened(spec.bundle)[0].code)
    if is_own(spec.purifier):
        return code_digest(module_of(spec.purifier))
    return code_digest(PURIFIERS[spec.purifier].__module__) if spec.purifier in PURIFIERS else ""


def attack_code(spec: AttackSpec) -> str:
    """The digest of the code of an attack, with the version of a package that does its work, and of the threat model,
    with all that it uses where the purifier is known; of one's own with the files that its settings name."""
    model = ("raypurify.evaluation.threat_model",)
    knowing, alone = ((), model) if spec.knows == "classifier" else (model, ())
    if is_own(spec.attack):
        return fingerprint(code_digest(module_of(spec.attack), *knowing, alone=alone), _files(spec.settings.values()))
    if spec.attack not in ATTACKS:
        return ""
    code = code_digest(ATTACKS[spec.attack].__module__, *knowing, alone=alone)
    package = PACKAGES.get(spec.attack)
    return fingerprint(code, version(package)) if package and find_spec(package) else code


def _files(values: Iterable[Any]) -> list[str]:
    """The digests of the files among values of settings, however deep in lists and mappings."""
    named = [resolve(text) for value in values for text in _texts(value) if text]
    return [hashlib.sha256(file.read()).hexdigest() for file in named if file.kind == "file"]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for one in value.values() for text in _texts(one))
    elif isinstance(value, list | tuple):
        yield from (text for one in value for text in _texts(one))
