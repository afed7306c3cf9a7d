"""Distributions of clusters: those of one class by themselves, then all classes put together.

Latents → moments → covariance of every cluster → factors needs one class only, and gives ``Estimates``. Two things need
all classes: the covariance of clusters too small for one of their own, and the unit of form "ridge". ``assemble`` does
both, for latents in memory and for a fit whose classes were estimated in tasks far apart.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from raypurify.clusters.covariance import Moments, Spectrum, estimate_spectrum, moments, moments_of
from raypurify.clusters.scatter import Scatter
from raypurify.errors import DataError

_TOO_FEW = "the latents hold too few different rows for a covariance: give more images, or form='pinv'"


class Estimates(NamedTuple):
    """Distributions of k clusters, before anything is known of others.

    ``means`` (k, d), ``factors`` (k, r, d), ``rest`` (k,), ``singular`` (k,) bool, True where a cluster has no
    covariance of its own, and ``squares``: Σ‖x − μ‖² over the rows of all k.
    """

    means: np.ndarray
    factors: np.ndarray
    rest: np.ndarray
    singular: np.ndarray
    squares: float


def estimate_rows(of_cluster: Iterable[np.ndarray], form: str, rank: int) -> Estimates:
    """Estimates from the latents (n, d) of each cluster.

    >>> estimate_rows([np.array([[0.0], [2.0]])], "pinv", rank=1).factors
    array([[[1.]]])
    """
    means, samples = [], []
    for rows in of_cluster:
        means.append(rows.mean(0, dtype=np.float64))
        samples.append(moments(rows))
    return _estimate(means, samples, form, rank)


def estimate_scatters(scatters: Sequence[Scatter], form: str, rank: int) -> Estimates:
    """Estimates from the sums of each cluster, whose latents are elsewhere."""
    return _estimate([part.mean for part in scatters], [moments_of(part) for part in scatters], form, rank)


def _estimate(means: list[np.ndarray], samples: list[Moments], form: str, rank: int) -> Estimates:
    spectra = [estimate_spectrum(sample, form, rank) for sample in samples]
    nothing = Spectrum(np.empty((0, len(means[0]))), np.empty(0), 0.0)
    factors, rest = factors_of([spectrum or nothing for spectrum in spectra])
    singular = np.array([spectrum is None for spectrum in spectra])
    return Estimates(np.stack(means), factors, rest, singular, sum(sample.squares for sample in samples))


def factors_of(spectra: Sequence[Spectrum]) -> tuple[np.ndarray, np.ndarray]:
    """Factors (k, r, d), zero rows where a spectrum has fewer axes, and the rest (k,)."""
    factors = np.zeros((len(spectra), max(len(s.variances) for s in spectra), spectra[0].axes.shape[1]))
    for factor, spectrum in zip(factors, spectra):
        factor[: len(spectrum.variances)] = spectrum.axes / np.sqrt(spectrum.variances)[:, None]
    return factors, np.array([spectrum.rest**-0.5 if spectrum.rest > 0 else 0.0 for spectrum in spectra])


def common_spectrum(pooled: Scatter, everything: Callable[[], Scatter], form: str, rank: int) -> Spectrum:
    """The covariance for clusters that have none of their own: pooled within clusters, else that of all rows.

    Raises DataError where all rows are equal.
    """
    pooled_moments = moments_of(pooled)
    spectrum = estimate_spectrum(pooled_moments, form, rank) or estimate_spectrum(moments_of(everything()), form, rank)
    if spectrum is None:
        raise DataError(_TOO_FEW)
    return spectrum


def assemble(
    classes: Iterable[Estimates], sizes: np.ndarray, axes: int, common: Spectrum | None, form: str, dtype: type
) -> dict[str, np.ndarray]:
    """The state of ``ClusterDistributions`` in ``dtype``: means (K, d), factors (K, ``axes``, d), rest (K,).

    ``classes`` are looked at one after the other, ``sizes`` (K,) counts the rows of all their clusters, ``axes`` is at
    least the r of any class and of ``common``, which singular clusters get; None where no cluster is.

    Raises DataError for form "ridge" where all rows are equal.
    """
    factor, rest = factors_of([common]) if common else (np.empty((0, 0, 0)), np.empty(0))
    state: dict[str, np.ndarray] = {}
    start, squares = 0, 0.0
    for one in classes:
        if not state:
            width = one.means.shape[1]
            state = {
                "means": np.empty((len(sizes), width), dtype),
                "factors": np.zeros((len(sizes), axes, width), dtype),
                "rest": np.empty(len(sizes), dtype),
            }
        here = slice(start, start := start + len(one.means))
        state["means"][here], state["rest"][here] = one.means, one.rest
        state["factors"][here, : one.factors.shape[1]] = one.factors
        for k in np.flatnonzero(one.singular):
            state["factors"][here][k, : factor.shape[1]] = factor[0]
            state["rest"][here][k] = rest[0]
        squares += one.squares
    scale = dtype(feature_scale(form, squares, state["means"].astype(np.float64), sizes))
    state["factors"] /= scale
    state["rest"] /= scale
    return state


def feature_scale(form: str, squares: float, means: np.ndarray, sizes: np.ndarray) -> float:
    """The number that distances of a form are divided by: 1, but in form "ridge" the standard deviation of a feature
    within its cluster. ``squares`` is Σ‖x − μ‖² over all clusters of ``means`` (K, d) and ``sizes`` (K,).

    >>> feature_scale("ridge", 12.0, np.zeros((1, 3)), np.array([4]))
    1.0

    Raises DataError where all rows are equal.
    """
    if form != "ridge":
        return 1.0
    if squares <= 0:
        # No cluster has two different rows.
        squares = float(sizes @ np.square(means - np.average(means, 0, sizes)).sum(1))
    if squares <= 0:
        raise DataError(_TOO_FEW)
    return float(np.sqrt(squares / sizes.sum() / means.shape[1]))
