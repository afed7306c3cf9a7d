"""Covariance estimates in the form the Mahalanobis distance needs: leading axes, their variances, and the rest.

All of it runs in float64. With one cluster's centred latents X (n, d), the sample covariance is S = XᵀX / n (RSFP
section III-C writes the expectation, hence 1/n), with eigenvalues λ_i and mean eigenvalue m = tr(S) / d.
"""

from typing import NamedTuple

import numpy as np

from raypurify.clusters.scatter import Scatter, scatter

FORMS = ("pinv", "shrinkage", "low_rank", "ridge")
# Latents are float32: standard deviations below this share of the largest entry are rounding.
_RESOLUTION = float(np.finfo(np.float32).eps)
# How much of identity is mixed in: 0.75 to 0.9 are equally good in docs/algorithm.md's table of forms.
_RIDGE = 0.75


class Spectrum(NamedTuple):
    """A covariance matrix UᵀΛU + rest·(I − UᵀU): orthonormal axes U (r, d), variances (r,) descending, and the rest."""

    axes: np.ndarray
    variances: np.ndarray
    rest: float


class Moments(NamedTuple):
    """Moments of n centred rows x as Ledoit–Wolf needs them: S through its spectrum (rest 0), Σ‖x‖⁴, and n."""

    spectrum: Spectrum
    fourth: float
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs

    @property
    def squares(self) -> float:
        """Σ‖x‖², the trace of n·S."""
        return self.count * float(self.spectrum.variances.sum())


def moments(rows: np.ndarray) -> Moments:
    """Moments of the rows (n, d) of one cluster, whose mean need not be 0."""
    count, dim = rows.shape
    if count > dim:
        return moments_of(scatter(rows))
    # The short side of the data, when it is short: no d × d matrix for a small cluster.
    centred = rows - rows.mean(0, dtype=np.float64)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    fourth = float((np.square(centred).sum(1) ** 2).sum())
    return Moments(_significant(axes, singular**2 / count, count, float(np.abs(rows).max())), fourth, count)


def moments_of(sums: Scatter) -> Moments:
    """Moments of rows that are known by their sums only."""
    variances, axes = np.linalg.eigh(sums.second / sums.count)
    spectrum = _significant(axes.T[::-1], variances[::-1], sums.count, sums.largest)
    return Moments(spectrum, sums.fourth, sums.count)


def _significant(axes: np.ndarray, variances: np.ndarray, count: int, largest: float) -> Spectrum:
    """Axes and variances, directions of no variance left out.

    A direction counts as having none when its variance is at most max(n, d)·ε of the largest (the usual cut of a
    Moore–Penrose inverse in float64) or below the square of the float32 step at the largest entry of the rows.
    """
    floor = max(max(count, axes.shape[1]) * np.finfo(np.float64).eps * variances[0], (_RESOLUTION * largest) ** 2)
    rank = int((variances > floor).sum())
    return Spectrum(axes[:rank], variances[:rank], 0.0)


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


def flatten(spectrum: Spectrum) -> Spectrum:
    """The covariance scaled to mean variance 1 and mixed with identity: (1 − γ) Σ / m + γ I, m = tr(Σ) / d.

    Friedman, "Regularized discriminant analysis" (J. American Statistical Association 84, 1989), equation 18, with γ =
    0.75. All clusters then have one size, so that a wide one is not near to everything, and directions of little
    variance do not decide.
    """
    axes, variances, rest = spectrum
    dim = axes.shape[1]
    mean = (float(variances.sum()) + rest * (dim - len(variances))) / dim
    share = (1 - _RIDGE) / mean
    return Spectrum(axes, share * variances + _RIDGE, share * rest + _RIDGE)


def estimate_spectrum(sample: Moments, form: str, rank: int) -> Spectrum | None:
    """The covariance of one cluster in one of the FORMS, or None where that has no inverse (see ``shrink``).

    ``rank`` is how many axes "low_rank" and "ridge" keep. In form "ridge" the mean variance is 1 (distances are scaled
    when all clusters are known), and where there is no estimate, it is the identity.
    """
    if form == "pinv":
        return sample.spectrum
    spectrum = shrink(sample)
    if form == "ridge":
        dim = sample.spectrum.axes.shape[1]
        return flatten(truncate(spectrum, rank)) if spectrum else Spectrum(np.empty((0, dim)), np.empty(0), 1.0)
    return truncate(spectrum, rank) if spectrum and form == "low_rank" else spectrum
