"""The columns of a user's table: which one holds the images, which ones a job asks for, and that all others pass."""

import datetime
import decimal
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from provenance import facts

from raypurify.containers.selection import select
from raypurify.containers.sink import finish, open_sink, write_shard
from raypurify.containers.source import open_source, read_shard
from raypurify.errors import ImageError, SinkError, SourceError

COUNT = 12
IMAGES = [b"image %d" % k for k in range(COUNT)]
LONG = "a text that does not fit into a view " * 2


def rows_of(source):
    return [row for shard in source.shards for row in read_shard(shard)]


def purified(out, source, bad=(), **options):
    """The summary of a job that changes no image; rows in ``bad`` fail."""
    sink = open_sink(out, source, settings={}, **options)
    for shard in source.shards:
        results = [(row, row.error or row.data, None if row.error else facts()) for row in read_shard(shard)]
        broken = [(row, ImageError("truncated", "half"), None) if row.row in bad else (row, *_) for row, *_ in results]
        write_shard(sink, shard, broken)
    return finish(sink)


def output(out):
    return pa.concat_tables([pq.read_table(path) for path in sorted(out.glob("*.parquet"))])


def put(path, table, **options):
    pq.write_table(table, path, **options)
    return path


def with_images(**columns):
    return pa.table({"image": IMAGES, **columns})


# A job of images reads no labels, and leaves an id alone that does not serve.


@pytest.mark.parametrize(
    "label",
    [
        pa.array([100_000 + k for k in range(COUNT)]),
        pa.array(["cat", None] * 6),
        pa.array([0.5] * COUNT),
        pa.array([[1], [2]] * 6),
        pa.array([1 << 40] * COUNT),
    ],
    ids=["large", "text", "float", "list", "huge"],
)
def test_no_label_refuses_a_job_of_images(tmp_path, label):
    table = with_images(label=label, label_name=["cat", "Cat"] * 6)
    source = open_source(put(tmp_path / "t.parquet", table), labels=False)
    assert (source.rows, source.classes, {row.label for row in rows_of(source)}) == (COUNT, None, {None})
    purified(tmp_path / "out", source)
    assert output(tmp_path / "out").equals(table)


def test_two_files_whose_labels_disagree_are_one_job_of_images(tmp_path):
    for name, label, spelled in (("a", [0] * COUNT, "cat"), ("b", ["cat"] * COUNT, "Cat")):
        put(tmp_path / f"{name}.parquet", with_images(label=label, label_name=[spelled] * COUNT))
    assert open_source(tmp_path, labels=False).rows == 2 * COUNT
    with pytest.raises(SourceError, match="column 'label' must hold class indices below 100,000 or class names"):
        open_source(tmp_path)


