import json
import os
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_images import encode, pixels

from raypurify.containers.source import open_source, read_shard
from raypurify.errors import SourceError

PNG = encode(pixels())


def put(root, *names, data=PNG):
    for name in names:
        path = os.path.join(os.fsencode(root), name if isinstance(name, bytes) else os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)


def rows_of(source):
    return [row for shard in source.shards for row in read_shard(shard)]


def table(count, first=0, **columns):
    return pa.table({"image": pa.array([PNG + bytes([first + i]) for i in range(count)], pa.binary()), **columns})


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path):
    put(
        tmp_path,
        "b.JPG",
        "a/2.png",
        "a/10.png",
        "Z.webp",
        "é.png",
        "notes.txt",
        "a/list.csv",
        ".hidden.png",
        ".git/x.png",
    )
    source = open_source(tmp_path, shard_rows=2)
    assert (source.kind, source.rows, source.ignored, source.classes) == (
        "folder",
        5,
        {".csv files": 1, ".txt files": 1, "hidden names": 2},
        None,
    )
    assert [shard.name for shard in source.shards] == ["part-00000", "part-00001", "part-00002"]
    rows = rows_of(source)
    assert [row.id for row in rows] == ["Z.webp", "a/10.png", "a/2.png", "b.JPG", "é.png"]
    assert [row.row for row in rows] == [0, 1, 2, 3, 4]
    assert all(row.data == PNG and row.error is None and row.label is None for row in rows)


def test_first_level_folders_are_classes_when_every_image_has_one(tmp_path):
    put(tmp_path, "dog/1.png", "cat/deep/er/1.png", "cat/2.png")
    source = open_source(tmp_path)
    assert source.classes == ("cat", "dog")
    assert [(row.id, row.label) for row in rows_of(source)] == [
        ("cat/2.png", 0),
        ("cat/deep/er/1.png", 0),
        ("dog/1.png", 1),
    ]
    put(tmp_path, "loose.png")
    assert open_source(tmp_path).classes is None


def test_a_list_of_files_and_folders_is_one_folder(tmp_path):
    put(tmp_path, "x/a/1.png", "x/b/2.png", "x/b/3.png", "y/4.png")
    listed = [tmp_path / "x/b", tmp_path / "x/a/1.png", tmp_path / "x/b/2.png"]
    assert [row.id for row in rows_of(open_source(listed))] == ["a/1.png", "b/2.png", "b/3.png"]
    assert [row.id for row in rows_of(open_source(tmp_path / "y/4.png"))] == ["4.png"]


def test_names_that_are_not_utf8_are_percent_encoded(tmp_path):
    put(tmp_path, b"caf\xe9/100%.png", b"plain%.png")
    source = open_source(tmp_path)
    rows = [row for shard in source.shards for row in read_shard(pickle.loads(pickle.dumps(shard)))]
    assert [row.id for row in rows] == ["caf%E9/100%25.png", "plain%.png"]
    assert all(row.data == PNG for row in rows)
    put(tmp_path, b"caf%E9/100%25.png")
    with pytest.raises(SourceError, match="two file names give the id caf%E9/100%25"):
        open_source(tmp_path)


def test_a_file_that_cannot_be_read_is_a_row_with_an_error(tmp_path):
    root = tmp_path / "in"
    put(root, "a.png", "gone.png")
    put(root, "none.png", data=b"")
    put(tmp_path, "outside.png", "outside/1.png")
    os.symlink(tmp_path / "outside.png", root / "link.png")
    os.symlink("nowhere.png", root / "dangling.png")
    os.symlink("a.png", root / "inner.png")
    os.symlink(tmp_path / "outside", root / "folder")
    os.mkfifo(root / "pipe.png")
    source = open_source(root)
    os.remove(root / "gone.png")
    errors = {row.id: row.error.reason for row in rows_of(source) if row.error}
    assert errors == {
        "dangling.png": "unreadable",
        "gone.png": "unreadable",
        "link.png": "unreadable",
        "none.png": "empty",
    }
    assert [row.id for row in rows_of(source) if row.data] == ["a.png", "inner.png"]
    assert source.ignored == {"devices and pipes": 1, "links to folders": 1}


