"""Arrays of NumPy in and out: the layout of CIFAR-10-C, labels, files joined of shards, and what is refused."""

import json
import os
import pickle
import shutil
import struct
import zipfile
from io import BytesIO

import numpy as np
import pytest
from provenance import facts
from test_container_contract import files

from raypurify.containers.ledger import STATE
from raypurify.containers.looking import Looking
from raypurify.containers.passed_over import passed_over_text
from raypurify.containers.selection import select
from raypurify.containers.sink import finish, missing, open_sink, reopen_failed, write_shard
from raypurify.containers.source import open_source, read_shard
from raypurify.errors import ImageError, SinkError, SourceError
from raypurify.images import decode_image, encode_image
from raypurify.storage import Place

COUNT, SHARD = 10, 4
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (COUNT, 6, 8, 3), np.uint8)
LABELS = np.arange(COUNT) % 3


def rows_of(source):
    return [row for shard in source.shards for row in read_shard(shard)]


def inverted(row, bad):
    """What a purifier that changes every pixel makes of a row, as the image file that a job gets."""
    if row.row in bad:
        return row, ImageError("kills", "a decoder"), None
    image = decode_image(row.data)
    return row, encode_image(255 - image.pixels, image), facts()


def work(sink, source, bad=()):
    for shard in pickle.loads(pickle.dumps(source.shards)):
        if shard.name in missing(sink):
            write_shard(pickle.loads(pickle.dumps(sink)), shard, [inverted(row, bad) for row in read_shard(shard)])


def purified(out, source, bad=(), **options):
    sink = open_sink(out, source, settings={}, **options)
    work(sink, source, bad)
    return finish(sink)


def layout(folder):
    """As CIFAR-10-C has it: an array for each corruption, one of labels for all; and arrays that are about them."""
    folder.mkdir()
    for k, name in enumerate(("fog", "snow")):
        np.save(folder / f"{name}.npy", IMAGES + k)
    np.save(folder / "labels.npy", LABELS)
    np.save(folder / "names.npy", np.array(["cat", "dog", "owl"]))
    return folder


def test_a_layout_as_that_of_cifar_10_c_comes_back(tmp_path):
    folder = layout(tmp_path / "in")
    source = open_source(folder, shard_rows=SHARD)
    assert [(row.id, row.label) for row in rows_of(source)] == [
        (f"{name}/{k}", k % 3) for name in ("fog", "snow") for k in range(COUNT)
    ]
    assert (source.classes, source.rows) == (("0", "1", "2"), 2 * COUNT)
    out = tmp_path / "out"
    summary = purified(out, open_source(folder, shard_rows=SHARD, labels=False), bad={COUNT + 1})
    assert (summary.written, summary.failed, summary.unpurified) == (2 * COUNT - 1, 1, 1)
    whole = files(out)
    made = {name: data for name, data in whole.items() if not name.startswith(STATE)}
    # The bytes that NumPy would have written.
    (tmp_path / "expected").mkdir()
    snow = 255 - (IMAGES + 1)
    snow[1] = IMAGES[1] + 1
    np.save(tmp_path / "expected/fog.npy", 255 - IMAGES)
    np.save(tmp_path / "expected/snow.npy", snow)
    for name in ("labels.npy", "names.npy"):
        (tmp_path / "expected" / name).write_bytes((folder / name).read_bytes())
    assert made == files(tmp_path / "expected")
    assert not [name for name in whole if "/pixels/" in name]
    # The one that failed is tried again, though the pieces of the others are gone.
    sink = open_sink(out, open_source(folder, shard_rows=SHARD, labels=False), settings={})
    assert len(reopen_failed(out)) == 1
    work(sink, source)
    assert finish(sink).unpurified == 0
    assert np.array_equal(np.load(out / "snow.npy"), 255 - (IMAGES + 1))
    assert np.array_equal(np.load(out / "fog.npy"), 255 - IMAGES)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "deflated"])
