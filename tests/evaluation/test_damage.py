"""Damaged files of an evaluation, another one at work in its folder, and classes that are numbered otherwise."""

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load, save

from raypurify.errors import ConfigError, DataError, SinkError
from raypurify.evaluation.attacked import _digest, read_attacked
from raypurify.evaluation.cells import COLUMNS, read_columns
from raypurify.evaluation.grid import load_grid
from raypurify.evaluation.run import _check_names, evaluate
from raypurify.runtime.stages import open_run
from raypurify.storage import resolve


@pytest.fixture
def grid(tmp_path):
    (tmp_path / "in").mkdir()
    classifiers = {"net": {"kind": "bundle", "path": "cifar10"}}
    attacks = {"clean": {"attack": "clean"}}
    return load_grid({"images": {"paths": str(tmp_path / "in")}, "classifiers": classifiers, "attacks": attacks})


def test_attacked_images_that_are_damaged_are_missing(tmp_path):
    place = resolve(tmp_path / "a.safetensors")
    images = torch.arange(24, dtype=torch.uint8).view(2, 3, 2, 2)
    assert read_attacked(place) is None
    for data in (b"", b"garbage", save({"images": images}), save({"images": images}, {"sha256": "0"})):
        place.write(data)
        assert read_attacked(place) is None
    whole = save({"images": images}, {"sha256": _digest(images)})
    place.write(whole)
    assert torch.equal(read_attacked(place), images / 255)
    place.write(whole[:-1] + bytes([255 - whole[-1]]))
    assert load(place.read())["images"].shape == images.shape
    assert read_attacked(place) is None


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b""], ids=["cut", "empty"])
def test_a_cell_that_is_damaged_is_named(tmp_path, damage):
    file = tmp_path / "cell.parquet"
    pq.write_table(COLUMNS.with_metadata({"seconds": "1", "done": ""}).empty_table(), file)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match=r"cell\.parquet: .*delete it"):
        read_columns([resolve(file)])


def test_of_two_evaluations_in_one_folder_the_second_is_refused(grid, tmp_path):
    with open_run(tmp_path / "out"), pytest.raises(SinkError, match="out"):
        evaluate(grid, tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="file"):
        evaluate(grid, tmp_path / "file")


def test_a_class_under_another_number_than_the_bundles_is_refused(grid):
    names = ("airplane", "automobile", "bird", "cat")
    _check_names(grid, names)
    _check_names(grid, ("cats", "dogs"))  # nobody can tell
    with pytest.raises(ConfigError, match="class 'cat' is number 0 of the images and number 3 of classifier 'net'"):
        _check_names(grid, ("cat", "ship"))
