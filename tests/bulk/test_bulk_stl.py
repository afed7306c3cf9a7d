"""Bulk purification with a bundle of stl, fitted here: in one process and by actors, and what provenance says."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import raypurify
from raypurify.bulk.job import purify
from raypurify.images import decode_image, to_float


@pytest.fixture(scope="module")
def purified(local_ray, small_set, small_stl_run, tmp_path_factory):
    """The folder of either engine's output, by its name."""
    out = tmp_path_factory.mktemp("bulk-stl")
    for engine in ("local", "actors"):
        summary = purify([str(small_set / "across")], str(out / engine), str(small_stl_run / "bundle"), engine=engine)
        assert (summary.written, summary.failed) == (48, 0)
    return out


def provenance(folder: Path) -> list[dict]:
    return pq.read_table(folder / "_raypurify" / "provenance.parquet").to_pylist()


def test_both_engines_write_the_same_images_and_provenance(purified):
    names = sorted(path.name for path in (purified / "local").glob("*.png"))
    assert len(names) == 48
    for name in names:
        assert (purified / "local" / name).read_bytes() == (purified / "actors" / name).read_bytes()
    assert provenance(purified / "local") == provenance(purified / "actors")


def test_provenance_holds_the_stratum_no_class_and_the_distance_of_the_vote(purified, small_set, small_stl_run):
    rows = provenance(purified / "local")
    pixels = [to_float(decode_image((small_set / "across" / row["id"]).read_bytes()).pixels) for row in rows]
    purifier = raypurify.load(str(small_stl_run / "bundle"))
    cluster, distance = purifier.choose(torch.from_numpy(np.stack(pixels)))
    assert [row["cluster"] for row in rows] == cluster.tolist()
    assert np.allclose([row["distance"] for row in rows], distance, rtol=1e-3)
    threshold = purifier.bundle.manifest.calibration.distance_threshold
    assert {row["class"] for row in rows} == {None}
    assert {row["bundle"] for row in rows} == {purifier.digest}
    assert all(row["flagged"] == (row["distance"] > threshold) for row in rows)
    assert all(0 < row["relative_change"] < 1 and row["iterations"] > 0 for row in rows)
