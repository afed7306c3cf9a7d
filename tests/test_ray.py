"""Purify, the step of a Ray Data pipeline: on batches as its readers give them, and in actors."""

import io
import tarfile
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import raypurify
from raypurify.containers.ledger import FACTS
from raypurify.errors import ConfigError, DataError
from raypurify.images import decode_image, encode_image, open_array
from raypurify.purifiers.batch import purify_files, purify_pixels
from raypurify.ray import Purify

ADDED = [*FACTS.names, "reason", "message"]


@pytest.fixture(scope="module")
def purifier():
    return raypurify.load("cifar10")


@pytest.fixture
def step(purifier, monkeypatch):
    """Makes a Purify; the bundle is loaded once."""
    monkeypatch.setattr(raypurify, "load", lambda bundle, device: purifier)
    return Purify


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (12 + 4 * (i % 2), 16, 3), dtype=np.uint8) for i in range(4)]


@pytest.fixture(scope="module")
def expected(images, purifier) -> list[np.ndarray]:
    return [pixels for pixels, _ in purify_pixels(purifier, images)]


@pytest.fixture(scope="module")
def files(images) -> list[bytes]:
    return [encode_image(image, open_array(image)) for image in images]


def objects(values: list) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def test_arrays_stay_arrays_and_are_what_the_purifier_makes_of_them(step, images, expected):
    ragged = step()({"image": objects(images), "id": np.arange(4)})
    assert [(one == other).all() for one, other in zip(ragged["image"], expected)] == [True] * 4
    assert list(ragged) == ["image", "id", *ADDED]
    assert ragged["height"].tolist() == [12, 16, 12, 16]
    assert {name: ragged[name].dtype for name in FACTS.names} == {f.name: f.type.to_pandas_dtype() for f in FACTS}
    even = np.stack(images[::2])
    whole = step(into="purified", prefix="p_")({"image": even})
    assert whole["purified"].dtype == np.uint8
    assert whole["purified"].tolist() == [expected[0].tolist(), expected[2].tolist()]
    assert whole["image"] is even
    assert whole["p_distance"].tolist() == ragged["distance"][::2].tolist()


@pytest.mark.parametrize("channels", [None, 1, 2, 4])
def test_arrays_keep_their_channels(step, images, purifier, channels):
    shape = images[0].shape[:2] + (() if channels is None else (channels,))
    batch = np.random.default_rng(1).integers(0, 256, (2, *shape), dtype=np.uint8)
    done = step()({"image": batch})
    assert done["image"].shape == batch.shape
    as_files = [encode_image(open_array(one).pixels, open_array(one)) for one in batch]
    purify = partial(purify_pixels, purifier)
    for key, file, facts in purify_files(purify, enumerate(as_files)):
        again = decode_image(file)
        planes = done["image"][key].reshape(*shape[:2], -1)
        assert (planes[..., 0] == again.pixels[..., 0]).all()
        assert again.alpha is None or (planes[..., -1] == again.alpha).all()
        assert done["mode"][key] == facts["mode"]


@pytest.mark.parametrize("format", ["numpy", "pandas", "pyarrow"])
@pytest.mark.parametrize("struct", [False, True])
def test_files_stay_files_in_every_format(step, expected, files, purifier, format, struct):
    data = [*files, b"broken"]
    values = [{"bytes": one, "path": f"{i}.png"} for i, one in enumerate(data)] if struct else data
    table = pa.table({"jpg": values, "cls": [b"3"] * 5, "label": [1, 2, 3, 4, 5]})
    batch = {"numpy": lambda: {name: objects(table[name].to_pylist()) for name in table.column_names},
             "pandas": table.to_pandas, "pyarrow": lambda: table}[format]()  # fmt: skip
    done = step()(batch)
    assert type(done) is type(batch)
    rows = pa.table(done) if isinstance(done, dict) else pa.Table.from_pandas(done) if format == "pandas" else done
    rows = rows.to_pylist()
    for row, pixels in zip(rows, expected):
        file = row["jpg"]["bytes"] if struct else row["jpg"]
        assert (decode_image(file).pixels == pixels).all()
        assert row["reason"] == ""
        assert row["bundle"] == purifier.digest
    assert rows[4]["reason"] == "not-an-image"
    assert rows[4]["jpg"] == ({"bytes": b"", "path": "4.png"} if struct else b"")
    assert [row["label"] for row in rows] == [1, 2, 3, 4, 5]


