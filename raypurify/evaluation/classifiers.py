"""The kinds of classifier that a grid may name: each one loader, and one entry in ``CLASSIFIERS``."""

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from raypurify.storage import resolve

if TYPE_CHECKING:
    from torch import nn


def file_digest(path: str, weights: str | None) -> str:
    """The SHA-256 of the file ``weights``, or else ``path``; where there is no such file, ``path`` as it stands."""
    file = resolve(weights or path)
    return hashlib.sha256(file.read()).hexdigest() if file.kind == "file" else path


def bundle_digest(path: str, weights: str | None) -> str:
    """The digest of a bundle whose files are whole. Raises BundleError."""
    from raypurify.bundle import read_facts

    return read_facts(path).digest


class ClassifierKind(NamedTuple):
    """One kind of classifier: how it is loaded, and the digest of its weights, both from ``path`` and ``weights`` of a
    :class:`~raypurify.evaluation.grid.ClassifierSpec`; and the module of its network."""

    load: Callable[[str, str | None], "nn.Module"]
    module: str
    digest: Callable[[str, str | None], str] = file_digest


# torch and the networks are imported by those who load one.
def _cifar_resnet(path: str, weights: str | None) -> "nn.Module":
    from raypurify.nets.cifar_resnet import load_cifar_resnet

    return load_cifar_resnet(path)


def _wide_resnet(path: str, weights: str | None) -> "nn.Module":
    from raypurify.nets.store import load_network

    return load_network(path)


def _bundle(path: str, weights: str | None) -> "nn.Module":
    from raypurify.bundle import load_bundle

    return load_bundle(path).network


def _torchvision(path: str, weights: str | None) -> "nn.Module":
    from raypurify.nets.torchvision_nets import load_torchvision

    return load_torchvision(path, weights)


def _efficientnet_lite(path: str, weights: str | None) -> "nn.Module":
    from raypurify.nets.efficientnet_lite import load_efficientnet_lite

    return load_efficientnet_lite(path)


CLASSIFIERS = {
    "cifar-resnet": ClassifierKind(_cifar_resnet, "raypurify.nets.cifar_resnet"),
    "wide-resnet": ClassifierKind(_wide_resnet, "raypurify.nets.wide_resnet"),
    "bundle": ClassifierKind(_bundle, "raypurify.nets.wide_resnet", bundle_digest),
    "torchvision": ClassifierKind(_torchvision, "raypurify.nets.torchvision_nets"),
    "efficientnet-lite": ClassifierKind(_efficientnet_lite, "raypurify.nets.efficientnet_lite"),
}
"""Every kind of classifier by its name in a grid."""
