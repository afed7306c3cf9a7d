"""Online convolutional dictionary learning: the atoms that a cluster's images are made of."""

from collections.abc import Callable

import numpy as np
import torch

from raypurify.csc.cbpdn import solve_cbpdn
from raypurify.errors import DataError

# How exactly each image is coded. Ten times finer or twice coarser changed the held-out objective by less than 0.1 %.
_REL_TOL = 1e-2
# The step is a / (j + b) at image j, for 32×32 pixels; the gradient is a sum over pixels, so a falls with their number.
_STEP_A, _STEP_B, _STEP_PIXELS = 20.0, 10.0, 32 * 32


def learn_dictionary(
    images: torch.Tensor,
    atoms: int = 64,
    size: int = 8,
    lmbda: float = 0.2,
    passes: int = 1,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    r"""Learn unit-norm colour atoms for the convolutional model ``s ≈ Σ_m d_m * x_m`` (RSFP, equation 5).

    First-order online learning (RSFP's reference [44], Liu et al. 2018) in sporco's ``OnlineConvBPDNDictLearn``: the
    images come one at a time in a random order; each is coded, then the dictionary takes one projected gradient step.

    It starts from random patches of the images, which end lower on held-out images than Gaussian noise does: a patch is
    of use from the first image on, and an atom that is never chosen is still a piece of an image. The images are coded
    by :func:`solve_cbpdn` instead of sporco's own solver, which makes a pass many times shorter with the same held-out
    objective (``benchmarks/csc.py``).

    Args:
        images: (N, 3, H, W) high parts of a cluster's images (see :func:`tikhonov_split`), H ≥ size, W ≥ size.
        atoms: number of atoms M ≥ 2.
        size: height and width of an atom, ≥ 1.
        lmbda: weight λ > 0 of the L1 norm; use the one that the images will be purified with.
        passes: how often each image is seen.
        seed: of the initial patches and the order of images. The same seed and images give the same dictionary.
        progress: called as ``progress(images done, images in all)`` after each image.

    Returns:
        (M, 3, size, size) float32, each atom of unit L2 norm, on the CPU.

    Raises:
        DataError: not such a batch, a setting out of range, or nothing to learn because no image varies (duplicates
            of an image that does vary are fine).

    >>> high = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    >>> learn_dictionary(high, atoms=4, size=5).shape
    torch.Size([4, 3, 5, 5])
    """
    signals = _checked(images, atoms, size, lmbda, passes)
    rng = np.random.default_rng(seed)
    step = _STEP_A * (_STEP_PIXELS / (signals.shape[2] * signals.shape[3])) ** 0.5
    learner = _learner(_random_patches(signals, atoms, size, rng), lmbda, step)
    total = passes * len(signals)
    for done in range(total):
        if done % len(signals) == 0:
            order = rng.permutation(len(signals))
        learner.solve(signals[order[done % len(signals)]].transpose(1, 2, 0), dimK=0)
        if progress is not None:
            progress(done + 1, total)
    learned = learner.getdict().squeeze(axis=3).transpose(3, 2, 0, 1)
    return _unit(torch.from_numpy(np.ascontiguousarray(learned, dtype=np.float32)))


def _learner(start: np.ndarray, lmbda: float, step: float):
    """sporco's learner with its coding step replaced by :func:`solve_cbpdn`, which solves the same problem sooner."""
    import sporco.fft
    from sporco.dictlrn.onlinecdl import OnlineConvBPDNDictLearn

    # Clusters are learned side by side in processes; threads inside each would only compete.
    sporco.fft.pyfftw_threads = 1

    class Learner(OnlineConvBPDNDictLearn):
        def xstep(self, S, lmbda, dimK):
            signal = torch.from_numpy(np.ascontiguousarray(S.transpose(2, 0, 1)))[None]
            dictionary = torch.from_numpy(np.ascontiguousarray(self.D.squeeze(axis=3).transpose(3, 2, 0, 1)))
            codes = solve_cbpdn(dictionary, signal, lmbda, rel_tol=_REL_TOL).codes
            self.Sf = sporco.fft.rfftn(S.reshape(self.cri.shpS), None, self.cri.axisN)
            self.setcoef(codes[0].numpy().transpose(1, 2, 0).reshape(self.cri.shpX))
            self.xstep_itstat = None

    options = OnlineConvBPDNDictLearn.Options({"eta_a": step, "eta_b": _STEP_B})
    return Learner(start.transpose(2, 3, 1, 0), lmbda, options, dimK=0)


def _random_patches(signals: np.ndarray, atoms: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Unit-norm patches of the images at random places; flat ones are drawn again, and replaced by noise at last."""
    count, _, height, width = signals.shape
    patches = rng.standard_normal((atoms, 3, size, size)).astype(np.float32)
    floor = 1e-3 * np.sqrt(np.mean(signals**2) * patches[0].size)
    for patch in patches:
        for _ in range(20):
            n, i, j = rng.integers(count), rng.integers(height - size + 1), rng.integers(width - size + 1)
            drawn = signals[n, :, i : i + size, j : j + size]
            if np.linalg.norm(drawn) > floor:
                patch[:] = drawn
                break
    return patches / np.sqrt((patches**2).sum((1, 2, 3), keepdims=True))


def _unit(dictionary: torch.Tensor) -> torch.Tensor:
    return dictionary / torch.linalg.vector_norm(dictionary, dim=(1, 2, 3), keepdim=True)


def _checked(images, atoms, size, lmbda, passes) -> np.ndarray:
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise DataError(f"images: expected (N, 3, H, W) floats, got {tuple(images.shape)} in {images.dtype}")
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
    return images.detach().to("cpu", torch.float32).numpy()