def test_folders_and_tars_have_no_labels_where_none_are_asked_for(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/1.png").write_bytes(b"x")
    assert open_source(tmp_path).classes == ("cat",)
    source = open_source(tmp_path, labels=False)
    assert (source.classes, [row.label for row in rows_of(source)]) == (None, [None])


BAD_IDS = {
    "repeated": (pa.array(["a", "b"] * 6), "the id 'a' appears 6 times"),
    "null": (pa.array(["a", *[None] * 11]), "column 'id' has 11 empty rows"),
    "float": (pa.array([float(k) for k in range(COUNT)]), "column 'id' is double"),
    "binary": (pa.array([b"%d" % k for k in range(COUNT)]), "column 'id' is binary"),
    "list": (pa.array([[k] for k in range(COUNT)]), "column 'id' is list"),
    "all null": (pa.nulls(COUNT), "column 'id' is null"),
}


@pytest.mark.parametrize("name", BAD_IDS)
def test_an_id_that_does_not_serve_passes_through_and_rows_are_named_by_file_and_row(tmp_path, name):
    column, refusal = BAD_IDS[name]
    table = with_images(id=column)
    path = put(tmp_path / "t.parquet", table)
    source = open_source(path, labels=False, shard_rows=4)
    ids = [f"t-{k}" for k in range(COUNT)]
    assert [row.id for row in rows_of(source)] == ids
    assert [row.id for row in rows_of(select(source, sample=5))] == [ids[row] for row in picked_rows(source, 5)]
    purified(tmp_path / "out", source)
    assert output(tmp_path / "out").equals(table)
    job = json.loads((tmp_path / "out/_raypurify/job.json").read_text())
    assert job["source"]["ids"] == source.ids == "file and row"
    assert pq.read_table(tmp_path / "out/_raypurify/provenance.parquet")["id"].to_pylist() == ids
    # Whoever needs labels needs ids too.
    with pytest.raises(SourceError, match=refusal):
        open_source(path)


def picked_rows(source, sample):
    return [IMAGES.index(row.data) for row in rows_of(select(source, sample=sample))]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([f"r{k}" for k in range(COUNT)]),
        pa.array([f"r{k}" for k in range(COUNT)], pa.string_view()),
        pa.array([f"r{k}" for k in range(COUNT)]).dictionary_encode(),
    ],
    ids=["string", "view", "dictionary"],
)
def test_an_id_that_serves_is_used_and_recorded(tmp_path, column):
    source = open_source(put(tmp_path / "t.parquet", with_images(id=column)), labels=False)
    assert [row.id for row in rows_of(source)] == [f"r{k}" for k in range(COUNT)]
    purified(tmp_path / "out", source)
    assert json.loads((tmp_path / "out/_raypurify/job.json").read_text())["source"]["ids"] == "column id"


def test_an_id_that_is_unique_in_each_file_only_is_not_used(tmp_path):
    for name in "ab":
        put(tmp_path / f"{name}.parquet", with_images(id=list(range(COUNT))))
    source = open_source(tmp_path, labels=False)
    assert [row.id for row in rows_of(source)] == [f"{name}-{k}" for name in "ab" for k in range(COUNT)]
    with pytest.raises(SourceError, match="the id '0' appears 2 times"):
        open_source(tmp_path)


def test_a_file_without_ids_beside_one_with_them_keeps_its_names(tmp_path):
    put(tmp_path / "a.parquet", with_images(id=[f"r{k}" for k in range(COUNT)]))
    put(tmp_path / "b.parquet", with_images(other=["x"] * COUNT))
    ids = [f"r{k}" for k in range(COUNT)] + [f"b-{k}" for k in range(COUNT)]
    for labels in (True, False):
        assert [row.id for row in rows_of(open_source(tmp_path, labels=labels))] == ids


# The image column.

STRUCTS = pa.array([{"bytes": data, "path": "x"} for data in IMAGES])


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"image": IMAGES, "jpg": IMAGES}, "image"),
        ({"jpg": IMAGES, "png": ["text"] * COUNT}, "jpg"),
        ({"webp": IMAGES, "embedding": IMAGES}, "webp"),
        ({"Image": IMAGES, "embedding": IMAGES}, "Image"),
        ({"img": STRUCTS, "label": [1] * COUNT}, "img"),
        ({"picture": IMAGES, "text": ["a"] * COUNT}, "picture"),
        ({"picture": STRUCTS}, "picture"),
        ({"picture": pa.array(IMAGES, pa.binary_view())}, "picture"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else value,
)
def test_the_image_column_is_found(tmp_path, columns, found):
    table = pa.table(columns)
    source = open_source(put(tmp_path / "t.parquet", table))
    assert (source.image_column, [row.data for row in rows_of(source)]) == (found, IMAGES)
    purified(tmp_path / "out", source)
    assert output(tmp_path / "out").equals(table)
    job = json.loads((tmp_path / "out/_raypurify/job.json").read_text())
    assert job["settings"]["image_column"] == found


