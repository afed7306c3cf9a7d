"""Reading images, the order of an epoch, labels that cannot be trained with."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypurify.errors import DataError, SourceError
from raypurify.fit.units import cut_units, prepared_files, read_tables
from raypurify.storage import resolve
from raypurify.training import epoch_order
from raypurify.training.data import TRAIN, VALIDATION, clusters_of, count_classes, read_part, read_set
from raypurify.training.order import some_of

SIDE = 8


def pixels(rows) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (100, 3, SIDE, SIDE), np.uint8)[rows]


def table(rows) -> pa.Table:
    images = pa.array([image.tobytes() for image in pixels(rows)], pa.binary(3 * SIDE * SIDE))
    columns = {"row": np.array(rows, np.int64), "id": list(map(str, rows)), "label": [row % 2 for row in rows]}
    return pa.table(columns | {"image": images})


@pytest.fixture
def prepared(tmp_path):
    """Two shuffled training files and a validation file, as ``prepare`` writes them."""
    for name, rows in {f"{TRAIN}/b": [5, 2, 9], f"{TRAIN}/a": [0, 7], f"{VALIDATION}/c": [4, 3]}.items():
        path = tmp_path / "prepare" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table(rows), path)
    return tmp_path / "prepare"


def test_an_epoch_visits_every_image_once_in_an_order_of_its_own():
    first, second = epoch_order(100, 0, seed=4), epoch_order(100, 1, seed=4)
    assert sorted(first) == sorted(second) == list(range(100))
    assert (first != second).any()
    assert (first == epoch_order(100, 0, seed=4)).all()
    assert (first != epoch_order(100, 0, seed=5)).any()


@pytest.mark.parametrize("world", [2, 3, 4])
def test_a_step_sees_the_same_images_whatever_the_number_of_workers(world):
    whole, batch = epoch_order(100, 3), 12
    shares = [epoch_order(100, 3, rank=rank, world=world) for rank in range(world)]
    assert {len(share) for share in shares} == {100 // world}
    own = batch // world
    for step in range(100 // batch):
        seen = np.concatenate([share[step * own : (step + 1) * own] for share in shares])
        assert set(seen) == set(whole[step * batch : (step + 1) * batch])


def test_held_out_images_are_chosen_over_all_rows():
    chosen = some_of(10_000, 100, seed=1)
    assert len(set(chosen)) == 100
    assert (np.diff(chosen) > 0).all()
    assert chosen.min() < 1000 < 9000 < chosen.max()


def test_a_prepared_folder_is_read_in_the_order_of_its_rows(prepared):
    images = read_set([prepared], SIDE)
    assert images.rows.tolist() == [0, 2, 5, 7, 9]
    assert images.labels.tolist() == [0, 0, 1, 1, 1]
    assert (images.images == pixels([0, 2, 5, 7, 9])).all()
    assert read_set([prepared], SIDE, VALIDATION).rows.tolist() == [3, 4]
    files = sorted((prepared / TRAIN).glob("*.parquet"))
    assert (read_set(files, SIDE).images == images.images).all()


@pytest.mark.parametrize("last", [False, True])
def test_npz_files_are_read_with_channels_first_or_last(tmp_path, last):
    images = pixels(range(6))
    for name, part in {"a": slice(0, 4), "b": slice(4, 6)}.items():
        some = images[part].transpose(0, 2, 3, 1) if last else images[part]
        np.savez(tmp_path / f"{name}.npz", images=some, labels=np.arange(6)[part] % 2)
    read = read_set([tmp_path / "a.npz", tmp_path / "b.npz"], SIDE)
    assert read.rows.tolist() == list(range(6))
    assert (read.images == images).all()


def test_batches_keep_images_labels_and_clusters_together(prepared):
    images = read_set([prepared], SIDE)
    (first, second) = images.batches(np.array([4, 0, 2]), 2, clusters=np.array([10, 11, 12, 13, 14]))
    assert (first.images.numpy() == pixels([9, 0])).all()
    assert (first.labels.tolist(), first.clusters.tolist()) == ([1, 0], [14, 10])
    assert (second.labels.tolist(), second.clusters.tolist()) == ([1], [12])


def test_images_that_cannot_be_read_are_named(tmp_path, prepared):
    (tmp_path / "bad.npz").write_bytes(b"no zip")
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    np.savez(tmp_path / "lacks.npz", labels=np.arange(3))
    np.savez(tmp_path / "objects.npz", images=np.array([None]), labels=np.arange(1))
    for name in ("bad.npz", "bad.parquet", "lacks.npz", "objects.npz", "missing.npz", "missing"):
        with pytest.raises(SourceError, match=f"cannot read images from .*{name}"):
            read_set([tmp_path / name], SIDE)
    pq.write_table(pa.table({"row": [1], "label": [0]}), tmp_path / "columns.parquet")
    with pytest.raises(SourceError, match="columns"):
        read_set([tmp_path / "columns.parquet"], SIDE)


@pytest.mark.parametrize("labels", [[0.0, 1.5], [0.0, np.nan], ["0", "cat"]])
def test_labels_that_are_no_whole_numbers_are_refused(tmp_path, labels):
    images, wrong = np.zeros((2, 3, 8, 8), np.uint8), labels[0] if isinstance(labels[0], str) else labels[1]
    np.savez(tmp_path / "set.npz", images=images, labels=np.array(labels))
    pixels = pa.array([one.tobytes() for one in images], pa.binary(192))
    pq.write_table(pa.table({"row": [0, 1], "label": labels, "image": pixels}), tmp_path / "set.parquet")
    for file in ("set.npz", "set.parquet"):
        with pytest.raises(DataError, match=rf"{file}: label {wrong} of image [01] is no whole number; give one"):
            read_set([tmp_path / file], 8)


def test_images_of_another_shape_are_refused(tmp_path, prepared):
    with pytest.raises(DataError, match=r"not the 768 raw bytes of a 16×16 image.*data\.image_size"):
        read_set([prepared], 16)
    encoded = table([0]).set_column(3, "image", pa.array([b"\x89PNG"]))
    pq.write_table(encoded, tmp_path / "encoded.parquet")
    with pytest.raises(DataError, match="holds binary"):
        read_set([tmp_path / "encoded.parquet"], SIDE)
    np.savez(tmp_path / "floats.npz", images=pixels([0]) / 255, labels=np.zeros(1))
    with pytest.raises(DataError, match="float64"):
        read_set([tmp_path / "floats.npz"], SIDE)
    with pytest.raises(DataError, match="row 0 comes twice"):
        read_set([prepared, *(prepared / TRAIN).glob("a.parquet")], SIDE)
    np.savez(tmp_path / "none.npz", images=pixels([]), labels=np.zeros(0))
    with pytest.raises(DataError, match="no images"):
        read_set([tmp_path / "none.npz"], SIDE)


@pytest.mark.parametrize(
    ("labels", "held_out", "message"),
    [
        ([0, 0, 2, 2], [0], "class 1 has no training image"),
        ([0, 1, 10**9], [0], "class 2 has no training image"),
        ([0, 0], [0], "all images are of one class"),
        ([0, 1], [2], "label 2 of a held-out image is out of range: there are 2 classes"),
        ([0, -1], [0], "label -1"),
    ],
)
def test_labels_that_cannot_be_trained_with_are_named(labels, held_out, message):
    with pytest.raises(DataError, match=message):
        count_classes(np.array(labels), np.array(held_out))


def test_classes_are_counted():
    assert count_classes(np.array([2, 0, 1, 1]), np.array([1])) == 3


def test_a_training_image_without_a_cluster_is_named():
    for rows in ([0, 1, 2], [0, 3], [-1]):
        with pytest.raises(DataError, match=f"the first is row {rows[-1]}"):
            clusters_of(np.array(rows), np.array([1, 0, -1]), 2)
    with pytest.raises(DataError, match="row 0"):
        clusters_of(np.array([0]), np.array([5]), 2)


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped"])
def test_a_damaged_prepared_file_is_named_with_what_to_do(tmp_path, damage):
    folder = tmp_path / "prepare" / TRAIN
    folder.mkdir(parents=True)
    for number in range(2):
        rows = np.arange(200 * number, 200 * (number + 1))
        images = [np.random.default_rng(row).bytes(48) for row in rows]
        columns = {"row": rows, "id": rows.astype(str), "label": rows % 2, "image": pa.array(images, pa.binary(48))}
        pq.write_table(pa.table(columns), folder / f"{number}.parquet")
    file = folder / "1.parquet"
    data = file.read_bytes()
    held = {"empty": b"", "cut": data[:-100], "flipped": data[:4] + bytes(len(data) // 2) + data[4 + len(data) // 2 :]}
    file.write_bytes(held[damage])
    with pytest.raises(
        SourceError, match=rf"cannot read images from {file}: .*; get it again, or .* delete the folder"
    ):
        read_set([tmp_path / "prepare"], 4)
    told = rf"{file}: cannot be read: .*; where it is damaged, delete the folder of the stage that wrote it"
    with pytest.raises(SourceError, match=told):
        read_part(tmp_path / "prepare", TRAIN)
    with pytest.raises(SourceError, match=told):
        [len(part) for unit in cut_units(prepared_files(resolve(folder)), 100) for part in read_tables(unit, 50)]
