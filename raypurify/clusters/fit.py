"""From labelled latents to means and distance factors, cluster by cluster."""

import numpy as np

from raypurify.clusters.arrays import Array, finite_rows, to_numpy
from raypurify.clusters.covariance import Moments, Spectrum, moments, resolution_of, shrink, spectrum_of, truncate
from raypurify.errors import ConfigError, DataError

FORMS = ("pinv", "shrinkage", "low_rank")


def fit_distributions(latents: Array, labels: Array, form: str, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means (K, d), factors (K, r, d) and rest (K,) in float64; see ``ClusterDistributions.fit``."""
    if form not in FORMS:
        raise ConfigError(f"unknown form of cluster distribution {form!r}: choose one of {', '.join(FORMS)}")
    if form == "low_rank" and rank < 1:
        raise ConfigError(f"rank={rank}: a low-rank distribution keeps at least one axis")
    rows = finite_rows(latents)
    members = _members(labels, len(rows))
    resolution = resolution_of(rows)
    means = np.stack([rows[rows_of].mean(0, dtype=np.float64) for rows_of in members])
    samples = (moments(rows[rows_of] - mean, resolution) for rows_of, mean in zip(members, means))
    if form == "pinv":
        spectra: list[Spectrum | None] = [sample.spectrum for sample in samples]
    else:
        spectra = [shrink(sample) for sample in samples]
        if None in spectra:
            common = _common(rows, members, means, resolution)
            spectra = [common if spectrum is None else spectrum for spectrum in spectra]
        if form == "low_rank":
            spectra = [truncate(spectrum, rank) for spectrum in spectra]
    factors = np.zeros((len(members), max(len(spectrum.variances) for spectrum in spectra), rows.shape[1]))
    for factor, spectrum in zip(factors, spectra):
        factor[: len(spectrum.variances)] = spectrum.axes / np.sqrt(spectrum.variances)[:, None]
    rest = np.array([spectrum.rest**-0.5 if spectrum.rest > 0 else 0.0 for spectrum in spectra])
    return means, factors, rest


def _members(labels: Array, count: int) -> list[np.ndarray]:
    """The row numbers of every cluster, or DataError."""
    labels = to_numpy(labels)
    if labels.shape != (count,):
        raise DataError(f"labels have shape {labels.shape}: expected ({count},), one cluster per latent")
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"labels have dtype {labels.dtype}: expected integers from 0")
    if labels.min() < 0:
        raise DataError(f"label {labels.min()} at row {labels.argmin()}: clusters are numbered from 0")
    # Before anything as long as the largest label is made: one wild label must not exhaust the memory.
    used = np.unique(labels)
    if used[-1] != len(used) - 1:
        empty = int(np.flatnonzero(used != np.arange(len(used)))[0])
        raise DataError(f"cluster {empty} is empty (labels reach {used[-1]}): renumber the clusters without gaps")
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.searchsorted(labels[order], used[1:]))


def _common(rows: np.ndarray, members: list[np.ndarray], means: np.ndarray, resolution: float) -> Spectrum:
    """The covariance for clusters that have none of their own: pooled within clusters, else that of all rows."""
    pooled = shrink(_pooled_moments(rows, members, means, resolution))
    if pooled is None:
        pooled = shrink(moments(rows - rows.mean(0, dtype=np.float64), resolution))
    if pooled is None:
        raise DataError("the latents hold too few different rows for a covariance: give more images, or form='pinv'")
    return pooled


def _pooled_moments(rows: np.ndarray, members: list[np.ndarray], means: np.ndarray, resolution: float) -> Moments:
    # Summed cluster by cluster: the centred copy of all rows in float64 may not fit.
    dim = rows.shape[1]
    second, fourth = np.zeros((dim, dim)), 0.0
    for rows_of, mean in zip(members, means):
        centred = rows[rows_of] - mean
        second += centred.T @ centred
        fourth += float(((centred**2).sum(1) ** 2).sum())
    return Moments(spectrum_of(second / len(rows), len(rows), resolution), fourth, len(rows))
