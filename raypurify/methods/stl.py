"""The method ``stl``: strata of a denoising auto-encoder's features, a dictionary for each."""

from typing import TYPE_CHECKING

from raypurify.bundle.manifest import BundleFacts
from raypurify.bundle.names import DICTIONARIES, ENCODER, STRATA
from raypurify.methods.contract import Method

if TYPE_CHECKING:
    import torch

    from raypurify.bundle import Bundle
    from raypurify.purifiers import Bundled


def _check(facts: BundleFacts) -> None:
    strata, kept = facts.shape(STRATA, "centroids", "K, p")
    if strata != len(facts.manifest.cluster_class):
        raise facts.wrong(f"{len(facts.manifest.cluster_class)} clusters, {strata} strata")
    components, dim = facts.shape(STRATA, "components", "p, d")
    features, width = facts.shape(STRATA, "features", "n, p")
    if not components == width == kept:
        raise facts.wrong(f"{components} principal components, features of {width}, centroids of {kept}")
    if facts.shape(STRATA, "mean", "d") != (dim,):
        raise facts.wrong(f"principal components of {dim} dimensions, another number in their mean")
    if facts.shape(STRATA, "labels", "n") != (features,):
        raise facts.wrong(f"{features} features, another number of labels")


def _lines(facts: BundleFacts) -> dict[str, str]:
    settings, parameters = facts.manifest.settings, facts.parameters(ENCODER)
    features, components = facts.shape(STRATA, "features", "n, p")
    size = f"width {settings.dae.width}, {parameters:,} parameters, input {settings.data.image_size}²"
    vote = f"{settings.strata.neighbours} nearest of {features:,} training features, {components} components each"
    return {
        "encoder": f"denoising auto-encoder of {size}",
        "strata": f"{len(facts.manifest.cluster_class)}, by vote of the {vote}",
    }


def _purifier(bundle: "Bundle", device: "str | torch.device") -> "Bundled":
    from raypurify.purifiers.stl import STL

    return STL(bundle, device)


STL = Method(
    name="stl",
    paper="Sun et al., Adversarial Defense by Stratified Convolutional Sparse Coding",
    files=(ENCODER, STRATA, DICTIONARIES),
    cluster="the stratum of most of the training images nearest to it in the auto-encoder's features",
    distance="mean distance to the training images nearest to it in the auto-encoder's features",
    classes=False,
    check=_check,
    lines=_lines,
    code="raypurify.purifiers.stl",
    purifier=_purifier,
)
