"""The distributions of labelled latents in memory."""

import numpy as np

from raypurify.clusters.arrays import Array, finite_rows, to_numpy
from raypurify.clusters.covariance import FORMS
from raypurify.clusters.estimates import assemble, common_spectrum, estimate_rows
from raypurify.clusters.scatter import pooled_within, scatter
from raypurify.errors import ConfigError, DataError


def fit_distributions(latents: Array, labels: Array, form: str, rank: int) -> dict[str, np.ndarray]:
    """The state of ``ClusterDistributions`` in float64, as ``ClusterDistributions.fit`` describes it: ``means`` (K, d),
    ``factors`` (K, r, d), ``rest`` (K,)."""
    check_form(form, rank)
    rows = finite_rows(latents)
    members = _members(labels, len(rows))
    found, common = estimate_rows((rows[rows_of] for rows_of in members), form, rank), None
    axes = found.factors.shape[1]
    if found.singular.any():
        pooled = pooled_within(scatter(rows[rows_of]) for rows_of in members)
        common = common_spectrum(pooled, lambda: scatter(rows), form, rank)
        axes = max(axes, len(common.variances))
    return assemble([found], np.array(list(map(len, members))), axes, common, form, np.float64)


def check_form(form: str, rank: int) -> None:
    """Raises ConfigError for an unknown form, or a rank below 1."""
    if form not in FORMS:
        raise ConfigError(f"unknown form of cluster distribution {form!r}: choose one of {', '.join(FORMS)}")
    if rank < 1:
        raise ConfigError(f"rank={rank}: a distribution keeps at least one axis")


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
