"""A job, an endpoint and a pipeline with a sparse front end: done where its decoder learned alone, or refused."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from small_bundles import write_front_end

import raypurify
from raypurify.bulk.job import purify
from raypurify.containers.ledger import STATE
from raypurify.errors import ConfigError
from raypurify.purifiers.batch import purify_pixels
from raypurify.ray import Purify


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number, (height, width) in enumerate([(16, 16), (21, 33)]):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_a_job_done_twice_gives_the_same_images(images, tmp_path):
    bundle = write_front_end(tmp_path / "bundle")
    for out in ("first", "second"):
        purify([str(images)], str(tmp_path / out), str(bundle), engine="local", sheet=0)
    purifier = raypurify.load(bundle)
    for name in ("0.png", "1.png"):
        first, second = (np.asarray(Image.open(tmp_path / out / name)) for out in ("first", "second"))
        assert np.array_equal(first, second)
        [(pixels, facts)] = purify_pixels(purifier, [np.asarray(Image.open(images / name))])
        assert np.array_equal(first, pixels)
    rows = pq.read_table(tmp_path / "first" / STATE / "provenance.parquet")
    assert rows["cluster"].to_pylist() == [0, 0]
    assert rows["class"].to_pylist() == [None, None]
    assert facts["distance"] == pytest.approx(rows["distance"].to_pylist()[1])


def test_one_that_learned_with_a_classifier_is_refused(images, tmp_path):
    from raypurify.serve.app import build

    bundle = str(write_front_end(tmp_path / "bundle", supervised=True))
    with pytest.raises(ConfigError, match="for the classifier that its decoder learned with alone"):
        purify([str(images)], str(tmp_path / "out"), bundle, engine="local")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="for the classifier that its decoder learned with alone"):
        build({"bundle": bundle, "no_auth": True})
    with pytest.raises(ConfigError, match="for the classifier that its decoder learned with alone"):
        Purify(bundle)