def test_the_digest_follows_names_and_sizes_not_the_place(tmp_path):
    put(tmp_path / "one", "a.png", "b.png")
    put(tmp_path / "two", "a.png", "b.png")
    first = open_source(tmp_path / "one").digest
    assert open_source(tmp_path / "two", shard_rows=1).digest == first
    put(tmp_path / "two", "b.png", data=PNG + b"x")
    assert open_source(tmp_path / "two").digest != first
    put(tmp_path / "one", "c.png")
    assert open_source(tmp_path / "one").digest != first


def test_inputs_that_cannot_be_used_are_named(tmp_path):
    put(tmp_path / "text", "a.txt", "b.doc")
    put(tmp_path / "both", "a.png")
    pq.write_table(table(1), tmp_path / "both/t.parquet")
    put(tmp_path / "fake", "t.parquet", data=b"PAR1 but no more")
    pq.write_table(table(0), tmp_path / "zero.parquet")
    (tmp_path / "empty").mkdir()
    for uris, message in [
        (tmp_path / "absent", "absent: no such file or folder"),
        ("memory://sources/absent", "absent: no such file or folder"),
        ([], "no input given"),
        (tmp_path / "text", r"text: holds no image, Parquet file, tar or array file \(1 .doc files, 1 .txt files\)"),
        (tmp_path / "empty", r"empty: holds no image, .* \(nothing is there\)"),
        (tmp_path / "both", r"both images \(a.png\) and Parquet files \(t.parquet\)"),
        (tmp_path / "fake", "t.parquet: is no readable Parquet file"),
        (tmp_path / "zero.parquet", "hold no rows"),
        ("nope://bucket/x", "nope://bucket/x: cannot be reached"),
    ]:
        with pytest.raises(SourceError, match=message):
            open_source(uris)
    with pytest.raises(SourceError, match="shard_rows is 0"):
        open_source(tmp_path / "both", shard_rows=0)


@pytest.mark.parametrize(
    ("groups", "shard_rows", "expected"),
    [
        ([4, 4, 4], 4, [4, 4, 4]),
        ([1] * 7, 3, [3, 3, 1]),
        ([10], 4, [3, 3, 4]),
        ([2, 9, 2], 4, [2, 3, 3, 3, 2]),
        ([5, 5], 4, [5, 5]),
        ([3], 100, [3]),
    ],
)
def test_parquet_shards_follow_row_groups_and_hold_every_row_once(tmp_path, groups, shard_rows, expected):
    with pq.ParquetWriter(tmp_path / "t.parquet", table(0).schema) as writer:
        for number, count in enumerate(groups):
            writer.write_table(table(count, sum(groups[:number])))
    source = open_source(tmp_path, shard_rows=shard_rows)
    assert [shard.rows for shard in source.shards] == expected
    rows = rows_of(source)
    assert [row.data[-1] for row in rows] == [row.row for row in rows] == list(range(sum(groups)))
    assert [row.id for row in rows] == [f"t-{i}" for i in range(sum(groups))]
    one = list(read_shard(source.shards[-1]))
    assert [row.row for row in one] == list(range(sum(expected[:-1]), sum(expected)))


def test_several_parquet_files_are_one_source(tmp_path):
    pq.write_table(table(3, id=pa.array([7, 8, 9])), tmp_path / "b.parquet")
    (tmp_path / "sub").mkdir()
    pq.write_table(table(2, id=["x", "y"]), tmp_path / "sub/a.parquet")
    pq.write_table(table(2, id=["x", "y"]), tmp_path / "_aside.parquet")
    source = open_source(tmp_path)
    assert [row.id for row in rows_of(source)] == ["7", "8", "9", "x", "y"]
    assert [shard.name for shard in source.shards] == ["b-00000", "a-00000"]
    assert source.ignored == {"hidden names": 1}
    listed = open_source([tmp_path / "sub/a.parquet", str(tmp_path / "b.parquet")])
    assert listed.digest == source.digest


def test_equal_stems_still_give_unique_shards_and_ids(tmp_path):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        pq.write_table(table(2), tmp_path / name / "part 0.parquet")
    source = open_source(tmp_path)
    assert [shard.name for shard in source.shards] == ["00000-part_0-00000", "00001-part_0-00000"]
    assert len({row.id for row in rows_of(source)}) == 4