def test_an_image_column_is_named_where_there_are_several(tmp_path):
    path = put(tmp_path / "t.parquet", pa.table({"jpg": IMAGES, "png": IMAGES[::-1], "n": [1] * COUNT}))
    with pytest.raises(SourceError, match=r"t\.parquet: .* may be in jpg or png; say which: --image-column jpg"):
        open_source(path)
    one, other = (open_source(path, image_column=name) for name in ("jpg", "png"))
    assert [row.data for row in rows_of(other)] == IMAGES[::-1]
    purified(tmp_path / "out", one)
    with pytest.raises(SinkError, match=r'settings\.image_column \("jpg" → "png"\)'):
        open_sink(tmp_path / "out", other, settings={})
    # A fit knows its input by the digest alone.
    assert one.digest != other.digest


def test_the_column_of_the_first_file_is_that_of_all(tmp_path):
    put(tmp_path / "a.parquet", pa.table({"jpg": IMAGES}))
    put(tmp_path / "b.parquet", pa.table({"png": IMAGES}))
    with pytest.raises(SourceError, match=r"b\.parquet: has no column 'jpg'; its columns are png; .*--image-column"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"n": [1] * COUNT}, r"has no column of images; its columns are n \(int64\)"),
        ({"image": ["http://x/1.png"] * COUNT}, "column 'image' is string; expected binary .*text, as URLs or base64"),
        ({"img": pa.array(["aGVsbG8="] * COUNT, pa.string_view())}, r"img \(string_view\).*text, as URLs or base64"),
        ({"images": [[data] for data in IMAGES]}, r"images \(list<\w+: binary>\).*several images in a row"),
        (
            {"image": pa.array([[{"bytes": b"x", "path": "p"}]] * COUNT)},
            "'image' is list.*several images in a row",
        ),
        ({"image": pa.array(IMAGES).dictionary_encode()}, r"is dictionary<.*write it without a dictionary first"),
        ({"image": pa.array(["x"] * COUNT).dictionary_encode()}, "is dictionary<.*text, as URLs or base64"),
        ({"image": pa.array([b"1234"] * COUNT, pa.binary(4))}, r"is fixed_size_binary\[4\].*cast\('binary'\)"),
        ({"image": [{"bytes": "aGVsbG8="}] * COUNT}, "is struct<.*text, as URLs or base64"),
        ({"image": [1.5] * COUNT}, "column 'image' is double; expected binary"),
        # A thumbnail is no stand-in for the image.
        ({"image": ["text"] * COUNT, "thumbnail": IMAGES}, "column 'image' is string; .*--image-column"),
    ],
)
def test_columns_that_hold_no_image_files_are_refused_with_what_to_do(tmp_path, columns, message):
    with pytest.raises(SourceError, match=message):
        open_source(put(tmp_path / "t.parquet", pa.table(columns)))


def test_the_remedies_for_bytes_of_other_types_are_ones(tmp_path):
    same = [data[:7] for data in IMAGES]
    for column in (pa.array(IMAGES).dictionary_encode(), pa.array(same, pa.binary(7))):
        source = open_source(put(tmp_path / "t.parquet", pa.table({"image": column.cast("binary")})))
        assert [row.data for row in rows_of(source)] in (IMAGES, same)


def hugging_face(table, **types):
    features = {"info": {"features": {name: {"_type": type_} for name, type_ in types.items()} | {"n": [1]}}}
    return table.replace_schema_metadata({"huggingface": json.dumps(features)})


def test_of_several_columns_the_one_of_hugging_faces_type_is_found(tmp_path):
    """Where the names tell, they go on telling, so that jobs that were begun stay the same."""
    plain = pa.table({"photo": STRUCTS, "embedding": IMAGES[::-1], "n": [1] * COUNT})
    for table in (plain, hugging_face(plain, photo="Image", embedding="Image")):
        with pytest.raises(SourceError, match="may be in photo or embedding; say which"):
            open_source(put(tmp_path / "t.parquet", table))
    source = open_source(put(tmp_path / "t.parquet", hugging_face(plain, photo="Image", embedding="Value")))
    assert (source.image_column, [row.data for row in rows_of(source)]) == ("photo", IMAGES)
    named = hugging_face(pa.table({"photo": STRUCTS, "png": IMAGES}), photo="Image")
    assert open_source(put(tmp_path / "t.parquet", named)).image_column == "png"
    for strange in (b"[]", b'{"info": {"features": []}}', b"\xff"):
        with pytest.raises(SourceError, match="say which"):
            open_source(put(tmp_path / "t.parquet", plain.replace_schema_metadata({"huggingface": strange})))


