"""Online convolutional dictionary learning: the atoms that a cluster's images are made of."""

from collections.abc import Callable

import numpy as np
import torch

from raypurify.csc.online import learn_online
from raypurify.csc.sporco_online import learn_by_sporco
from raypurify.errors import DataError

ENGINES = {"torch": learn_online, "sporco": learn_by_sporco}
"""Every way of learning by its name in :func:`learn_dictionary`."""


def learn_dictionary(
    images: torch.Tensor,
    atoms: int = 64,
    size: int = 8,
    lmbda: float = 0.2,
    passes: int = 1,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    engine: str = "torch",
) -> torch.Tensor:
    r"""Learn unit-norm atoms for the convolutional model ``s ≈ Σ_m d_m * x_m`` (RSFP, equation 5).

    Minimises ``Σ_s ½‖Σ_m d_m * x_{s,m} − s‖² + λ Σ_m ‖x_{s,m}‖₁`` over codes ``x`` and atoms ``‖d_m‖ = 1``, with
    circular convolution, by first-order online learning (RSFP's reference [44], Liu et al. 2018): images come in a
    random order, each is coded by :func:`solve_cbpdn`, then the dictionary takes a projected gradient step. Engines:

    * ``"torch"``: mini-batches, momentum, and the average of all dictionaries as the result; on the device of
      ``images`` (:mod:`raypurify.csc.online`).
    * ``"sporco"``: the reference, sporco's ``OnlineConvBPDNDictLearn`` but for its coding step; one image at a time, on
      the CPU. Slower, and in most cases at a higher objective on held-out images (``benchmarks/csc.py``).

    Both start from random patches of the images, which end lower on held-out images than Gaussian noise does: a patch
    is of use from the first image on, and an atom that is never chosen is still a piece of an image.

    Args:
        images: (N, C, H, W) high parts of a cluster's images (see :func:`tikhonov_split`), of any number of channels,
            H ≥ size, W ≥ size.
        atoms: number of atoms M ≥ 2.
        size: height and width of an atom, ≥ 1.
        lmbda: weight λ > 0 of the L1 norm; use the one that the images will be purified with.
        passes: how often each image is seen.
        seed: of the initial patches and the order of images. The same seed, images, engine and device give the same
            dictionary.
        progress: called as ``progress(images done, images in all)``, once for each image.
        engine: ``"torch"`` or ``"sporco"``.

    Returns:
        (M, C, size, size) float32, each atom of unit L2 norm, on the CPU.

    Raises:
        DataError: not such a batch, a setting out of range, an unknown engine, or nothing to learn because no image
            varies (duplicates of an image that does vary are fine).

    >>> high = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    >>> learn_dictionary(high, atoms=4, size=5).shape
    torch.Size([4, 3, 5, 5])
    """
    signals = _checked(images, atoms, size, lmbda, passes)
    if engine not in ENGINES:
        raise DataError(f"engine={engine!r}: choose {' or '.join(map(repr, ENGINES))}")
    rng = np.random.default_rng(seed)
    start = torch.from_numpy(random_patches(signals.cpu().numpy(), atoms, size, rng))
    learned = ENGINES[engine](signals, start, lmbda, passes, rng, progress).cpu()
    return learned / torch.linalg.vector_norm(learned, dim=(1, 2, 3), keepdim=True)


def random_patches(signals: np.ndarray, atoms: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Unit-norm patches (atoms, C, size, size) of the images at random places, to begin learning with.

    Flat ones are drawn again, and replaced by noise at last.
    """
    count, channels, height, width = signals.shape
    patches = rng.standard_normal((atoms, channels, size, size)).astype(np.float32)
    floor = 1e-3 * np.sqrt(np.mean(signals**2) * patches[0].size)
    for patch in patches:
        for _ in range(20):
            n, i, j = rng.integers(count), rng.integers(height - size + 1), rng.integers(width - size + 1)
            drawn = signals[n, :, i : i + size, j : j + size]
            if np.linalg.norm(drawn) > floor:
                patch[:] = drawn
                break
    return patches / np.sqrt((patches**2).sum((1, 2, 3), keepdims=True))


def _checked(images: torch.Tensor, atoms: int, size: int, lmbda: float, passes: int) -> torch.Tensor:
    if images.ndim != 4 or not images.shape[1] or not images.is_floating_point():
        raise DataError(f"images: expected (N, C, H, W) floats, got {tuple(images.shape)} in {images.dtype}")
    if atoms < 2 or size < 1 or passes < 1 or not 0 < lmbda < float("inf"):
        raise DataError(
            f"atoms={atoms}, size={size}, lmbda={lmbda}, passes={passes}: "
            "need atoms ≥ 2, size ≥ 1, lmbda > 0 and finite, passes ≥ 1"
        )
    if min(images.shape[2:]) < size:
        raise DataError(f"images: {images.shape[2]}×{images.shape[3]} is smaller than atoms of {size}×{size}")
    if not torch.isfinite(images).all():
        raise DataError("images: hold NaN or infinite values; remove those images first")
    spread = images.amax((2, 3)) - images.amin((2, 3)) if len(images) else images.new_zeros(1)
    if not (spread > 0).any():
        raise DataError(f"images: nothing to learn, none of the {len(images)} images varies")
    return images.detach().float()
