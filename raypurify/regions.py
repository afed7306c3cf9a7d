"""Settings of RegionSparse: of its dictionary of patches, and of what it does to an image with that."""

from collections.abc import Sequence

from pydantic import Field

from raypurify.trees import SettingsModel

# Steps of RegionSparse that its figure 4 leaves out, one at a time.
ABLATIONS = ("noTR", "noIS", "noPN", "noBS")
# Of a bilateral filter: a σ below is a filter that does nothing, and its square nears what float32 cannot hold; one
# above is a plain mean.
LEAST_SIGMA, MOST_SIGMA = 1e-3, 1e3
# Numbers in all patches that a dictionary is learned from: one task holds them, as float32 and for a while twice.
MOST_NUMBERS = 1 << 29


class AtomSettings(SettingsModel):
    """Settings of one dictionary of patches, whatever method has it: what it is learned from, online."""

    size: int = Field(8, ge=2, le=32, description="side of a patch, and of an atom")
    atoms: int = Field(256, ge=2, le=8192)
    images: int = Field(1000, ge=1, description="benign images that patches are drawn from")
    per_image: int = Field(20, ge=2, description="random patches of each of them")
    alpha: float = Field(3.0, gt=0, description="weight of the sparsity that the dictionary is learned for")
    passes: int = Field(1, ge=1)


class PatchSettings(AtomSettings):
    """Settings of RegionSparse's one dictionary, of patches of benign images; the paper gives no numbers.

    It is learned from all patches together: ``images`` times ``per_image`` times 3·``size``² numbers, 2²⁹ at most,
    which is 2.8 million patches of 8².

    >>> PatchSettings().size
    8
    """

    smoothing: float = Field(0.04, gt=0, le=1, description="h of non-local means, which smooths these images")


class RegionSettings(SettingsModel):
    """Settings of what RegionSparse does to an image, and so of the balance of object and background (its eq. 19)."""

    nonzeros: int = Field(8, ge=1, le=1024, description="K: atoms of a patch in the object region; fewer remove more")
    stride: int = Field(1, ge=1, le=32, description="pixels from one patch to the next")
    radius: int = Field(2, ge=1, le=16, description="of the background's bilateral filter, in pixels")
    sigma_space: float = Field(1.5, ge=LEAST_SIGMA, le=MOST_SIGMA, description="σ of the filter in pixels")
    sigma_colour: float = Field(
        0.1, ge=LEAST_SIGMA, le=MOST_SIGMA, description="σ of the filter in colour, of images in [0, 1]"
    )


def check_kept(section: str, patches: AtomSettings, side: int) -> None:
    """Raise ValueError where the patches of images of this ``side`` are more than one task may hold.

    >>> check_kept("patches", PatchSettings(images=1000), 32)
    """
    numbers, each = 3 * patches.size**2, min(patches.per_image, (side - patches.size + 1) ** 2)
    if patches.images * each * numbers > MOST_NUMBERS:
        raise ValueError(
            f"{section}.images is {patches.images} and each gives {each} patches of {numbers} numbers: that is too "
            f"much to keep in memory, where {MOST_NUMBERS // numbers} patches are the most; "
            f"lower {section}.images or {section}.per_image"
        )


def check_coding(patches: PatchSettings, region: RegionSettings, ablations: Sequence[str], side: int) -> None:
    """Raise ValueError where images of this ``side`` cannot be coded by these settings together.

    >>> check_coding(PatchSettings(size=8), RegionSettings(stride=8), (), 32)
    """
    numbers, atoms = 3 * patches.size**2, patches.atoms
    if "noTR" in ablations:
        atoms = numbers
    if region.nonzeros > min(numbers, atoms):
        raise ValueError(
            f"region.nonzeros is {region.nonzeros}, of {atoms} atoms of {numbers} numbers: "
            f"give {min(numbers, atoms)} at most"
        )
    if region.stride > patches.size:
        raise ValueError(f"region.stride is {region.stride}, above patches.size: pixels would be left out")
    if patches.size > side:
        raise ValueError(f"patches.size is {patches.size}, above data.image_size, {side}")
    if "noTR" not in ablations:
        check_kept("patches", patches, side)
    if len({*ablations}) < len(ablations):
        raise ValueError(f"ablations has one twice: {', '.join(ablations)}; name each once")
