"""The kinds of classifier that a grid may name: each one loader, and one entry in ``CLASSIFIERS``."""

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from raypurify.errors import ConfigError
from raypurify.evaluation.own import made, own_callable
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
    :class:`~raypurify.evaluation.specs.ClassifierSpec`; the module of its network, empty where ``path`` names it; the
    digest of its weights, None where they may come from anywhere, so that only the network tells. ``settings`` says
    whether it takes any, ``foreign`` that it may be anything: it is tried first."""

    load: Callable[[str, str | None, Settings], "nn.Module"]
    module: str
    digest: Callable[[str, str | None], str] | None = file_digest
    settings: bool = False
    foreign: bool = False


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
    "cifar-resnet": ClassifierKind(_known("cifar-resnet"), "raypurify.nets.cifar_resnet"),
    "wide-resnet": ClassifierKind(_known("wide-resnet"), "raypurify.nets.wide_resnet"),
    "vgg16": ClassifierKind(_known("vgg16"), "raypurify.nets.vgg"),
    "bundle": ClassifierKind(_bundle, "raypurify.nets.wide_resnet", bundle_digest),
    "torchvision": ClassifierKind(_known("torchvision"), "raypurify.nets.torchvision_nets", torchvision_digest),
    "efficientnet-lite": ClassifierKind(_known("efficientnet-lite"), "raypurify.nets.efficientnet_lite"),
    "timm": ClassifierKind(_timm, "raypurify.nets.timm_nets", None, settings=True, foreign=True),
    "torchscript": ClassifierKind(_torchscript, "raypurify.nets.torchscript", foreign=True),
    "exported": ClassifierKind(_exported, "raypurify.nets.exported", foreign=True),
    "python": ClassifierKind(_python, "", None, settings=True, foreign=True),
}
"""Every kind of classifier by its name in a grid."""