def test_a_bad_image_leaves_its_row_and_nothing_of_itself(step, images):
    bad = [np.full((4, 4, 3), 9, np.uint8), np.full((9, 9, 5), 9, np.uint8), np.full((40, 40, 3), 9, np.uint8), None]
    done = step(max_pixels=1000)({"image": objects([*images, *bad])})
    assert done["reason"].tolist() == [""] * 4 + ["too-small", "unsupported-mode", "too-large", "empty"]
    assert all(done["message"][4:])
    assert [image.shape for image in done["image"][4:7]] == [image.shape for image in bad[:3]]
    assert not any(image.any() for image in done["image"][4:7])
    assert done["image"][7].shape == (0, 0, 3)
    assert done["cluster"].tolist()[4:] == [-1] * 4
    assert np.isnan(done["distance"][4:]).all()


@pytest.mark.parametrize("format", ["numpy", "pandas", "pyarrow"])
def test_a_row_without_an_image_is_said_to_be_empty(step, files, format):
    table = pa.table({"image": [{"bytes": files[0], "path": "a"}, None, {"bytes": None, "path": "c"}]})
    batch = {"image": objects(table["image"].to_pylist())} if format == "numpy" else table
    done = step()(batch.to_pandas() if format == "pandas" else batch)
    values = done["image"].to_pylist() if format == "pyarrow" else list(done["image"])
    assert values[1:] == [{"bytes": b"", "path": None}, {"bytes": b"", "path": "c"}]
    assert list(map(str, done["reason"])) == ["", "empty", "empty"]


def as_batch(format: str, **columns):
    table = pa.table(columns)
    arrays = {name: objects(table[name].to_pylist()) for name in table.column_names}
    return {"numpy": arrays, "pandas": table.to_pandas(), "pyarrow": table}[format]


def as_lists(batch) -> dict[str, list]:
    return batch.to_pydict() if isinstance(batch, pa.Table) else {name: list(batch[name]) for name in batch}


@pytest.mark.parametrize("format", ["numpy", "pandas", "pyarrow"])
@pytest.mark.parametrize(
    ("columns", "given_back"),
    [
        # By a known name, as the only one that it can be, or not at all.
        ({"img": None, "id": 1, "note": None}, {"img": b""}),
        ({"image": None}, {"image": b""}),
        ({"photo": None, "id": 1}, {"photo": b""}),
        ({"photo": None, "note": None}, {}),
    ],
)
def test_a_batch_without_any_image_ends_nothing(step, files, format, columns, given_back):
    for options, new in (({}, given_back), ({"into": "purified"}, {"purified": b""})):
        purify, expected = step(**options), columns | new
        for rows in (2, 0):
            done = as_lists(purify(as_batch(format, **{name: pa.array([columns[name]] * rows) for name in columns})))
            assert done["reason"] == ["empty"] * rows
            assert {name: done[name] for name in expected} == {name: [expected[name]] * rows for name in expected}
        first, *others = columns
        done = purify(as_batch(format, **{first: [files[0], None]}, **{name: ["x", "y"] for name in others}))
        assert as_lists(done)["reason"] == ["", "empty"]
        assert purify.column == first


def test_the_type_of_arrow_tells_which_column_has_no_image(step):
    table = pa.table({"photo": pa.array([None], pa.binary()), "note": pa.array([None], pa.string())})
    done = step()(table)
    assert done.select(["photo", "note", "reason"]).to_pylist() == [{"photo": b"", "note": None, "reason": "empty"}]
    assert done["photo"].type == pa.binary()


@pytest.mark.parametrize("format", ["numpy", "pandas", "pyarrow"])
def test_a_batch_in_which_a_column_is_empty_decides_for_itself_alone(step, files, format):
    for first, second in (("thumb", "photo"), ("photo", "thumb")):
        purify = step()
        done = as_lists(purify(as_batch(format, **{first: [files[0]], second: [None]})))
        assert (done["reason"], done[second]) == ([""], [None])
        assert done[first] != [files[0]]
        with pytest.raises(DataError, match="more than one column"):
            purify(as_batch(format, **{first: [None], second: [files[1]]}))
    for (name, other), value in ((("img", "thumb"), files[0]), (("photo", "note"), "x")):
        purify = step()
        purify(as_batch(format, **{name: [None], other: [value]}))
        purify(as_batch(format, **{name: [files[1]], other: [None]}))
        assert purify.column == name