def test_a_zip_of_arrays_comes_back(tmp_path, save):
    grey = IMAGES[..., :1]
    held = {"x_train": IMAGES, "y_train": LABELS[:, None].astype(">u2"), "x_test": grey, "y_test": LABELS[::-1]}
    # An array of objects passes; nothing unpickles it.
    save(tmp_path / "a.npz", **held, about=np.array([{"a": 1}], object))
    source = open_source(tmp_path / "a.npz", shard_rows=SHARD)
    # It may have been meant to be images.
    assert source.ignored == {"arrays beside images in .npz files, copied as they are": 1}
    rows = rows_of(source)
    assert [row.id for row in rows[:2]] == ["a/x_train/0", "a/x_train/1"]
    assert [row.label for row in rows] == [*LABELS, *LABELS[::-1]]
    assert [row.data[:2] for row in rows] == [b"P6"] * COUNT + [b"P5"] * COUNT
    purified(tmp_path / "out", source)
    held |= {"x_train": 255 - IMAGES, "x_test": 255 - grey}
    with np.load(tmp_path / "out/a.npz", allow_pickle=True) as made:
        assert made.files == [*held, "about"]
        assert all(
            np.array_equal(made[name], array) and made[name].dtype == array.dtype for name, array in held.items()
        )
        assert made["about"][0] == {"a": 1}
    methods = [
        {info.compress_type for info in zipfile.ZipFile(tmp_path / at / "a.npz").infolist()} for at in ("", "out")
    ]
    assert methods[0] == methods[1]


@pytest.mark.parametrize("zipped", [False, True])
def test_a_selection_has_the_labels_of_its_rows(tmp_path, zipped):
    """A file of labels that several arrays share fits none of their selections."""
    folder = tmp_path / "in"
    if zipped:
        folder.mkdir()
        np.savez_compressed(folder / "a.npz", fog=IMAGES, snow=IMAGES + 1, labels=LABELS)
    else:
        layout(folder)
    some = select(open_source(folder, shard_rows=SHARD), sample=7)
    rows = rows_of(some)
    purified(tmp_path / "out", some, bad={2})
    again = open_source(tmp_path / "out")
    kept = [row.data if row.row == 2 else inverted(row, ())[1] for row in rows]
    assert [decode_image(row.data).pixels.tolist() for row in rows_of(again)] == [
        decode_image(data).pixels.tolist() for data in kept
    ]
    assert [row.label for row in rows_of(again)] == [row.label for row in rows]
    names = {name for name in files(tmp_path / "out") if not name.startswith(STATE)}
    assert names == ({"a.npz"} if zipped else {f"{a}{b}.npy" for a in ("fog", "snow") for b in ("", "_labels")})


class Killed(BaseException):
    """What no one catches."""


@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
def test_joining_is_killed_anywhere_and_done_again(tmp_path, monkeypatch, again):
    """At every call of what writes, reads and deletes files; ``again`` with pieces of one shard beside joined files."""
    (tmp_path / "in").mkdir()
    np.savez_compressed(tmp_path / "in/a.npz", fog=IMAGES, labels=LABELS)
    np.save(tmp_path / "in/b.npy", IMAGES)
    source, out = open_source(tmp_path / "in", shard_rows=SHARD), tmp_path / "out"
    sink = open_sink(out, source, settings={})
    work(sink, source)
    if again:
        finish(sink)
        for shard in (source.shards[1], source.shards[-1]):
            (out / STATE / "provenance" / f"{shard.name}.parquet").unlink()
        work(sink, source)
    shutil.copytree(out, tmp_path / "begun", copy_function=shutil.copy2)
    sink.join(sink)
    whole = files(out)
    left = 0

    def stopping(real):
        def step(*args, **options):
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return real(*args, **options)

        return step

    ended, stop = False, 0
    while not ended:
        shutil.rmtree(out)
        shutil.copytree(tmp_path / "begun", out, copy_function=shutil.copy2)
        left = stop
        with monkeypatch.context() as patched:
            for name in ("delete", "read", "writing", "_naming", "names"):
                patched.setattr(Place, name, stopping(getattr(Place, name)))
            try:
                sink.join(sink)
                ended = True
            except Killed:
                stop += 1
        sink.join(sink)
        assert files(out) == whole, stop
    assert stop > 10
    assert np.array_equal(np.load(out / "b.npy"), 255 - IMAGES)


