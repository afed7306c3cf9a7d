"""What dictionaries of patches are learned from, and the dictionaries: RegionSparse's (Zhang et al., section IV-B), and
those of patches as they are."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from raypurify.patches.dictionary import BATCH, cosine_atoms, draw_patches, learn_atoms
from raypurify.purifiers.nlm import NonLocalMeans
from raypurify.regions import AtomSettings, PatchSettings


def random_patches(
    images: Tensor, rows: Sequence[int], settings: AtomSettings, seed: int, normalise: bool = False
) -> Tensor:
    """Patches (n, 3·b²) float32 of images (N, 3, H, W), the ``rows`` of a source: of each ``settings.per_image`` at
    random, normalised by equation 17 of RegionSparse where that is asked for.

    An image's patches depend on its pixels, its row and the seed alone. Raises DataError for images below a patch.

    >>> random_patches(torch.rand(2, 3, 9, 9), [4, 7], AtomSettings(size=5, per_image=3), 0).shape
    torch.Size([6, 75])
    """
    drawn = [
        draw_patches(image, settings.size, settings.per_image, (seed, int(row)), normalise)
        for image, row in zip(images, rows)
    ]
    return torch.cat(drawn) if drawn else images.new_empty((0, 3 * settings.size**2))


def learned_dictionary(
    patches: Tensor, settings: AtomSettings, seed: int, on_patches: Callable[[int], None], batch: int = BATCH
) -> Tensor:
    """The dictionary (M, 3, b, b), atoms of norm 1, that is learned from patches (n, 3·b²), ``batch`` of them a step.

    ``on_patches`` hears how many were learned from. Raises DataError where they are too few.

    >>> learned_dictionary(torch.rand(30, 12), AtomSettings(size=2, atoms=6), 0, lambda count: None).shape
    torch.Size([6, 3, 2, 2])
    """
    atoms = learn_atoms(patches, settings.atoms, settings.alpha, settings.passes, seed, on_patches, batch)
    return atoms.reshape(-1, 3, settings.size, settings.size)


def benign_patches(
    images: Tensor, rows: Sequence[int], settings: PatchSettings, ablations: Sequence[str], seed: int
) -> Tensor:
    """The benign patches (n, 3·b²) float32 of images (N, 3, H, W) in [0, 1], the ``rows`` of a source: its equation 15.

    Images are smoothed by non-local means of strength ``settings.smoothing``, unless "noIS" is left out, and each
    gives ``settings.per_image`` random patches, normalised by equation 17 unless "noPN" is; :func:`random_patches` says
    more of them.

    Raises ConfigError where scikit-image, which smooths, is not installed; DataError for images below a patch.

    >>> benign_patches(torch.rand(2, 3, 9, 9), [4, 7], PatchSettings(size=5, per_image=3), ["noIS"], 0).shape
    torch.Size([6, 75])
    """
    if "noIS" not in ablations:
        images = NonLocalMeans(h=settings.smoothing).transform(images).clamp(0, 1)
    return random_patches(images, rows, settings, seed, normalise="noPN" not in ablations)


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
    return learned_dictionary(patches, settings, seed, on_patches)
