"""Covariance estimates in the form the Mahalanobis distance needs: leading axes, their variances, and the rest.

All of it runs in float64 on one cluster's centred latents X (n, d). The sample covariance is S = XᵀX / n (RSFP section
III-C writes the expectation, hence 1/n), with eigenvalues λ_i and mean eigenvalue m = tr(S) / d.
"""

from typing import NamedTuple

import numpy as np

# Latents are float32: standard deviations below this share of the largest entry are rounding.
_RESOLUTION = float(np.finfo(np.float32).eps)


class Spectrum(NamedTuple):
    """A covariance matrix UᵀΛU + rest·(I − UᵀU): orthonormal axes U (r, d), variances (r,) descending, and the rest."""

    axes: np.ndarray
    variances: np.ndarray
    rest: float


class Moments(NamedTuple):
    """What Ledoit–Wolf needs to know of n centred rows: S through its spectrum (rest 0), Σ‖x‖⁴, and n."""

    spectrum: Spectrum
    fourth: float
    count: int


def moments(centred: np.ndarray, resolution: float) -> Moments:
    """Moments of centred rows (n, d); ``resolution`` as in ``spectrum_of``."""
    count, dim = centred.shape
    fourth = float(((centred**2).sum(1) ** 2).sum())
    if count > dim:
        return Moments(spectrum_of(centred.T @ centred / count, count, resolution), fourth, count)
    # The short side of the data, when it is short: no d × d matrix for a small cluster.
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    return Moments(_significant(axes, singular**2 / count, count, resolution), fourth, count)


def spectrum_of(covariance: np.ndarray, count: int, resolution: float) -> Spectrum:
    """Axes and variances of a sample covariance (d, d) of ``count`` rows, directions of no variance left out.

    A direction counts as having none when its variance is at most max(n, d)·ε of the largest (the usual cut of a
    Moore–Penrose inverse in float64) or below the square of ``resolution``, the float32 step of the latents.
    """
    variances, axes = np.linalg.eigh(covariance)
    return _significant(axes.T[::-1], variances[::-1], count, resolution)


def _significant(axes: np.ndarray, variances: np.ndarray, count: int, resolution: float) -> Spectrum:
    floor = max(max(count, axes.shape[1]) * np.finfo(np.float64).eps * variances[0], resolution**2)
    rank = int((variances > floor).sum())
    return Spectrum(axes[:rank], variances[:rank], 0.0)


def resolution_of(latents: np.ndarray) -> float:
    """The step of float32 at the largest entry of ``latents``."""
    return _RESOLUTION * float(np.abs(latents).max())


def shrinkage_intensity(sample: Moments, dim: int) -> float:
    """Ledoit & Wolf's s in [0, 1] (J. Multivariate Analysis 88, 2004): s = b²/δ² towards m·I.

    With δ² = ‖S − mI‖² and b² = min(δ², (Σ‖x‖⁴ − n‖S‖²) / n²), in Frobenius norms.
    """
    variances, n = sample.spectrum.variances, sample.count
    squared = float((variances**2).sum())
    spread = squared - float(variances.sum()) ** 2 / dim
    # A spread at rounding level: S is m·I already, and so is every mixture of the two.
    if spread <= 1e-14 * squared:
        return 0.0
    noise = (sample.fourth - n * squared) / n**2
    return min(max(noise / spread, 0.0), 1.0)


def shrink(sample: Moments) -> Spectrum | None:
    """The Ledoit–Wolf estimate (1 − s)S + s·m·I, equal to scikit-learn's; None where it cannot be inverted.

    That is the case for one row (S = 0), for two (always s = 0), and for rows that are all equal.
    """
    axes, variances, _ = sample.spectrum
    dim = axes.shape[1]
    s = shrinkage_intensity(sample, dim)
    rest = s * float(variances.sum()) / dim
    full = len(variances) == dim
    if not full and not (len(variances) and rest > _RESOLUTION * variances[0]):
        return None
    return Spectrum(axes, (1 - s) * variances + rest, 0.0 if full else rest)


def truncate(spectrum: Spectrum, rank: int) -> Spectrum:
    """The ``rank`` leading axes, and the mean of the other variances for the rest: probabilistic PCA.

    Tipping & Bishop (J. Royal Statistical Society B 61, 1999) equations 7–8. The trace stays.
    """
    axes, variances, rest = spectrum
    dim = axes.shape[1]
    if rank >= len(variances):
        return spectrum
    left = float(variances[rank:].sum()) + rest * (dim - len(variances))
    return Spectrum(axes[:rank], variances[:rank], left / (dim - rank))