def test_what_is_done_again_while_files_are_joined_is_not_lost(tmp_path, monkeypatch):
    """Of a piece that came after the join had listed them, and of one that was written anew after it was read."""
    np.save(tmp_path / "fog.npy", IMAGES)
    source, out = open_source(tmp_path / "fog.npy", shard_rows=SHARD), tmp_path / "out"
    sink = open_sink(out, source, settings={})
    work(sink, source)
    finish(sink)
    assert not (out / STATE / "pixels").exists()
    first, second, _ = source.shards
    pieces = [Place(str(out / STATE / f"pixels/{shard.name}.pixels")) for shard in (first, second)]
    assert first.rows == second.rows

    def again(place, value):
        place.write(bytes([value]) * (first.rows * IMAGES[0].size))
        os.utime(place.path, ns=(value, value))

    again(pieces[0], 1)

    def meanwhile(real):
        def step(place, *args):
            data = real(place, *args)
            if place.name == pieces[0].name:
                again(pieces[0], 2)
                again(pieces[1], 3)
            return data

        return step

    with monkeypatch.context() as patched:
        patched.setattr(Place, "read", meanwhile(Place.read))
        finish(sink)
    assert [np.load(out / "fog.npy")[k, 0, 0, 0] for k in (0, first.rows)] == [1, 255 - IMAGES[first.rows, 0, 0, 0]]
    finish(sink)
    assert [np.load(out / "fog.npy")[k, 0, 0, 0] for k in (0, first.rows)] == [2, 3]
    assert not (out / STATE / "pixels").exists()


@pytest.mark.parametrize("joined", [False, True], ids=["before joining", "joined"])
def test_a_zip_that_is_mended_changes_the_name_of_no_other_shard(tmp_path, joined):
    """Not where names repeat, nor where the arrays of the zip have those of other files."""
    held = {"m": 60, "x": 90, "c-x": 120, "a~x": 130}
    for folder, name, add in (("a", "x", 0), ("c", "x", 30), ("c", "b-m", 40), ("c", "b_m", 50)):
        (tmp_path / "in" / folder).mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / f"in/{folder}/{name}.npy", IMAGES + add)
    path, out = tmp_path / "in/b.npz", tmp_path / "out"
    np.savez(path, **{name: IMAGES + add for name, add in held.items()})
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    told = []
    source = open_source(tmp_path / "in", shard_rows=SHARD, looking=Looking(damaged=told.append))
    sink = open_sink(out, source, settings={})
    work(sink, source)
    if joined:
        finish(sink)
    path.write_bytes(whole)
    names = {shard.name for shard in source.shards}
    source = open_source(tmp_path / "in", shard_rows=SHARD)
    assert names < {shard.name for shard in source.shards}
    assert purified(out, source).written == 8 * COUNT
    for name, add in (("a/x", 0), ("c/x", 30), ("c/b-m", 40), ("c/b_m", 50)):
        assert np.array_equal(np.load(out / f"{name}.npy"), 255 - (IMAGES + add)), name
    with np.load(out / "b.npz") as made:
        assert all(np.array_equal(made[name], 255 - (IMAGES + add)) for name, add in held.items())


def test_shards_of_arrays_have_names_of_their_own_that_fit(tmp_path):
    """Whatever files and members are called: repeated, alike but for what no key holds, and too long."""
    alike, long = ["x y", "x_y", "x~y", "a/x y", "z"], ["n" * 240 + end for end in "12"]
    np.savez(tmp_path / f"{'b' * 240}1.npz", **dict.fromkeys(alike + long, IMAGES[:1]))
    for name in (f"{'b' * 240}2", "x~y", *long):
        np.save(tmp_path / f"{name}.npy", IMAGES[:1])
    names = [shard.name for shard in open_source(tmp_path).shards]
    assert len({*names}) == len(names) == len(alike) + len(long) + 4
    assert max(map(len, names)) <= 255 - len(".parquet")


def test_what_is_lost_of_an_output_is_named(tmp_path):
    source = open_source(layout(tmp_path / "in"), shard_rows=SHARD)
    purified(tmp_path / "out", source)
    (tmp_path / "out/fog.npy").unlink()
    with pytest.raises(SinkError, match=r"fog\.npy: is gone, and so is fog-00000\.pixels, .*--overwrite"):
        finish(open_sink(tmp_path / "out", source, settings={}))
    with pytest.raises(SinkError, match="--drop-failed cannot leave images out of array files"):
        open_sink(tmp_path / "other", source, settings={}, drop_failed=True)