def test_other_containers_have_no_columns(tmp_path):
    (tmp_path / "1.png").write_bytes(b"x")
    assert open_source(tmp_path).image_column is None
    for what in ("image", "id", "label"):
        match = f"--{what}-column jpg is for Parquet files, the input holds images; leave"
        with pytest.raises(SourceError, match=match):
            open_source(tmp_path, **{f"{what}_column": "jpg"})


# Columns that are named for ids and labels.


def test_ids_and_labels_stand_in_the_columns_that_are_named(tmp_path):
    table = with_images(uid=[f"u{k}" for k in range(COUNT)], coarse=[k % 3 for k in range(COUNT)], id=[0] * COUNT)
    features = {"info": {"features": {"coarse": {"_type": "ClassLabel", "names": ["cat", "dog", "owl"]}}}}
    path = put(
        tmp_path / "t.parquet", table.replace_schema_metadata({"huggingface": json.dumps(features)}), row_group_size=5
    )
    source = open_source(path, id_column="uid", label_column="coarse", shard_rows=4)
    rows = rows_of(source)
    assert [(row.id, row.label) for row in rows] == [(f"u{k}", k % 3) for k in range(COUNT)]
    assert (source.classes, source.ids) == (("cat", "dog", "owl"), "column uid")
    usual = open_source(path, labels=False)
    # What is read decides what a fit and an evaluation know their input by.
    others = [{"id_column": "uid"}, {"label_column": "coarse", "id_column": "uid"}]
    assert len({usual.digest, *(open_source(path, **options).digest for options in others)}) == 3
    purified(tmp_path / "out", open_source(path, id_column="uid", labels=False), bad={3})
    for name, ids in (("provenance", {f"u{k}" for k in range(COUNT)} - {"u3"}), ("errors", {"u3"})):
        assert {*pq.read_table(tmp_path / f"out/_raypurify/{name}.parquet")["id"].to_pylist()} == ids
    with pytest.raises(SinkError, match=r'settings\.id_column \("uid" → null\)'):
        open_sink(tmp_path / "out", usual, settings={})


def test_columns_of_the_usual_names_may_be_named(tmp_path):
    path = put(tmp_path / "t.parquet", with_images(id=[*range(COUNT)], label=[k % 2 for k in range(COUNT)]))
    named = open_source(path, image_column="image", id_column="id", label_column="label")
    assert named == open_source(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"id_column": "no"}, r"t\.parquet: has no column 'no'; its columns are image, .*--id-column"),
        ({"label_column": "no"}, r"t\.parquet: has no column 'no'; its columns are image, .*--label-column"),
        ({"id_column": "twice", "labels": False}, "the id 'x' appears 12 times"),
        ({"id_column": "half", "labels": False}, "column 'half' is double; expected strings or integers"),
        ({"id_column": "id", "labels": False}, "column 'id' has 12 empty rows"),
        ({"label_column": "half"}, "column 'half' is double; expected integers or strings"),
        ({"renamed": "half"}, "column 'label' is double; expected integers or strings for labels: convert it, or name"),
        ({"label_column": "large"}, "column 'large' must hold class indices below 100,000"),
    ],
)
def test_a_column_that_is_named_serves_or_is_refused(tmp_path, options, message):
    none = pa.array([None] * COUNT, pa.string())
    table = with_images(twice=["x"] * COUNT, half=[0.5] * COUNT, large=[100_000] * COUNT)
    table = table.append_column("id", none) if options.get("id_column") == "id" else table
    if column := options.get("renamed"):
        options = {}
        table = table.drop_columns([n for n in ("label",) if n in table.column_names]).rename_columns({column: "label"})
    with pytest.raises(SourceError, match=message):
        open_source(put(tmp_path / "t.parquet", table), **options)


