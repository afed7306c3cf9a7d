"""The files of clusters come back as they were, and what is damaged is named."""

import numpy as np
import pytest

from raypurify.clusters import ClusterDistributions
from raypurify.clusters.blocks import Block
from raypurify.clusters.class_clusters import cluster_class
from raypurify.clusters.files import (
    DISTRIBUTIONS,
    FACTS,
    OF_ROW,
    load_clusters,
    load_labels,
    read_estimates,
    read_labels,
    read_sums,
    write_class,
    write_clusters,
)
from raypurify.clusters.fit import fit_distributions
from raypurify.config import ClusterSettings
from raypurify.errors import SourceError, TrainingError
from raypurify.storage import resolve


@pytest.fixture
def latents() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(3, 6))[np.arange(60) % 3] * 9 + rng.normal(size=(60, 6))).astype(np.float32)


@pytest.mark.parametrize("cuts", [[], [7, 31]])
def test_the_clusters_of_a_class_come_back(tmp_path, latents, cuts):
    blocks = [Block(latents[part], 5 * part) for part in np.split(np.arange(60), cuts)]
    whole = None if cuts else blocks[0]
    found = cluster_class(lambda look: map(look, blocks), whole, 60, ClusterSettings(k_max=4), seed=0)
    file = resolve(tmp_path / "class.safetensors")
    write_class(file, found)
    labels, estimates = read_labels(file), read_estimates(file)
    assert labels.rows.tolist() == list(range(0, 300, 5))
    assert (labels.labels == found.labels).all()
    assert labels.curve == dict(zip([1, 2, 3, 4], found.curve))
    clusters, axes, _ = found.estimates.factors.shape
    assert (labels.clusters, labels.axes, labels.singular) == (clusters, axes, False)
    assert clusters == labels.labels.max() + 1 > 1
    for name in ("means", "factors", "rest"):
        assert (getattr(estimates, name) == getattr(found.estimates, name).astype(np.float32)).all()
    assert estimates.squares == found.estimates.squares
    sums = read_sums(file)
    assert (sums is None) == (not cuts)
    if sums:
        for one, other in zip([*sums.within, *sums.total], [*found.sums.within, *found.sums.total]):
            np.testing.assert_array_equal(one, other)


def test_the_clusters_of_all_classes_come_back(tmp_path, latents):
    of_row = np.arange(60) % 3
    state = {name: part.astype(np.float32) for name, part in fit_distributions(latents, of_row, "ridge", 64).items()}
    write_clusters(tmp_path, "ridge", state, of_row, [0, 0, 1], np.bincount(of_row), [{1: 0.5}])
    distributions, read = load_clusters(tmp_path)
    assert (read == of_row).all()
    assert (distributions.distance(latents) == ClusterDistributions.fit(latents, of_row).distance(latents)).all()


def test_clusters_that_cannot_be_read_are_named(tmp_path, latents):
    with pytest.raises(TrainingError, match=f"cannot read the clusters in {tmp_path}"):
        load_clusters(tmp_path)
    (tmp_path / FACTS).write_text("[]")
    with pytest.raises(TrainingError, match="cannot read the clusters"):
        load_clusters(tmp_path)
    (tmp_path / FACTS).write_text('{"form": "ridge"}')
    (tmp_path / DISTRIBUTIONS).write_bytes(b"no tensors")
    with pytest.raises(TrainingError, match="cannot read the clusters"):
        load_clusters(tmp_path)


@pytest.mark.parametrize("held", [b"", b"garbage", b"PK\x03\x04xx"])
def test_damaged_labels_are_named_without_advice_to_load_them_unsafely(tmp_path, held):
    (tmp_path / OF_ROW).write_bytes(held)
    with pytest.raises(
        TrainingError, match=rf"cannot read the clusters in {tmp_path}/{OF_ROW}: .*fit again"
    ) as refused:
        load_labels(tmp_path)
    assert "allow_pickle" not in str(refused.value)


@pytest.mark.parametrize("read", [read_labels, read_estimates, read_sums])
def test_a_damaged_file_of_a_class_is_named(tmp_path, read):
    file = resolve(tmp_path / "class-00000.safetensors")
    file.write(b"no tensors")
    with pytest.raises(SourceError, match=f"{file}: cannot be read: .*delete the folder of the stage"):
        read(file)