def test_parquet_labels_and_class_names(tmp_path):
    def classes_and_labels(**columns):
        pq.write_table(table(3, **columns), tmp_path / "t.parquet")
        source = open_source(tmp_path / "t.parquet")
        return source.classes, [row.label for row in rows_of(source)]

    assert classes_and_labels() == (None, [None] * 3)
    assert classes_and_labels(label=[2, 0, None]) == (("0", "1", "2"), [2, 0, None])
    assert classes_and_labels(label=[1, 0, -1], label_name=["b", "a", None]) == (("a", "b"), [1, 0, None])
    assert classes_and_labels(label=["cat", "ape", "cat"]) == (("ape", "cat"), [1, 0, 1])
    assert classes_and_labels(label_name=pa.array(["b", "a", "b"]).dictionary_encode()) == (("a", "b"), [1, 0, 1])
    with pytest.raises(SourceError, match=r"column 'label' is list<.*; expected integers or strings for labels"):
        classes_and_labels(label=pa.array([[1], [2], []]))
    pq.write_table(table(2, label=[0, 0], label_name=["a", "b"]), tmp_path / "t.parquet")
    with pytest.raises(SourceError, match="label 0 has more than one name: 'a' and 'b'"):
        open_source(tmp_path / "t.parquet")


def test_hugging_face_images_and_class_names(tmp_path):
    structs = pa.array([{"bytes": PNG, "path": "a.png"}, None, {"bytes": None, "path": "b.png"}])
    features = {"info": {"features": {"label": {"names": ["ape", "bee", "cat"], "_type": "ClassLabel"}}}}
    metadata = {"huggingface": json.dumps(features)}
    pq.write_table(
        pa.table({"image": structs, "label": [1, 0, 1]}).replace_schema_metadata(metadata), tmp_path / "t.parquet"
    )
    source = open_source(tmp_path / "t.parquet")
    assert source.classes == ("ape", "bee", "cat")
    rows = rows_of(source)
    assert [row.data for row in rows] == [PNG, None, None]
    assert [row.error and row.error.reason for row in rows] == [None, "empty", "empty"]
    assert str(rows[1].error).endswith("holds no image bytes")
    assert "no image bytes, only the path 'b.png'; put the files themselves there" in str(rows[2].error)


def test_parquet_files_that_cannot_be_used_are_named(tmp_path):
    def refused(data, message, **options):
        pq.write_table(data, tmp_path / "t.parquet")
        with pytest.raises(SourceError, match=message):
            open_source(tmp_path / "t.parquet", **options)

    refused(pa.table({"text": ["1"], "label": [0]}), r"has no column of images; .* are text \(string\), label")
    refused(table(1), "no column 'picture'", image_column="picture")
    refused(pa.table({"image": ["text"]}), "column 'image' is string; expected binary")
    refused(table(3, id=["a", "b", "a"]), "the id 'a' appears 2 times")
    refused(table(2, id=["a", None]), "column 'id' has 1 empty rows")
    refused(table(2, id=[0.5, 1.5]), "column 'id' is double")
    refused(table(2, label=[0, 1 << 40]), "class indices below 100,000")


def test_inputs_of_two_stores_are_refused(tmp_path):
    import fsspec

    put(tmp_path, "a/1.png", "b/2.png")
    fsspec.filesystem("memory").pipe_file("/stores/in/3.png", PNG)
    assert open_source([tmp_path / "a", tmp_path / "b"]).rows == 2
    assert open_source([tmp_path / "a", (tmp_path / "b").as_uri()]).rows == 2
    for pair in ([tmp_path / "a", "memory://stores/in"], ["memory://stores/in", f"local://{tmp_path}/a"]):
        with pytest.raises(SourceError, match="inputs of two stores cannot be mixed; run one job for each"):
            open_source(pair)


def test_the_real_sets_open_with_their_classes(data_dir):
    source = open_source([data_dir / "cifar10" / f"train-{i}.parquet" for i in range(5)])
    assert (source.rows, len(source.classes), source.classes[0]) == (50_000, 10, "airplane")
    first = next(iter(read_shard(source.shards[30])))
    assert first.row == source.shards[30].first_row
    assert first.data[:4] == b"RIFF"
