"""The method ``front_end``: few signs of an image's patches, drawn at random, of which a decoder makes an image."""

from typing import TYPE_CHECKING

from raypurify.bundle.manifest import BundleFacts, Manifest
from raypurify.bundle.names import DECODER, DICTIONARIES
from raypurify.fronts import LEARNERS
from raypurify.methods.contract import Method

if TYPE_CHECKING:
    import torch
    from torch import nn

    from raypurify.bundle import Bundle
    from raypurify.purifiers import Bundled


def _check(facts: BundleFacts) -> None:
    dictionaries, atoms, _, height, width = facts.shape(DICTIONARIES, "atoms", "K, M, 3, h, w")
    settings = facts.manifest.settings
    side, (first, second) = settings.dictionary.size, settings.decoder.channels
    if dictionaries != 1:
        raise facts.wrong(f"{dictionaries} dictionaries, where all images have one")
    if (height, width) != (side, side) or atoms > settings.dictionary.atoms:
        raise facts.wrong(
            f"{atoms} atoms of {height}×{width}, where the settings have {settings.dictionary.atoms} of {side}×{side}"
        )
    for name, shape in (
        ("placed", (settings.dictionary.atoms, first, side, side)),
        ("mixed", (first, second, 3, 3)),
        ("coloured", (second, 3, 3, 3)),
    ):
        found = facts.shape(DECODER, f"decoder.{name}.weight", "i, o, h, w")
        if found != shape:
            raise facts.wrong(f"decoder.{name} of {found}, where the settings have {shape}")
    if settings.decoder.supervised:
        how = settings.decoder
        classes, _ = facts.shape(DECODER, f"classifier.{LEARNERS[how.classifier].head}", "C, d")
        if classes != len(facts.manifest.classes):
            raise facts.wrong(f"{len(facts.manifest.classes)} classes, a classifier of {classes}")
        blocks = {name.split(".")[2] for name in facts.shapes[DECODER] if name.startswith("classifier.layer1.")}
        if how.classifier == "cifar-resnet" and 6 * len(blocks) + 2 != how.depth:
            raise facts.wrong(f"a classifier of {6 * len(blocks) + 2} layers, where it has {how.depth}")


def _lines(facts: BundleFacts) -> dict[str, str]:
    settings = facts.manifest.settings
    learned, how, decoder = settings.dictionary, settings.encoder, settings.decoder
    _, atoms, _, height, width = facts.shape(DICTIONARIES, "atoms", "K, M, 3, h, w")
    steps = [
        "all coefficients of a patch" if how.top is None else f"the {how.top} largest coefficients of a patch",
        f"{how.dropout:.0%} of them dropped at random" if how.dropout else "none of them dropped",
        f"signs of those above {how.beta:g} × {how.eps:.4g} × ‖d‖₁" if how.quantise else "as they are",
    ]
    alone = "learned alone, to give images back"
    classifier = LEARNERS[decoder.classifier].title.format(depth=decoder.depth)
    together = f"learned with {classifier}, for which alone its images are"
    return {
        "dictionaries": f"1 of {atoms} atoms of {height}×{width}, from {learned.images} images, {learned.per_image} "
        "patches of each",
        "purification": ", ".join(steps) + f"; stride {learned.stride}",
        "decoder": f"{facts.parameters(DECODER):,} parameters, {together if decoder.supervised else alone}",
    }


def _purifier(bundle: "Bundle", device: "str | torch.device") -> "Bundled":
    from raypurify.purifiers.front_end import FrontEndPurifier

    return FrontEndPurifier(bundle, device)


def _classifies(manifest: Manifest) -> bool:
    return manifest.settings.decoder.supervised


def _for_whom(manifest: Manifest) -> str | None:
    return "the classifier that its decoder learned with" if manifest.settings.decoder.supervised else None


def _classifier(bundle: "Bundle") -> "nn.Module":
    from raypurify.purifiers.front_end import network_of

    return network_of(bundle)


FRONT_END = Method(
    name="front_end",
    paper="Bakiskan et al., A Neuro-Inspired Autoencoding Defense Against Adversarial Perturbations",
    files=(DICTIONARIES, DECODER),
    cluster="the only one: all images have one dictionary",
    distance="root mean square of what the image that comes back differs by, in units of pixels in [0, 1]",
    classes=False,
    check=_check,
    lines=_lines,
    code="raypurify.purifiers.front_end",
    purifier=_purifier,
    classifier=_classifier,
    classifies=_classifies,
    classifier_code="raypurify.nets.front_classifiers",
    for_whom=_for_whom,
)
