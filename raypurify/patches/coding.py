"""Images rewritten with few atoms for each of their overlapping patches, which are averaged where they overlap."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from raypurify.patches.omp import coded, pursue
from raypurify.patches.overlap import BAND, Overlap
from raypurify.patches.zscore import ZScore, unchanged, zscore_of


class Rewritten(NamedTuple):
    """Images (3, h, w) float64 of any sizes as their atoms give them; for each the ``residual`` (N,) that no atom was
    taken for, √(mean of (p − Ψα)² over all numbers of its patches p as they were coded), and ``most`` (N,) int64, the
    greatest number of atoms that a patch has."""

    images: list[Tensor]
    residual: Tensor
    most: Tensor


class _Unit(NamedTuple):
    """The patches of image ``image`` that begin at ``rows``, normalised."""

    image: int
    rows: Tensor
    patches: Tensor


def rewrite_patches(
    images: Sequence[Tensor], dictionary: Tensor, nonzeros: int, stride: int = 1, normalise: bool = True
) -> Rewritten:
    """Rewrite images (3, h, w), no side below an atom's: each patch p by its K-sparse code in the atoms, then averaged.

    RegionSparse, section IV-C b. Patches begin every ``stride`` pixels. With ``normalise`` they are coded after
    equation 17 over the patches of their image, as those that the ``dictionary`` (M, 3, b, b), of atoms of norm 1, was
    learned from, and what is coded is scaled back. Patches of all images go through the pursuit together.

    Differentiable in the images: the choice of the atoms is piecewise constant, all else has its gradient.

    >>> image = torch.rand(3, 10, 9)
    >>> torch.allclose(rewrite_patches([image], torch.eye(12).reshape(12, 3, 2, 2), 12).images[0], image.double())
    True
    """
    size, atoms = dictionary.shape[-1], dictionary.flatten(1)
    places = [Overlap(image.shape[-2], image.shape[-1], size, stride) for image in images]
    scores: list[ZScore] = []
    sums: list[Tensor] = [torch.zeros_like(image, dtype=torch.float64) for image in images]
    errors: list[Tensor] = [image.new_zeros((), dtype=torch.float64) for image in images]
    most = [0] * len(images)

    def units() -> Iterator[_Unit]:
        for index, (image, place) in enumerate(zip(images, places)):
            exact = image.double()
            bands = (place.band(exact, rows) for rows in place.bands())
            scores.append(zscore_of(bands) if normalise else unchanged(next(bands)))
            for rows in place.bands():
                yield _Unit(index, rows, scores[index].normal(place.band(exact, rows)))

    for group in _groups(units()):
        signals = torch.cat([unit.patches for unit in group])
        support = pursue(signals, atoms, nonzeros)
        rebuilt = coded(signals, atoms, support)
        lengths = [len(unit.patches) for unit in group]
        apart = (rebuilt - signals).square().sum(1)
        for unit, own, error, taken in zip(group, *(of.split(lengths) for of in (rebuilt, apart, support.taken))):
            index = unit.image
            places[index].add(sums[index], scores[index].back(own), unit.rows)
            errors[index] = errors[index] + error.sum()
            most[index] = max(most[index], int(taken.sum(1).max()))
    done = [total / place.times.to(total.device) for total, place in zip(sums, places)]
    means = [error / (place.count * atoms.shape[1]) for error, place in zip(errors, places)]
    device = dictionary.device
    mean = torch.stack(means) if means else torch.zeros(0, dtype=torch.float64, device=device)
    # The root has no slope at zero, where nothing is left out.
    residual = torch.where(mean > 0, mean.where(mean > 0, 1).sqrt(), 0)
    return Rewritten(done, residual, torch.tensor(most, dtype=torch.int64, device=device))


def _groups(units: Iterator[_Unit]) -> Iterator[list[_Unit]]:
    """Units that are coded together: about ``BAND`` patches."""
    group: list[_Unit] = []
    for unit in units:
        group.append(unit)
        if sum(len(one.patches) for one in group) >= BAND:
            yield group
            group = []
    if group:
        yield group