@pytest.mark.parametrize("name", ["image", "id", "label", "other"])
def test_two_columns_of_one_name_are_refused_by_it(tmp_path, name):
    names = ["image", "id", "label", "other"]
    columns = [pa.array(IMAGES), *[pa.array(list(range(COUNT)))] * 3]
    table = pa.Table.from_arrays([*columns, columns[names.index(name)]], [*names, name])
    path = put(tmp_path / "t.parquet", table)
    for labels in (True, False):
        with pytest.raises(SourceError, match=rf"t\.parquet: has 2 columns named '{name}'; rename one of them"):
            open_source(path, labels=labels)


# Every type that Parquet keeps passes through as it came.


def kind(type_, *values):
    return pa.array([*values] * 3, type_)


def extension(type_, storage):
    return pa.ExtensionArray.from_storage(type_, storage)


VIEW, BYTES = pa.string_view(), pa.binary_view()
TEXTS = kind(VIEW, "{}", None, "1", '"long long long long long"')
TYPES = {
    "string view": kind(VIEW, "a", None, LONG, ""),
    "binary view": kind(BYTES, b"a", None, LONG.encode(), b""),
    "list of views": kind(pa.list_(VIEW), ["a"], None, [], [LONG, None]),
    "large list of views": kind(pa.large_list(VIEW), ["a"], None, [], [LONG, None]),
    "fixed list of views": kind(pa.list_(VIEW, 2), ["a", "b"], None, ["a", None], [LONG, ""]),
    "list view of views": kind(pa.list_view(VIEW), ["a"], None, [], [LONG, None]),
    "large list view of views": kind(pa.large_list_view(VIEW), ["a"], None, [], [LONG, None]),
    "struct of views": kind(
        pa.struct([("x", VIEW), ("y", BYTES), ("z", pa.int8())]),
        *(
            {"x": LONG, "y": b"", "z": 1},
            None,
            {"x": None, "y": LONG.encode(), "z": None},
            {"x": "", "y": None, "z": 2},
        ),
    ),
    "struct of list of views": kind(pa.struct([("x", pa.list_(VIEW))]), {"x": [LONG]}, None, {"x": None}, {"x": []}),
    "map of views": kind(pa.map_(VIEW, BYTES), [(LONG, b"1")], None, [], [("b", None)]),
    "opaque view": extension(pa.opaque(VIEW, "a", "b"), TEXTS) if hasattr(pa, "opaque") else None,
    "json view": extension(pa.json_(VIEW), TEXTS) if hasattr(pa, "json_") else None,
    "list": kind(pa.list_(pa.int16()), [1, None], None, [], [3]),
    "large list": kind(pa.large_list(pa.int16()), [1, None], None, [], [3]),
    "fixed list": kind(pa.list_(pa.float32(), 2), [1, 2], None, [1, None], [3, 4]),
    "list view": kind(pa.list_view(pa.int32()), [1, None], None, [], [3]),
    "large list view": kind(pa.large_list_view(pa.int32()), [1, None], None, [], [3]),
    "list of structs": kind(pa.list_(pa.struct([("a", pa.int8())])), [{"a": 1}, None], None, [], [{"a": None}]),
    "deep": kind(
        pa.struct([("a", pa.struct([("b", pa.list_(pa.list_(pa.string())))]))]),
        *({"a": {"b": [["x", None], []]}}, None, {"a": None}, {"a": {"b": None}}),
    ),
    "map": kind(pa.map_(pa.string(), pa.list_(pa.int64())), [("a", [1])], None, [], [("b", None)]),
    "map of structs": kind(
        pa.map_(pa.int32(), pa.struct([("x", pa.bool_())])), [(1, {"x": True})], None, [], [(2, None)]
    ),
    "dictionary": pa.array(["a", None, "b", "a"] * 3).dictionary_encode(),
    "small dictionary": pa.array(["a", None, "b", "a"] * 3).cast(pa.dictionary(pa.int8(), pa.string())),
    "ordered dictionary": pa.array(["b", None, "a", "b"] * 3).cast(pa.dictionary(pa.int8(), pa.string(), ordered=True)),
    "list of dictionaries": kind(pa.list_(pa.dictionary(pa.int32(), pa.string())), ["a"], None, [], ["b", "a"]),
    "struct of a dictionary": kind(
        pa.struct([("x", pa.dictionary(pa.int32(), pa.string()))]), {"x": "a"}, None, {"x": None}, {"x": "b"}
    ),
    "decimal": kind(pa.decimal128(10, 2), *map(decimal.Decimal, ("1.25", "-3.00", "0.00")), None),
    "decimal256": kind(pa.decimal256(50, 2), *map(decimal.Decimal, ("1.25", "-3.00", "0.00")), None),
    "zoned": kind(pa.timestamp("us", "Europe/Berlin"), datetime.datetime(2020, 2, 29, 1), None, 0, -1),
    "offset": kind(pa.timestamp("ns", "+03:00"), 1, None, 0, -1),
    "zoneless": kind(pa.timestamp("ms"), 1, None, 0, -1),
    "large string": kind(pa.large_string(), LONG, None, "", "c"),
    "large binary": kind(pa.large_binary(), b"a", None, b"", b"c"),
    "fixed binary": kind(pa.binary(3), b"abc", None, b"def", b"\0\0\0"),
    "null": pa.nulls(COUNT),
    "boolean": kind(pa.bool_(), True, None, False, True),
    "date": kind(pa.date32(), 1, None, 0, -1),
    "time": kind(pa.time32("ms"), 1, None, 0, 5),
    "fine time": kind(pa.time64("ns"), 1, None, 0, 5),
    "duration": kind(pa.duration("ns"), 1, None, 0, -5),
    "half": kind(pa.float16(), 1.5, None, 0.0, -2.0),
    "double": kind(pa.float64(), 1.5, None, float("inf"), -0.0),
    "unsigned": kind(pa.uint64(), 1, None, 2**64 - 1, 0),
    "uuid": extension(pa.uuid(), kind(pa.binary(16), bytes(16), None, b"x" * 16, b"y" * 16))
    if hasattr(pa, "uuid")
    else None,
    "json": extension(pa.json_(), kind(pa.string(), "{}", None, "1", "[]")) if hasattr(pa, "json_") else None,
    "bool8": extension(pa.bool8(), kind(pa.int8(), 1, None, 0, 1)) if hasattr(pa, "bool8") else None,
    "tensor": extension(
        pa.fixed_shape_tensor(pa.int32(), [2]), kind(pa.list_(pa.int32(), 2), [1, 2], None, [3, 4], [5, 6])
    ),
}
TYPES = {name: column for name, column in TYPES.items() if column is not None}
if int(pa.__version__.partition(".")[0]) < 26:
    # It cannot read a null among lists of a fixed size, which it has written.
    TYPES = {
        name: column for name, column in TYPES.items() if name not in ("fixed list of views", "fixed list", "tensor")
    }


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("job", ["whole", "failed", "dropped", "selected"])
def test_every_type_passes_through_as_it_came(tmp_path, name, job):
    column = TYPES[name]
    table = pa.table(
        [pa.array(IMAGES), column], pa.schema([("image", pa.binary()), pa.field("c", column.type, metadata={"a": "b"})])
    ).replace_schema_metadata({"origin": "a test"})
    # Where Arrow cannot write row groups of a type, there is one.
    cut = {} if name == "struct of views" else {"row_group_size": 5}
    put(tmp_path / "t.parquet", table, **cut)
    source = open_source(tmp_path / "t.parquet", shard_rows=4)
    bad = {1, 6} if job in ("failed", "dropped") else set()
    source = select(source, sample=7) if job == "selected" else source
    kept = picked_rows(open_source(tmp_path / "t.parquet"), 7) if job == "selected" else range(COUNT)
    kept = [row for row in kept if job != "dropped" or row not in bad]
    purified(tmp_path / "out", source, bad, drop_failed=job == "dropped")
    parts = [pq.ParquetFile(path).read() for path in sorted((tmp_path / "out").glob("*.parquet"))]
    schema = pq.ParquetFile(tmp_path / "t.parquet").schema_arrow
    assert all(part.schema.equals(schema, check_metadata=True) for part in parts)
    assert schema.field("c").type == column.type
    values = [value for part in parts for value in part["c"].to_pylist()]
    assert values == [column.to_pylist()[row] for row in kept]
    images = [value for part in parts for value in part["image"].to_pylist()]
    assert images == [None if row in bad else IMAGES[row] for row in kept]


