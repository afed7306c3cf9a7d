"""What RegionSparse learns its dictionary from, and the dictionary (Zhang et al., section IV-B)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from raypurify.patches.dictionary import cosine_atoms, draw_patches, learn_atoms
from raypurify.purifiers.nlm import NonLocalMeans
from raypurify.regions import PatchSettings


def benign_patches(
    images: Tensor, rows: Sequence[int], settings: PatchSettings, ablations: Sequence[str], seed: int
) -> Tensor:
    """The benign patches (n, 3·b²) float32 of images (N, 3, H, W) in [0, 1], the ``rows`` of a source: its equation 15.

    Images are smoothed by non-local means of strength ``settings.smoothing``, unless "noIS" is left out, and each
    gives ``settings.per_image`` random patches, normalised by equation 17 unless "noPN" is. An image's patches depend
    on its pixels, its row and the seed alone.

    Raises ConfigError where scikit-image, which smooths, is not installed; DataError for images below a patch.

    >>> benign_patches(torch.rand(2, 3, 9, 9), [4, 7], PatchSettings(size=5, per_image=3), ["noIS"], 0).shape
    torch.Size([6, 75])
    """
    if "noIS" not in ablations:
        images = NonLocalMeans(h=settings.smoothing).transform(images).clamp(0, 1)
    normalise = "noPN" not in ablations
    drawn = [
        draw_patches(image, settings.size, settings.per_image, (seed, int(row)), normalise)
        for image, row in zip(images, rows)
    ]
    return torch.cat(drawn) if drawn else images.new_empty((0, 3 * settings.size**2))


def patch_dictionary(
    patches: Tensor, settings: PatchSettings, ablations: Sequence[str], seed: int, on_patches: Callable[[int], None]
) -> Tensor:
    """The dictionary (M, 3, b, b), atoms of norm 1, that is learned from patches (n, 3·b²); with "noTR" left out that
    of cosines, M = 3·b². ``on_patches`` hears how many were learned from. Raises DataError where they are too few.

    >>> patch_dictionary(torch.empty(0, 75), PatchSettings(size=5), ["noTR"], 0, print).shape
    torch.Size([75, 3, 5, 5])
    """
    if "noTR" in ablations:
        return cosine_atoms(settings.size)
    atoms = learn_atoms(patches, settings.atoms, settings.alpha, settings.passes, seed, on_patches)
    return atoms.reshape(-1, 3, settings.size, settings.size)