@pytest.mark.parametrize(
    ("batch", "options", "said"),
    [
        ({"x": np.zeros((2, 3), np.float32)}, {}, r"no column of images among x \(float32 \(3,\)\)"),
        ({"a": b"1", "b": b"2"}, {}, "more than one column .* say which: {\"column\": 'a'}"),
        ({"image": np.zeros((1, 9, 9, 3), np.float32)}, {}, "'image' holds values of the kind float32"),
        ({"image": "a.png"}, {}, "'image' holds values of the kind str"),
        ({"image": b"1"}, {"column": "img"}, "no column 'img'; its columns are image"),
        ({"image": b"1", "class": 3}, {}, "names that are added, class: choose a prefix"),
        ({"image": b"1", "new": 3}, {"into": "new"}, "names that are added, new: choose"),
    ],
)
def test_mistakes_in_the_pipeline_are_told(step, batch, options, said):
    batch = {name: value if isinstance(value, np.ndarray) else objects([value]) for name, value in batch.items()}
    with pytest.raises(DataError, match=said):
        step(**options)(batch)


@pytest.mark.parametrize("options", [{"into": "cluster"}, {"column": "p_mode", "prefix": "p_"}])
def test_an_added_name_is_no_name_for_images(step, options):
    with pytest.raises(ConfigError, match="a column of that name is added; choose a prefix"):
        step(**options)


def test_files_of_one_size_as_arrow_has_them_are_refused_in_words(step, files):
    column = pa.array([files[0]], pa.binary(len(files[0])))
    with pytest.raises(DataError, match="cast it to binary"):
        step()(pa.table({"image": column}))


def test_batches_of_rays_readers_are_understood(step, expected, files, tmp_path, local_ray):
    import ray

    (tmp_path / "files").mkdir()
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i, data in enumerate(files):
            (tmp_path / "files" / f"{i}.png").write_bytes(data)
            for name, content in ((f"{i}.png", data), (f"{i}.cls", b"3")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    pq.write_table(pa.table({"img": [{"bytes": data, "path": None} for data in files]}), tmp_path / "a.parquet")
    wanted = {pixels.tobytes() for pixels in expected}
    read = ray.data
    for dataset, column, formats in (
        (read.read_images(str(tmp_path / "files")), "image", ("numpy", "pandas")),
        (read.read_webdataset(str(tmp_path / "a.tar")), "png", ("numpy",)),
        (read.read_binary_files(str(tmp_path / "files")), "bytes", ("numpy", "pandas", "pyarrow")),
        (read.read_webdataset(str(tmp_path / "a.tar"), decoder=None), "png", ("numpy",)),
        (read.read_parquet(str(tmp_path / "a.parquet")), "img", ("numpy", "pandas", "pyarrow")),
    ):
        held = dataset.materialize()
        for format in formats:
            purify = step()
            done = purify(held.take_batch(4, batch_format=format))
            assert purify.column == column
            values = done[column].to_pylist() if format == "pyarrow" else list(done[column])
            found = [value["bytes"] if isinstance(value, dict) else value for value in values]
            assert {(decode_image(x).pixels if isinstance(x, bytes) else x).tobytes() for x in found} == wanted
    arrays = read.read_images(str(tmp_path / "files")).take_batch(4, batch_format="pyarrow")
    with pytest.raises(DataError, match='use batch_format="numpy"'):
        step()(arrays)


@pytest.mark.slow
def test_a_rerun_with_rays_checkpoints_does_what_was_not_written(tmp_path, request, local_ray):
    import ray
    from ray.data.checkpoint import CheckpointConfig

    folder = request.config.rootpath / "examples/cifar10/attacked"
    last = max(path.name for path in folder.iterdir())
    seen, broken, out = tmp_path / "seen", tmp_path / "broken", tmp_path / "out"

    class Watched(Purify):
        def __call__(self, batch):
            with seen.open("a") as file:
                file.writelines(f"{path}\n" for path in batch["path"])
            if broken.exists() and any(path.endswith(last) for path in batch["path"]):
                raise RuntimeError("the machine is gone")
            return super().__call__(batch)

    def run() -> None:
        files = ray.data.read_binary_files(str(folder), include_paths=True, override_num_blocks=8)
        files.map_batches(Watched, batch_size=3, concurrency=1).write_parquet(str(out))

    def written() -> list[str]:
        return [path for file in out.glob("*.parquet") for path in pq.read_table(file)["path"].to_pylist()]

    context = ray.data.DataContext.get_current()
    context.checkpoint_config = CheckpointConfig(id_column="path", checkpoint_path=str(tmp_path / "checkpoint"))
    try:
        broken.touch()
        with pytest.raises(Exception, match="the machine is gone"):
            run()
        before = written()
        assert 0 < len(before) < 24
        broken.unlink()
        seen.unlink()
        run()
    finally:
        context.checkpoint_config = None
    assert not {*before} & {*seen.read_text().split()}
    assert len(written()) == len({*written()}) == 24