def test_a_list_of_structs_of_views_that_another_program_wrote_passes_through(tmp_path):
    """Arrow reads it, and cannot write it: what stands here is what Polars writes."""
    import base64

    plain = pa.list_(pa.struct([("x", pa.string())]))
    column = kind(plain, [{"x": LONG}, None], None, [], [{"x": None}])
    views = pa.schema([("image", pa.binary()), ("c", pa.list_(pa.struct([("x", VIEW)])))])
    table = pa.table([pa.array(IMAGES), column], ["image", "c"])
    with pq.ParquetWriter(tmp_path / "t.parquet", table.schema, store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"ARROW:schema": base64.b64encode(views.serialize().to_pybytes())})
    before = pq.ParquetFile(tmp_path / "t.parquet")
    assert "string_view" in str(before.schema_arrow.field("c").type)
    purified(tmp_path / "out", select(open_source(tmp_path / "t.parquet"), sample=7))
    after = pq.ParquetFile(tmp_path / "out/t-00000.parquet")
    assert after.schema_arrow.equals(before.schema_arrow, check_metadata=True)
    rows = picked_rows(open_source(tmp_path / "t.parquet"), 7)
    assert after.read()["c"].to_pylist() == [column.to_pylist()[row] for row in rows]


# Rows whose image failed.


