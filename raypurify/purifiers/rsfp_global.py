"""RSFP with one dictionary for all images: what the clusters of RSFP are compared with.

STL (Sun et al., CVPR 2019) reports it beside its clusters, as "STL" beside "STL (cluster)" in tables 1 and 2.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from raypurify.config import CscSettings, DictionarySettings
from raypurify.csc import learn_dictionary, tikhonov_split
from raypurify.errors import ConfigError
from raypurify.purifiers.base import Purified, checked, without_clusters
from raypurify.purifiers.rewriting import rewrite


@dataclass(frozen=True, eq=False)
class GlobalRSFP:
    """RSFP without clusters: one ``dictionary`` (M, 3, h, w) for every image.

    Steps 1, 3 and 4 of :class:`~raypurify.purifiers.rsfp.RSFP`. No network chooses a cluster, so the result has none:
    cluster -1, distance NaN. Works on the device of the images.

    >>> atoms = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    >>> GlobalRSFP(atoms / atoms.flatten(1).norm(dim=1)[:, None, None, None]).purify(torch.rand(1, 3, 8, 9)).cluster
    tensor([-1])
    """

    dictionary: Tensor
    csc: CscSettings = field(default_factory=CscSettings)

    @property
    def min_size(self) -> int:
        return max(self.dictionary.shape[-2:])

    @torch.no_grad()
    def purify(self, images: Tensor) -> Purified:
        """Purify images (N, 3, H, W), floating point in [0, 1], H and W no smaller than an atom; else DataError."""
        images = checked(images, self.min_size, "an atom")
        purified, code = rewrite(images, self.dictionary.to(images.device), self.csc, sparse=True)
        return without_clusters(purified, images, code.iterations)

    def purify_differentiably(
        self, images: Tensor, rel_tol: float = 1e-3, differentiable: str = "implicit", hold_lmbda: bool = False
    ) -> Tensor:
        """Purified images, differentiable in ``images``; as ``Bundled.purify_differentiably``."""
        images = checked(images, self.min_size, "an atom")
        atoms, how = self.dictionary.to(images.device), differentiable
        return rewrite(images, atoms, self.csc, rel_tol=rel_tol, hold_lmbda=hold_lmbda, differentiable=how)[0]


def load_global_rsfp(dictionary: str | Path, **csc: float) -> GlobalRSFP:
    """Make the purifier of a dictionary on disk, with settings of :class:`~raypurify.config.CscSettings`.

    The file is what ``safetensors.torch.save_file({"atoms": dictionary}, path)`` writes, as the stage ``dictionaries``
    of a fit does. Raises ConfigError when it cannot be read or a setting is unknown or out of range.
    """
    try:
        atoms = load_file(dictionary)["atoms"].float()
        return GlobalRSFP(atoms / torch.linalg.vector_norm(atoms, dim=(1, 2, 3), keepdim=True), CscSettings(**csc))
    except (OSError, SafetensorError, KeyError, IndexError) as error:
        raise ConfigError(f"no dictionary in {dictionary}: {error}; it needs a tensor (M, 3, h, w), 'atoms'") from error
    except ValueError as error:
        raise ConfigError(f"rsfp_global: {' '.join(str(error).split())}") from error


def learn_global_dictionary(images: Tensor, settings: DictionarySettings, csc: CscSettings, seed: int = 0) -> Tensor:
    """Learn one dictionary (M, 3, h, w) for all ``images`` (N, 3, H, W) in [0, 1], as a fit learns a cluster's.

    Give it a sample of all classes; ``settings.images`` is not looked at. Raises DataError as ``learn_dictionary``.

    >>> images = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    >>> learn_global_dictionary(images, DictionarySettings(atoms=4, size=5), CscSettings()).shape
    torch.Size([4, 3, 5, 5])
    """
    images = checked(images, settings.size, "an atom")
    _, high = tikhonov_split(images, lmbda=csc.tikhonov, pad=csc.pad)
    return learn_dictionary(
        high,
        atoms=settings.atoms,
        size=settings.size,
        lmbda=csc.lmbda,
        passes=settings.passes,
        seed=seed,
        engine=settings.engine,
    )
