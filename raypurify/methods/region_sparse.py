"""The method ``region_sparse``: one dictionary of patches, which codes the object region alone."""

from typing import TYPE_CHECKING

from raypurify.bundle.manifest import BundleFacts
from raypurify.bundle.names import DICTIONARIES
from raypurify.methods.contract import Method

if TYPE_CHECKING:
    import torch

    from raypurify.bundle import Bundle
    from raypurify.purifiers import Bundled


def _check(facts: BundleFacts) -> None:
    dictionaries, atoms, _, height, width = facts.shape(DICTIONARIES, "atoms", "K, M, 3, h, w")
    if dictionaries != 1:
        raise facts.wrong(f"{dictionaries} dictionaries, where all images have one")
    if height != width:
        raise facts.wrong(f"atoms of {height}×{width}, where patches are squares")
    settings = facts.manifest.settings
    side = settings.patches.size
    count = 3 * side**2 if "noTR" in settings.ablations else settings.patches.atoms
    if atoms > count or height > side:
        # The pursuit keeps the products of all pairs of atoms: of so many as settings may ask for there is memory.
        raise facts.wrong(f"{atoms} atoms of {height}², where the settings have {count} of {side}²")


def _lines(facts: BundleFacts) -> dict[str, str]:
    settings = facts.manifest.settings
    learned, how, left_out = settings.patches, settings.region, settings.ablations
    _, atoms, _, height, width = facts.shape(DICTIONARIES, "atoms", "K, M, 3, h, w")
    source = "cosines" if "noTR" in left_out else f"from {learned.images} images, {learned.per_image} patches of each"
    background = f"bilateral filter of σ {how.sigma_space:g} pixels and {how.sigma_colour:g} in colour"
    return {
        "dictionaries": f"1 of {atoms} atoms of {height}×{width}, {source}",
        "purification": f"{how.nonzeros} atoms a patch in the object's box, stride {how.stride}",
        "background": "as it is" if "noBS" in left_out else background,
    } | ({"left out": ", ".join(left_out)} if left_out else {})


def _purifier(bundle: "Bundle", device: "str | torch.device") -> "Bundled":
    from raypurify.purifiers.region_sparse import RegionSparse

    return RegionSparse(bundle, device)


REGION_SPARSE = Method(
    name="region_sparse",
    paper="Zhang et al., RegionSparse: Leveraging Sparse Coding and Object Localization to Counter Adversarial Attacks",
    files=(DICTIONARIES,),
    cluster="the only one: all images have one dictionary",
    distance="root mean square of what its atoms leave of the patches of its object, in standard deviations",
    classes=False,
    check=_check,
    lines=_lines,
    code="raypurify.purifiers.region_sparse",
    purifier=_purifier,
)
