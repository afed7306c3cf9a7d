"""The method ``rsfp``: adaptive clusters of robust semantic latents, a dictionary for each."""

from typing import TYPE_CHECKING

from raypurify.bundle.manifest import BundleFacts
from raypurify.bundle.names import DICTIONARIES, DISTRIBUTIONS, NETWORK
from raypurify.methods.contract import Method
from raypurify.supervision import in_own_latents

if TYPE_CHECKING:
    import torch
    from torch import nn

    from raypurify.bundle import Bundle
    from raypurify.purifiers import Bundled


def _check(facts: BundleFacts) -> None:
    clusters, dim = facts.shape(DISTRIBUTIONS, "means", "K, d")
    if clusters != len(facts.manifest.cluster_class):
        raise facts.wrong(f"{len(facts.manifest.cluster_class)} clusters, {clusters} distributions")
    classes, features = facts.shape(NETWORK, "head.weight", "C, d")
    if features != dim:
        raise facts.wrong(f"distributions of {dim} dimensions, latents of {features}")
    if classes != len(facts.manifest.classes):
        raise facts.wrong(f"{len(facts.manifest.classes)} classes, a network of {classes}")


def _lines(facts: BundleFacts) -> dict[str, str]:
    settings = facts.manifest.settings
    own = in_own_latents(settings.clusters.latents, settings.robust.semantic, settings.robust.alpha)
    measured = f"Mahalanobis distance by {settings.clusters.form}" + ", in the robust network's own latents" * own
    net, parameters = settings.network, facts.parameters(NETWORK)
    return {
        "network": f"WRN-{net.depth}-{net.width}, {parameters:,} parameters, input {settings.data.image_size}²",
        "clusters": f"{len(facts.manifest.cluster_class)}, {measured}",
    }


def _purifier(bundle: "Bundle", device: "str | torch.device") -> "Bundled":
    from raypurify.purifiers.rsfp import RSFP

    return RSFP(bundle, device)


def _classifier(bundle: "Bundle") -> "nn.Module":
    from raypurify.purifiers.rsfp import network_of

    return network_of(bundle)


RSFP = Method(
    name="rsfp",
    paper="Silva et al., Adaptive Clustering of Robust Semantic Representations for Adversarial Image Purification",
    files=(NETWORK, DISTRIBUTIONS, DICTIONARIES),
    cluster="the one whose clean images it is nearest to in the robust network's features",
    distance="Mahalanobis distance to that cluster's clean images in the robust network's features",
    classes=True,
    check=_check,
    lines=_lines,
    code="raypurify.purifiers.rsfp",
    purifier=_purifier,
    classifier=_classifier,
    classifier_code="raypurify.nets.wide_resnet",
)