def job_of(out):
    return json.loads((out / "_raypurify/job.json").read_text())


@pytest.mark.parametrize("drop", [False, True])
def test_a_failed_row_keeps_its_other_columns_unless_it_is_dropped(tmp_path, drop):
    table = with_images(caption=[f"row {k}" for k in range(COUNT)])
    source = open_source(put(tmp_path / "t.parquet", table), shard_rows=4)
    summary = purified(tmp_path / "out", source, {0, 5}, drop_failed=drop)
    after = output(tmp_path / "out")
    rows = [k for k in range(COUNT) if not drop or k not in (0, 5)]
    assert after["caption"].to_pylist() == [f"row {k}" for k in rows]
    assert after["image"].to_pylist() == [None if k in (0, 5) else IMAGES[k] for k in rows]
    assert (summary.written, summary.failed, summary.kept) == (10, 2, 0 if drop else 2)
    assert "kept" not in json.loads((tmp_path / "out/_raypurify/summary.json").read_text())
    assert pq.read_table(tmp_path / "out/_raypurify/errors.parquet")["id"].to_pylist() == ["t-0", "t-5"]
    assert job_of(tmp_path / "out")["settings"]["drop_failed"] == drop
    with pytest.raises(SinkError, match=r"settings\.drop_failed"):
        open_sink(tmp_path / "out", source, settings={}, drop_failed=not drop)


