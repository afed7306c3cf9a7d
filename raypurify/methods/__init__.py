"""Methods: what a bundle keeps, and how that becomes a purifier; one entry of ``METHODS`` each.

A bundle's manifest names its method. Whoever handles bundles asks the method for what he must know
(``contract.Method``), and the purifiers of all methods are :class:`~raypurify.purifiers.bundled.Bundled`.

To add a method: its purifier in ``raypurify/purifiers/``, a subclass of ``Bundled``; one file here; one entry in
``METHODS``. ``tests/methods/`` runs the contract over every entry. What fits it says ``raypurify.fit``.

No torch is imported here before a purifier is made.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from raypurify.bundle.manifest import BundleFacts, BundleFolder, Manifest, open_bundle
from raypurify.bundle.manifest import read_facts as _read_facts
from raypurify.errors import ConfigError
from raypurify.methods.contract import Method, check_counts, check_files
from raypurify.methods.front_end import FRONT_END
from raypurify.methods.region_sparse import REGION_SPARSE
from raypurify.methods.rsfp import RSFP
from raypurify.methods.stl import STL
from raypurify.storage import Where

if TYPE_CHECKING:
    import torch
    from torch import nn

    from raypurify.bundle import Bundle
    from raypurify.purifiers import Bundled

METHODS: dict[str, Method] = {method.name: method for method in (RSFP, STL, REGION_SPARSE, FRONT_END)}
"""Every method by its name in manifests and settings."""

__all__ = [
    "METHODS",
    "Method",
    "checked_facts",
    "classifier_facts",
    "classifier_of",
    "facts_for_all",
    "load",
    "method_of",
    "opened",
    "opened_for_all",
]


def method_of(manifest: Manifest) -> Method:
    """The method of a bundle that ``open_bundle`` opened: it refuses those of methods that are not known.

    >>> method_of(open_bundle("cifar10").manifest).name
    'rsfp'
    """
    return METHODS[manifest.method]


def load(where: Where, device: "str | torch.device" = "cpu") -> "Bundled":
    """The purifier of a bundle, which is named as for ``open_bundle``, on a device. Raises BundleError."""
    method, bundle = _loaded(where)
    return method.purifier(bundle, device)


def classifier_of(where: Where) -> "nn.Module":
    """The network of a bundle that tells its classes apart: images (N, 3, H, W) in [0, 1] to logits (N, classes).

    Raises ConfigError for a bundle that has none, BundleError for the bundle.
    """
    method, bundle = _loaded(where)
    return _classifying(method, bundle.facts)(bundle)


def checked_facts(where: Where) -> BundleFacts:
    """The facts of a bundle whose files are whole and are those of its method. Needs no torch. Raises BundleError.

    >>> checked_facts("cifar10").manifest.method
    'rsfp'
    """
    return _facts(*opened(where))


def facts_for_all(where: Where) -> BundleFacts:
    """The facts of a bundle as ``checked_facts`` has them. Raises ConfigError where its images are not for all to see:
    what purifies images for nobody in particular asks for it first.

    >>> facts_for_all("cifar10").manifest.method
    'rsfp'
    """
    return _facts(*opened_for_all(where))


def opened_for_all(where: Where) -> tuple[Method, BundleFolder]:
    """A bundle as ``opened`` gives it, whose files nobody has looked at. Raises ConfigError as ``facts_for_all``."""
    method, folder = opened(where)
    if whom := method.for_whom(folder.manifest):
        raise ConfigError(
            f"bundle {folder.place}: what it makes of images is for {whom} alone; take one fitted without that, or "
            "evaluate the two together in a grid"
        )
    return method, folder


def classifier_facts(where: Where) -> BundleFacts:
    """The facts of a bundle as ``checked_facts`` has them. Raises ConfigError as ``classifier_of``, without torch."""
    facts = checked_facts(where)
    _classifying(method_of(facts.manifest), facts)
    return facts


def _classifying(method: Method, facts: BundleFacts) -> "Callable[[Bundle], nn.Module]":
    if method.classifier is None or not method.classifies(facts.manifest):
        having = " or ".join(name for name, one in METHODS.items() if one.classifier)
        raise ConfigError(
            f"bundle {facts.where}, of the method {method.name}, has no classifier; name one of {having} that has"
        )
    return method.classifier


def _loaded(where: Where) -> "tuple[Method, Bundle]":
    from raypurify.bundle import load_bundle

    method, folder = opened(where)
    bundle = load_bundle(folder)
    _check(method, bundle.facts)
    return method, bundle


def opened(where: Where) -> tuple[Method, BundleFolder]:
    """A bundle, opened as by ``open_bundle``, and its method, whose files its manifest lists. Raises BundleError."""
    folder = open_bundle(where)
    method = method_of(folder.manifest)
    check_files(method, set(folder.manifest.files), str(folder.place))
    return method, folder


def _facts(method: Method, folder: BundleFolder) -> BundleFacts:
    facts = _read_facts(folder)
    _check(method, facts)
    return facts


def _check(method: Method, facts: BundleFacts) -> None:
    check_counts(method, facts)
    method.check(facts)
