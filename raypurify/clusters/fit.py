"""From labelled latents to means and distance factors, cluster by cluster."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from raypurify.clusters.arrays import Array, finite_rows, to_numpy
from raypurify.clusters.blocks import Block, Frame
from raypurify.clusters.covariance import Moments, Spectrum, flatten, moments, moments_of, shrink, truncate
from raypurify.clusters.lloyd import Scorer, Stack
from raypurify.clusters.scatter import Scatter, merge, scatter
from raypurify.errors import ConfigError, DataError

FORMS = ("pinv", "shrinkage", "low_rank", "ridge")
_TOO_FEW = "the latents hold too few different rows for a covariance: give more images, or form='pinv'"


def fit_distributions(latents: Array, labels: Array, form: str, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means (K, d), factors (K, r, d) and rest (K,) in float64; see ``ClusterDistributions.fit``."""
    check_form(form, rank)
    rows = finite_rows(latents)
    members = _members(labels, len(rows))
    means = np.stack([rows[rows_of].mean(0, dtype=np.float64) for rows_of in members])
    samples = [moments(rows[rows_of]) for rows_of in members]
    spectra = [estimate(sample, form, rank) for sample in samples]
    if None in spectra:
        scatters = (scatter(rows[rows_of]) for rows_of in members)
        substitute = common(within(scatters), lambda: scatter(rows), form, rank)
        spectra = [substitute if spectrum is None else spectrum for spectrum in spectra]
    factors, rest = factors_of(spectra)
    counts = np.array([sample.count for sample in samples])
    scale = unit(form, sum(squares(sample) for sample in samples), means, counts)
    return means, factors / scale, rest / scale


def check_form(form: str, rank: int) -> None:
    """Raises ConfigError for an unknown form, or a rank below 1."""
    if form not in FORMS:
        raise ConfigError(f"unknown form of cluster distribution {form!r}: choose one of {', '.join(FORMS)}")
    if rank < 1:
        raise ConfigError(f"rank={rank}: a distribution keeps at least one axis")


def estimate(sample: Moments, form: str, rank: int) -> Spectrum | None:
    """A cluster's covariance in one of the FORMS, or None where that has no inverse (see ``shrink``).

    In form "ridge" its mean variance is 1, see ``unit``; and where there is no estimate, it is the identity.
    """
    if form == "pinv":
        return sample.spectrum
    spectrum = shrink(sample)
    if form == "ridge":
        dim = sample.spectrum.axes.shape[1]
        return flatten(truncate(spectrum, rank)) if spectrum else Spectrum(np.empty((0, dim)), np.empty(0), 1.0)
    return truncate(spectrum, rank) if spectrum and form == "low_rank" else spectrum


def squares(sample: Moments) -> float:
    """Σ‖x − μ‖² of a cluster."""
    return sample.count * float(sample.spectrum.variances.sum())


def unit(form: str, within: float, means: np.ndarray, counts: np.ndarray) -> float:
    """What distances of a form are to be divided by: 1, but in form "ridge" the standard deviation of a feature within
    its cluster. ``within`` is Σ‖x − μ‖² over all clusters of ``means`` (K, d) and ``counts`` (K,)."""
    if form != "ridge":
        return 1.0
    if within <= 0:
        # No cluster has two different rows.
        within = float(counts @ np.square(means - np.average(means, 0, counts)).sum(1))
    if within <= 0:
        raise DataError(_TOO_FEW)
    return float(np.sqrt(within / counts.sum() / means.shape[1]))


class Scatters(NamedTuple):
    """The pass that gathers the moments of some clusters, block → one Scatter each, or None where it has no row.

    ``stack`` holds one run. A pass returns d² numbers for each of ``clusters``.
    """

    frame: Frame
    stack: Stack
    clusters: Sequence[int]

    def __call__(self, block: Block) -> list[Scatter | None]:
        found: list[Scatter | None] = [None] * len(self.clusters)
        scorer = Scorer(self.stack, block.latents.dtype)
        for chunk in block.chunks(self.frame):
            labels, rows = scorer.labels(chunk)[0], block.latents[chunk.of_block]
            for i, cluster in enumerate(self.clusters):
                if (of_cluster := labels == cluster).any():
                    part = scatter(rows[of_cluster])
                    found[i] = merge([found[i], part]) if found[i] else part
        return found


def within(scatters: Iterable[Scatter]) -> Scatter:
    """The sums of all clusters' rows, each about its own cluster's mean."""
    return merge(part._replace(mean=np.zeros_like(part.mean)) for part in scatters)


def common(pooled: Scatter, everything: Callable[[], Scatter], form: str, rank: int) -> Spectrum:
    """The covariance for clusters that have none of their own: pooled within clusters, else that of all rows."""
    spectrum = estimate(moments_of(pooled), form, rank) or estimate(moments_of(everything()), form, rank)
    if spectrum is None:
        raise DataError(_TOO_FEW)
    return spectrum


def factors_of(spectra: Sequence[Spectrum]) -> tuple[np.ndarray, np.ndarray]:
    """Factors (K, r, d), zero rows where a spectrum has fewer axes, and the rest (K,)."""
    factors = np.zeros((len(spectra), max(len(s.variances) for s in spectra), spectra[0].axes.shape[1]))
    for factor, spectrum in zip(factors, spectra):
        factor[: len(spectrum.variances)] = spectrum.axes / np.sqrt(spectrum.variances)[:, None]
    return factors, np.array([spectrum.rest**-0.5 if spectrum.rest > 0 else 0.0 for spectrum in spectra])


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