def test_labels_that_changed_meanwhile_are_not_copied(tmp_path):
    source = open_source(layout(tmp_path / "in"), shard_rows=SHARD)
    sink = open_sink(tmp_path / "out", source, settings={})
    work(sink, source)
    np.save(tmp_path / "in/labels.npy", LABELS + 1)
    os.utime(tmp_path / "in/labels.npy", ns=(1, 1))
    with pytest.raises(SourceError, match=r"labels\.npy: changed since the job was planned"):
        finish(sink)


def test_overwriting_removes_every_file_of_a_job_and_none_of_others(tmp_path):
    """What is only copied is the job's too."""
    source = open_source(layout(tmp_path / "in"), shard_rows=SHARD)
    (tmp_path / "out").mkdir()
    for name in ("labels", "fog"):
        np.save(tmp_path / f"out/{name}.npy", LABELS + 1)
        with pytest.raises(SinkError, match=rf"{name}\.npy: no job of raypurify wrote this file"):
            purified(tmp_path / "out", source, overwrite=True)
        assert np.array_equal(np.load(tmp_path / f"out/{name}.npy"), LABELS + 1)
        (tmp_path / f"out/{name}.npy").unlink()
    purified(tmp_path / "out", source, bad=range(2 * COUNT), overwrite=True)
    assert np.array_equal(np.load(tmp_path / "out/labels.npy"), LABELS)
    assert np.array_equal(np.load(tmp_path / "out/fog.npy"), IMAGES)
    np.save(tmp_path / "other.npy", IMAGES)
    np.save(tmp_path / "out/mine.npy", IMAGES)
    purified(tmp_path / "out", open_source(tmp_path / "other.npy"), overwrite=True)
    assert {name for name in files(tmp_path / "out") if not name.startswith(STATE)} == {"mine.npy", "other.npy"}


def saved(array, **options):
    data = BytesIO()
    np.lib.format.write_array(data, array, **options)
    return data.getvalue()


def headed(text, version=1, length=None, data=b""):
    text = text.encode()
    count = len(text) if length is None else length
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", count) + text + data