def test_a_job_without_failed_rows_has_the_same_files_either_way(tmp_path):
    source = open_source(put(tmp_path / "t.parquet", with_images(a=TYPES["map"])), shard_rows=4)
    for name, drop in (("kept", False), ("dropped", True)):
        purified(tmp_path / name, source, drop_failed=drop)
    one, other = ({f.name: f.read_bytes() for f in (tmp_path / name).glob("*.parquet")} for name in ("kept", "dropped"))
    assert one == other
    assert len(one) == 3


def test_a_struct_keeps_the_other_fields_of_a_failed_row(tmp_path):
    kinds = pa.struct([("path", pa.string()), ("bytes", pa.binary()), ("at", pa.timestamp("ns"))])
    held = [{"path": f"{k}.jpg", "bytes": data, "at": k} for k, data in enumerate(IMAGES)]
    held[2], held[3], held[4] = None, {"path": None, "bytes": None, "at": 3}, {"path": "4", "bytes": b"", "at": None}
    table = pa.table({"image": pa.array(held, kinds)})
    source = open_source(put(tmp_path / "t.parquet", table))
    assert purified(tmp_path / "out", source, {0}).kept == 4
    lost = pa.array([{**row, "bytes": None} if row and k in (0, 3, 4) else row for k, row in enumerate(held)], kinds)
    after = output(tmp_path / "out")
    assert after.schema == table.schema
    assert after["image"].to_pylist() == lost.to_pylist()


def test_a_column_that_allows_no_nulls_gets_empty_bytes(tmp_path):
    struct = pa.struct([pa.field("bytes", pa.binary(), nullable=False)])
    for name, kinds, lost in (("a", pa.binary(), b""), ("b", struct, {"bytes": b""})):
        schema = pa.schema([pa.field("image", kinds, nullable=False), ("n", pa.int64())])
        images = pa.array(IMAGES if name == "a" else [{"bytes": data} for data in IMAGES], kinds)
        path = put(tmp_path / f"{name}.parquet", pa.table([images, pa.array(range(COUNT))], schema))
        source = open_source(path)
        assert purified(tmp_path / f"out-{name}", source, {3}).kept == 1
        after = output(tmp_path / f"out-{name}")
        assert after.schema == schema
        assert after["image"].to_pylist()[3] == lost
        assert after["n"].to_pylist() == list(range(COUNT))


def test_a_folder_has_nothing_to_keep_of_a_failed_image(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/1.png").write_bytes(b"x")
    source = open_source(tmp_path / "in")
    assert purified(tmp_path / "out", source, {0}).kept == 0
    assert not {"drop_failed", "image_column"} & job_of(tmp_path / "out")["settings"].keys()


# Outputs of the version before these settings.


@pytest.fixture
def older(tmp_path):
    """The source and the output of a job that was recorded without the settings of columns."""
    source = open_source(put(tmp_path / "t.parquet", with_images(png=IMAGES)))
    open_sink(tmp_path / "out", source, settings={"bundle": "abc"}, drop_failed=True)
    job = job_of(tmp_path / "out")
    del job["settings"]["drop_failed"], job["settings"]["image_column"], job["source"]["ids"]
    (tmp_path / "out/_raypurify/job.json").write_text(json.dumps(job))
    return source, tmp_path / "out"


def test_an_older_output_goes_on_where_the_settings_mean_what_it_did(older):
    source, out = older
    open_sink(out, source, settings={"bundle": "abc"}, drop_failed=True)
    assert "drop_failed" not in job_of(out)["settings"]


def test_an_older_output_is_refused_by_the_name_of_a_setting_that_means_another_thing(older, tmp_path):
    source, out = older
    message = r"other settings\.drop_failed \(true → false\); --drop-failed goes on with it"
    with pytest.raises(SinkError, match=message):
        open_sink(out, source, settings={"bundle": "abc"})
    other = open_source(tmp_path / "t.parquet", image_column="png")
    with pytest.raises(SinkError, match=r'settings\.image_column \("image" → "png"\)'):
        open_sink(out, other, settings={"bundle": "abc"}, drop_failed=True)
