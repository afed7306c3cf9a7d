"""The clusters that robust training pulls to, as the clusters stage of a fit wrote them."""

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file

from raypurify.clusters import ClusterDistributions
from raypurify.errors import DataError, TrainingError


def load_clusters(folder: Path) -> tuple[ClusterDistributions, np.ndarray]:
    """Distributions, and the global cluster index of every source row (-1: not a training image).

    Raises TrainingError naming the folder where a file is missing or damaged.
    """
    try:
        form = json.loads((folder / "clusters.json").read_text("utf-8"))["form"]
        state = load_file(folder / "distributions.safetensors")
        cluster_of_row = np.load(folder / "cluster_of_row.npy", allow_pickle=False)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as e:
        raise TrainingError(f"cannot read the clusters in {folder}: {e}; give the clusters folder of a fit") from e
    return ClusterDistributions.from_state(state, form=form), cluster_of_row


def clusters_of(rows: np.ndarray, cluster_of_row: np.ndarray, clusters: int) -> np.ndarray:
    """The cluster (N,) of each row (N,). Raises DataError for a row without one: the clusters are of other images.

    >>> clusters_of(np.array([2, 0]), np.array([1, -1, 0]), clusters=2)
    array([0, 1])
    """
    known = (rows >= 0) & (rows < len(cluster_of_row))
    own = np.where(known, cluster_of_row[np.where(known, rows, 0)], -1)
    wrong = np.flatnonzero((own < 0) | (own >= clusters))
    if len(wrong):
        raise DataError(
            f"{len(wrong)} training images have no cluster, the first is row {rows[wrong[0]]}: "
            "train on the images that the clusters were made of"
        )
    return own
