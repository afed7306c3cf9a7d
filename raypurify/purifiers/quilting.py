"""Image quilting: Guo et al., "Countering adversarial images using input transformations", ICLR 2018."""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from raypurify.clusters.neighbours import QUERIES, nearest_rows
from raypurify.errors import ConfigError
from raypurify.purifiers.learned import FOLDER
from raypurify.purifiers.patch_bank import MAX_VALUES, patches_of, read_bank
from raypurify.purifiers.seams import joined, starts_of
from raypurify.purifiers.transform import Transform, check_seed, check_whole, generator_of

PIECE = 1 << 22
"""Values of the patches of an image that are looked up, or joined to rows, together."""
MOST_NEIGHBOURS = 512
"""Neighbours to draw among: a search holds so many of each patch that it looks up."""


@dataclass(frozen=True)
class Quilting(Transform):
    """Image quilting: pieces an image together from patches of clean images alone.

    1. The image is cut into patches of ``patch``² pixels that overlap by ``overlap``; the last of a row or column
       overlaps by more, so that they end where the image does.
    2. Each patch is replaced by one of its ``neighbours`` nearest, in the Euclidean distance of pixels, among
       ``patches`` of the bank: the nearest itself, or one of several, 512 at most, drawn by ``seed`` and the image.
    3. Where they overlap, patches are parted along the cut of least squared difference (``seams``).

    Patches of 5² that overlap by 2, and one neighbour, are the defaults of the released code; for randomness the paper
    draws among ten. Its bank has a million patches of ImageNet and an approximate search; here the search is exact and
    the bank as large as there is time for. The released code parts patches by a graph cut, one after the other; here
    the patches of a row are joined first and then the rows, by the cut of Efros and Freeman (2001): no cut depends on
    another. It leaves up to ``patch`` pixels at the right and the bottom black, which is not done.

    ``bank`` is the file of clean images, or its URI, that ``benchmarks/patch_bank.py`` makes, of any size; the shipped
    one has 250 training images of CIFAR-10, 25 of each class, and patches of photographs of another resolution look
    different. ``digest`` is the SHA-256 of that file. Images are worked on one by one, and of one no more patches at a
    time than ``PIECE`` values hold: what ``seams`` joins them to is as large as the image, the patches are not kept.

    >>> Quilting(patches=500).purify(torch.rand(1, 3, 9, 12)).images.shape
    torch.Size([1, 3, 9, 12])
    """

    bank: str | Path | None = None
    patch: int = 5
    overlap: int = 2
    neighbours: int = 1
    patches: int = 20_000
    seed: int = 0
    digest: str = field(init=False, default="")

    shipped: ClassVar[str] = "d4f13d942f77759b96d3191346d3828ea7d7cc13e1f819c6b90c51ff358df48b"
    """The SHA-256 of the bank in ``FOLDER``: what changes it changes the code, too."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_whole("patch", self.patch, 2, 64)
        if not isinstance(self.overlap, int) or self.overlap not in range(1, self.patch // 2 + 1):
            raise ConfigError(f"overlap={self.overlap!r}: need a whole number from 1 to half of patch={self.patch}")
        # ``patches_of`` and the bank say how many there can be.
        check_whole("patches", self.patches, 1, MAX_VALUES)
        check_whole("neighbours", self.neighbours, 1, MOST_NEIGHBOURS)
        images, digest = read_bank(FOLDER / "patches.safetensors" if self.bank is None else self.bank)
        patches = patches_of(images, self.patch, self.patches)
        if len(patches) < self.neighbours:
            raise ConfigError(f"neighbours={self.neighbours}: there are no more than {len(patches)} patches to choose")
        object.__setattr__(self, "digest", digest)
        object.__setattr__(self, "min_size", self.patch)
        object.__setattr__(self, "_patches", patches)

    @property
    def random(self) -> bool:
        """Whether another seed can give another result."""
        return self.neighbours > 1

    def transform(self, images: Tensor) -> Tensor:
        return torch.stack([self._quilted(image) for image in images]) if len(images) else images.clone()

    def _quilted(self, image: Tensor) -> Tensor:
        bank = _placed(self._patches, image.device)  # type: ignore[attr-defined]  # frozen: set above
        top, left = (starts_of(side, self.patch, self.overlap, image.device) for side in image.shape[-2:])
        near = self._nearest(image, bank, top, left).view(len(top), len(left))
        rows = max(1, PIECE // (len(left) * bank.shape[1]))
        strips = torch.cat([joined(self._patches_at(some, bank), left, self.overlap) for some in near.split(rows)])
        return joined(strips.transpose(-1, -2), top, self.overlap).transpose(-1, -2)

    def _nearest(self, image: Tensor, bank: Tensor, top: Tensor, left: Tensor) -> Tensor:
        """Which patch (n,) of the bank each of the image's becomes, those of a row after each other."""
        # (3, H, W, patch, patch), all of them a view
        windows = image.unfold(1, self.patch, 1).unfold(2, self.patch, 1)
        places = torch.cartesian_prod(top, left)
        drawn = None
        if self.neighbours > 1:
            rng = generator_of(image.detach().cpu().numpy(), self.seed)
            drawn = torch.from_numpy(rng.integers(self.neighbours, size=(len(places), 1))).to(image.device)
        found, some = [], QUERIES * max(1, PIECE // (QUERIES * max(bank.shape[1], self.neighbours)))
        for start in range(0, len(places), some):
            y, x = places[start : start + some].unbind(1)
            near = nearest_rows(windows[:, y, x].movedim(0, 1).flatten(1), bank, self.neighbours)
            found.append(near[:, 0] if drawn is None else near.gather(1, drawn[start : start + some])[:, 0])
        return torch.cat(found)

    def _patches_at(self, chosen: Tensor, bank: Tensor) -> Tensor:
        """The patches (rows, columns, 3, patch, patch) of the bank of these numbers (rows, columns)."""
        return bank[chosen].float().unflatten(-1, (3, self.patch, self.patch))


@lru_cache(maxsize=1)
def _placed(patches: Tensor, device: torch.device) -> Tensor:
    """The patches in [0, 1], float64 as the search wants them; as float32 they are the values that images have. Those
    of the purifier that was last at work are kept, eight times as large as they were."""
    return patches.to(device).double() / 255
