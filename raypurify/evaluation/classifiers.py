"""The kinds of classifier that a grid may name: each one loader, and one entry in ``CLASSIFIERS``."""

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from raypurify.errors import ConfigError
from raypurify.evaluation.own import made, module_of, own_callable
from raypurify.storage import resolve

if TYPE_CHECKING:
    from torch import nn

Settings = Mapping[str, Any]


def file_digest(path: str, weights: str | None) -> str:
    """The SHA-256 of the file ``weights``, or else ``path``; where there is no such file, ``path`` as it stands."""
    file = resolve(weights or path)
    return hashlib.sha256(file.read()).hexdigest() if file.kind == "file" else path


def bundle_digest(path: str, weights: str | None) -> str:
    """The digest of a bundle whose files are whole. Raises BundleError, and ConfigError where it has no classifier."""
    from raypurify.methods import classifier_facts

    return classifier_facts(path).digest


def torchvision_digest(path: str, weights: str | None) -> str:
    """The digest of a file of weights, or the address of torchvision's own, which has a digest in it."""
    from raypurify.nets.torchvision_nets import weights_url

    found = file_digest(path, weights)
    return (weights and found == path and weights_url(path, weights)) or found


class ClassifierKind(NamedTuple):
    """One kind of classifier: how it is loaded from ``path``, ``weights`` and ``settings`` of a
    :class:`~raypurify.evaluation.specs.ClassifierSpec`; the module of its network, by ``path``;
    the digest of its weights, None where they may come from anywhere, so that only the network tells. ``settings`` says
    whether it takes any."""

    load: Callable[[str, str | None, Settings], "nn.Module"]
    module: Callable[[str], str]
    digest: Callable[[str, str | None], str] | None = file_digest
    settings: bool = False


def _always(module: str) -> Callable[[str], str]:
    return lambda path: module


def _module_of_bundle(path: str) -> str:
    from raypurify.methods import opened

    return opened(path)[0].classifier_code


# torch and the networks are imported by those who load one.
def _known(kind: str) -> Callable[[str, str | None, Settings], "nn.Module"]:
    def load(path: str, weights: str | None, settings: Settings) -> "nn.Module":
        from raypurify.nets.kinds import NETWORKS

        return NETWORKS[kind](path, weights)

    return load


def _bundle(path: str, weights: str | None, settings: Settings) -> "nn.Module":
    from raypurify.methods import classifier_of

    return classifier_of(path)


def _timm(path: str, weights: str | None, settings: Settings) -> "nn.Module":
    from raypurify.nets.timm_nets import load_timm

    return load_timm(path, weights, settings)


def _torchscript(path: str, weights: str | None, settings: Settings) -> "nn.Module":
    from raypurify.nets.torchscript import load_torchscript

    return load_torchscript(path)


def _exported(path: str, weights: str | None, settings: Settings) -> "nn.Module":
    from raypurify.nets.exported import load_exported

    return load_exported(path)


def _python(path: str, weights: str | None, settings: Settings) -> "nn.Module":
    import torch

    from raypurify.nets.state import filled, read_state

    make = own_callable("classifier", path)
    # Weights that are drawn are the same in every process.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = made(f"classifier {path}", make, settings)
    if not isinstance(network, torch.nn.Module):
        raise ConfigError(f"classifier {path} gives a {type(network).__name__}; it has to give a torch.nn.Module")
    if weights:
        filled(lambda: network, read_state(weights), weights, path)
    return network


CLASSIFIERS = {
    "cifar-resnet": ClassifierKind(_known("cifar-resnet"), _always("raypurify.nets.cifar_resnet")),
    "wide-resnet": ClassifierKind(_known("wide-resnet"), _always("raypurify.nets.wide_resnet")),
    "vgg16": ClassifierKind(_known("vgg16"), _always("raypurify.nets.vgg")),
    "bottleneck-resnet": ClassifierKind(_known("bottleneck-resnet"), _always("raypurify.nets.bottleneck_resnet")),
    "cnn6": ClassifierKind(_known("cnn6"), _always("raypurify.nets.cnn6")),
    "bundle": ClassifierKind(_bundle, _module_of_bundle, bundle_digest),
    "torchvision": ClassifierKind(
        _known("torchvision"), _always("raypurify.nets.torchvision_nets"), torchvision_digest
    ),
    "efficientnet-lite": ClassifierKind(_known("efficientnet-lite"), _always("raypurify.nets.efficientnet_lite")),
    "timm": ClassifierKind(_timm, _always("raypurify.nets.timm_nets"), None, settings=True),
    "torchscript": ClassifierKind(_torchscript, _always("raypurify.nets.torchscript")),
    "exported": ClassifierKind(_exported, _always("raypurify.nets.exported")),
    "python": ClassifierKind(_python, module_of, None, settings=True),
}
"""Every kind of classifier by its name in a grid."""