ONE = "{'descr': '|u1', 'fortran_order': False, 'shape': %s, }\n"
REFUSED = {
    "objects": (saved(np.array([1, "a"], object)), r"is object \(2,\); .*never unpickled: numpy.stack"),
    "floats": (saved(np.full((2, 4, 4, 3), np.nan)), r"is float64 \(2, 4, 4, 3\); expected .*\(x \* 255\)\.round"),
    "channels first": (saved(np.zeros((2, 3, 4, 4), np.float32)), r"\* 255.* then x = x\.transpose\(0, 2, 3, 1\)"),
    "bytes of channels first": (saved(np.zeros((2, 3, 4, 4), np.uint8)), r"NumPy x = x\.transpose\(0, 2, 3, 1\)"),
    "big-endian": (saved(np.zeros((2, 4, 4, 3), ">i2")), r"is int16 .*x = x\.astype\('uint8'\)"),
    "one image": (saved(np.zeros((4, 4, 3), np.uint8)), r"x\[None\] of one"),
    "videos": (saved(np.zeros((2, 5, 4, 4, 3), np.uint8)), r"x\.reshape\(-1, 4, 4, 3\)"),
    "channels": (saved(np.zeros((2, 4, 4, 7), np.uint8)), "give images of 1 or 3 channels"),
    "Fortran order": (saved(np.asfortranarray(IMAGES)), r"in Fortran order; .*ascontiguousarray"),
    "no pixels": (saved(np.zeros((2, 0, 4, 3), np.uint8)), "at least one pixel"),
    "no rows": (
        saved(np.zeros((0, 4, 4, 3), np.uint8)),
        r"no array holds images: .*uint8 \(0, 4, 4, 3\); .*; save one image",
    ),
    "labels alone": (saved(LABELS), r"no array holds images: .*int64 \(10,\); expected .*; name the images too"),
    "cut short": (saved(IMAGES)[:-1], r"holds 1,567 of the 1,568 bytes .* cut short"),
    "more": (saved(IMAGES) + saved(IMAGES), "holds 3,136 bytes, .*write each array to a file of its own"),
    "a lie of the shape": (headed(ONE % "(1000000000000, 9999, 9999, 3)"), "cut short"),
    "a negative side": (headed(ONE % "(-1, 4, 4, 3)"), "is damaged in its header, which says the shape"),
    "a huge header": (headed("", 2, 0xFFFFFFF0), "has a header of 4,294,967,280 bytes, the limit is 10,000"),
    "a long header": (headed("(" * 9990), "damaged in its header"),
    "a call for a header": (headed("__import__('os').abort()"), "damaged in its header"),
    "another version": (headed(ONE % "(1, 4, 4, 3)", 9), "is no array of NumPy"),
    "no header": (b"", "is no array of NumPy"),
    "another file": (b"PK\3\4 and so on", "is no array of NumPy"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_refused_with_what_makes_it_readable(tmp_path, name):
    data, message = REFUSED[name]
    (tmp_path / "x.npy").write_bytes(data)
    with pytest.raises(SourceError, match=rf"x\.npy.*{message}|{message}"):
        open_source(tmp_path)
    # What is read is not refused for it.
    np.save(tmp_path / "y.npy", IMAGES)
    told = []
    source = open_source(tmp_path, labels=False, looking=Looking(damaged=told.append))
    assert source.rows == COUNT
    assert len(told) == (name not in ("no rows", "labels alone"))
    # In a zip it is the same, without an image beside it.
    with zipfile.ZipFile(tmp_path / "z.npz", "w") as packed:
        packed.writestr("x.npy", data)
    with pytest.raises(SourceError, match=message):
        open_source(tmp_path / "z.npz")


MADE = {
    "bits": np.ones((2, 4, 4, 3), bool),
    "signed bytes": np.full((2, 4, 4, 3), 127, np.int8),
    "colours and alpha": np.full((2, 5, 5, 4), 255, np.uint8),
    "grey and alpha": np.full((2, 5, 5, 2), 255, np.uint8),
    "alpha first": np.ones((2, 4, 5, 5)),
    "videos of colours first": np.full((2, 7, 3, 5, 5), 255, np.int32),
    "grey images in Fortran order": np.asfortranarray(np.ones((2, 4, 5), bool)),
    "a structured array": np.array([(np.full((4, 4, 3), 255), 7)] * 2, [("FIELD", "u1", (4, 4, 3)), ("label", int)]),
}


@pytest.mark.parametrize("name", MADE)
def test_the_line_of_numpy_makes_images_of_the_same_values(tmp_path, name):
    np.save(tmp_path / "x.npy", MADE[name])
    with pytest.raises(SourceError) as raised:
        open_source(tmp_path / "x.npy")
    held = {"x": MADE[name], "numpy": np}
    for line in str(raised.value).partition("in NumPy ")[2].split(", then "):
        exec(line.partition(" of ")[0], held)
    np.save(tmp_path / "x.npy", held["x"])
    assert open_source(tmp_path / "x.npy").rows == len(held["x"])
    assert (held["x"] == 255).all()


def test_files_without_any_array_of_images_say_what_to_save(tmp_path):
    np.savez(tmp_path / "x.npz")
    with pytest.raises(SourceError, match=r"there is none; .*write some by numpy\.savez"):
        open_source(tmp_path / "x.npz")
    np.save(tmp_path / "x.npy", np.zeros((2, 4, 4, 3), complex))
    with pytest.raises(SourceError, match="no pixels: leave it out"):
        open_source(tmp_path / "x.npy")


def test_a_damaged_zip_is_named_at_every_length_and_bit(tmp_path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, x=np.repeat(IMAGES[:1], 9, 0), y=LABELS[:9])
    whole, expected = path.read_bytes(), [row.data for row in rows_of(open_source(path))]
    broken = [whole[:length] for length in range(0, len(whole), 7)]
    broken += [whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :] for at in range(0, len(whole), 5)]
    refused = []
    for data in broken:
        path.write_bytes(data)
        try:
            assert [row.data for row in rows_of(open_source(path))] == expected
        except SourceError as error:
            refused.append(str(error))
    assert all("x.npz" in text for text in refused)
    assert len(refused) > len(broken) // 2


DAMAGES = {
    "a name that is no text": lambda whole: whole.replace("é".encode(), b"\xff\xff"),
    "such a name where the member stands": lambda whole: whole.replace("é".encode(), b"\xff\xff", 1),
    "members before the file": lambda whole: whole[:-6] + b"\xff\xff\0\0" + whole[-2:],
    "a member that cannot be unpacked": lambda whole: whole[:70] + b"\xff" * 40 + whole[110:],
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_zip_beside_images_is_named_or_asked_about(tmp_path, name):
    (tmp_path / "1.png").write_bytes(b"x")
    path = tmp_path / "x.npz"
    np.savez_compressed(path, **{"é": np.repeat(IMAGES[:1], 9, 0)})
    damaged = DAMAGES[name](path.read_bytes())
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    # By its headers, then by a look.
    with pytest.raises(SourceError, match=r"holds both images .* --kind images or --kind arrays"):
        open_source(tmp_path)
    with pytest.raises(SourceError, match=r"x\.npz: (is cut .* damaged|cannot be looked into): .*get or write it"):
        open_source(tmp_path, kind="arrays")


def test_a_zip_that_unpacks_to_too_much_is_refused_before_it_is(tmp_path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, x=IMAGES)
    data = path.read_bytes()
    at = data.rindex(b"PK\1\2") + 24
    path.write_bytes(data[:at] + struct.pack("<I", 0xFFFFFFF0) + data[at + 4 :])
    with pytest.raises(SourceError, match=r"cut short or damaged|holds 4,294,967,280 bytes"):
        open_source(path)
    with zipfile.ZipFile(path, "w") as packed:
        for k in range(10_001):
            packed.writestr(f"{k}.npy", b"")
    with pytest.raises(SourceError, match=r"unpacks to 10,001 arrays .*unpack it"):
        open_source(path)


def test_labels_of_another_number_are_refused_where_labels_are_read(tmp_path):
    np.save(tmp_path / "fog.npy", IMAGES)
    np.save(tmp_path / "labels.npy", LABELS[:4])
    assert open_source(tmp_path, labels=False).rows == COUNT
    with pytest.raises(SourceError, match="fog holds 10 images, labels 4 labels; give as many"):
        open_source(tmp_path)
    np.save(tmp_path / "fog_labels.npy", LABELS)
    assert [row.label for row in rows_of(open_source(tmp_path))] == [*LABELS]
    np.save(tmp_path / "fog_labels.npy", LABELS + 100_000)
    with pytest.raises(SourceError, match="labels must be class indices below 100,000, 100,002 is one"):
        open_source(tmp_path)


def test_arrays_without_images_beside_images_are_about_these(tmp_path):
    (tmp_path / "1.png").write_bytes(b"x")
    np.save(tmp_path / "features.npy", np.zeros((4, 7, 7, 512), np.float32))
    np.savez(tmp_path / "labels.npz", y=LABELS)
    source = open_source(tmp_path)
    assert (source.kind, source.ignored) == ("folder", {".npy files without images": 1, ".npz files without images": 1})
    np.save(tmp_path / "fog.npy", IMAGES)
    with pytest.raises(SourceError, match=r"holds both images .* --kind images or --kind arrays"):
        open_source(tmp_path)
    # The features are refused, and told.
    told = []
    assert open_source(tmp_path, kind="arrays", labels=False, looking=Looking(damaged=told.append)).rows == COUNT
    assert len(told) == 1


def test_a_folder_of_hugging_faces_library_is_told_what_to_do(tmp_path):
    for name in ("data-00000-of-00001.arrow", "state.json", "dataset_info.json"):
        (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(SourceError, match=r"1 \.arrow files \(in Python .*load_from_disk\(FOLDER\)\.to_parquet"):
        open_source(tmp_path)
    assert "to_parquet" in passed_over_text({".arrow files": 1})


def test_a_record_of_files_names_no_others(tmp_path):
    source = open_source(layout(tmp_path / "in"), shard_rows=SHARD)
    purified(tmp_path / "out", source)
    record = tmp_path / "out" / STATE / "arrays.json"
    assert json.loads(record.read_bytes()) == ["fog.npy", "labels.npy", "names.npy", "snow.npy"]
    for text in ("[", "3", json.dumps(["../in/fog.npy", str(tmp_path / "in/snow.npy"), "a/../../in/labels.npy", 3])):
        record.write_text(text)
        open_sink(tmp_path / "out", source, settings={}, overwrite=True)
        assert len(files(tmp_path / "in")) == 4


def test_records_of_any_names_are_said_to_be_some(tmp_path):
    for name in ("image", "obrázek", "画像"):
        np.save(tmp_path / "a.npy", np.zeros(3, [(name, np.uint8, (8, 8, 3))]))
        with pytest.raises(SourceError, match=r"x = x\['FIELD'\]"):
            open_source(tmp_path / "a.npy")
