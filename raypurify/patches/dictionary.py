"""The dictionary of patches: benign ones, drawn and normalised, and atoms learned from them online."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from raypurify.errors import DataError
from raypurify.patches.zscore import unchanged, zscore_of

# Patches of one step of the online learner, unless it is told.
BATCH = 256
# Patches that are looked at together for whether they vary.
BLOCK = 1 << 16


def draw_patches(image: Tensor, size: int, count: int, seed: tuple[int, ...], normalise: bool = True) -> Tensor:
    """Random patches (n, 3·size²) float32 of an image (3, H, W), n = ``count`` or as many as it has, none twice.

    RegionSparse, equation 14, and equation 17 with the expectation and variance over these n patches. An image of one
    colour gives zeros. Raises DataError for an image below ``size``.

    >>> draw_patches(torch.rand(3, 12, 12), size=8, count=10, seed=(0,)).shape
    torch.Size([10, 192])
    """
    height, width = image.shape[-2:]
    if min(height, width) < size:
        raise DataError(f"an image of {height}×{width} has no patch of {size}²: lower patches.size")
    across = width - size + 1
    places = np.random.default_rng(seed).permutation((height - size + 1) * across)[:count]
    patches = torch.stack(
        [image[:, y : y + size, x : x + size].reshape(-1) for y, x in (divmod(int(p), across) for p in places)]
    )
    score = zscore_of([patches]) if normalise else unchanged(patches)
    return score.normal(patches).float()


def learn_atoms(
    patches: Tensor,
    atoms: int,
    alpha: float,
    passes: int,
    seed: int,
    on_patches: Callable[[int], None],
    batch: int = BATCH,
) -> Tensor:
    """Atoms (M, d) of L2 norm 1, float32, learned online from patches (n, d): Mairal, Bach, Ponce, Sapiro, "Online
    dictionary learning for sparse coding", ICML 2009, by scikit-learn.

    min over Ψ and α of Σ ½‖x − Ψα‖² + ``alpha``·‖α‖₁, RegionSparse's equation 20. It starts from ``atoms`` patches,
    and goes through all of them ``passes`` times, each time in another order, ``batch`` of them a step; ``on_patches``
    hears how many were seen.
    One thread, so that the same patches give the same atoms wherever there are so many.

    Raises DataError where fewer patches than ``atoms`` vary.
    """
    from sklearn.decomposition import MiniBatchDictionaryLearning
    from threadpoolctl import threadpool_limits

    # In blocks, and as float32 but for a batch: a copy of all as float64 would be twice as large as they.
    varies = torch.cat([block.square().sum(1) > 0 for block in patches.split(BLOCK)])
    varying = (patches if varies.all() else patches[varies]).numpy()
    if len(varying) < atoms:
        raise DataError(
            f"{len(varying)} patches that vary are too few for {atoms} atoms: give more images, "
            "raise per_image or lower atoms"
        )
    generator = np.random.default_rng(seed)
    first = varying[generator.permutation(len(varying))[:atoms]].astype(np.float64)
    learner = MiniBatchDictionaryLearning(
        atoms,
        alpha=alpha,
        batch_size=batch,
        dict_init=first / np.linalg.norm(first, axis=1, keepdims=True),
        random_state=seed,
    )
    with threadpool_limits(1):
        for some in _batches(varying, passes, batch, generator):
            learner.partial_fit(some)
            on_patches(len(some))
    learned = torch.from_numpy(learner.components_)
    return (learned / torch.linalg.vector_norm(learned, dim=1, keepdim=True)).float()


def cosine_atoms(size: int) -> Tensor:
    """The orthonormal basis (3·size², 3, size, size) of cosines over the three colours, the rows and the columns.

    It is what patches are coded with where no dictionary is trained: of an orthonormal basis orthogonal matching
    pursuit keeps the K largest coefficients, which is equation 8 of RegionSparse.

    >>> atoms = cosine_atoms(4).flatten(1)
    >>> torch.allclose(atoms @ atoms.T, torch.eye(48), atol=1e-5)
    True
    """
    colours, lines = _cosines(3), _cosines(size)
    atoms = torch.einsum("ac,by,dx->abdcyx", colours, lines, lines)
    return atoms.reshape(-1, 3, size, size).float()


def _cosines(count: int) -> Tensor:
    """The rows of the DCT-II of ``count`` numbers, of norm 1."""
    steps = torch.arange(count, dtype=torch.float64)
    waves = torch.cos(math.pi / count * steps[:, None] * (steps + 0.5))
    return waves / torch.linalg.vector_norm(waves, dim=1, keepdim=True)


def _batches(patches: np.ndarray, passes: int, batch: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    for _ in range(passes):
        order = generator.permutation(len(patches))
        for start in range(0, len(order), batch):
            yield patches[order[start : start + batch]].astype(np.float64)
