"""Tars as people have them: names of WebDataset, several images a sample, compressed, tars of tars, those of macOS."""

import bz2
import gzip
import io
import json
import lzma
import os
import random
import tarfile
import tracemalloc

import pyarrow as pa
import pytest
from bad_images import encode, pixels
from provenance import facts

from raypurify.containers.looking import Looking
from raypurify.containers.selection import select
from raypurify.containers.sink import finish, missing, open_sink, write_shard
from raypurify.containers.source import open_source, read_shard
from raypurify.errors import ImageError, SinkError, SourceError

PNG = encode(pixels())


def zstd(data):
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as stream:
        stream.write(data)
    return out.getvalue().to_pybytes()


CODECS = {
    "tar.gz": gzip.compress,
    "tgz": gzip.compress,
    "tar.bz2": bz2.compress,
    "tar.xz": lzma.compress,
    "tar.zst": zstd,
}


def packed(members) -> bytes:
    """A tar of (name, bytes); None for a folder, a text for what a hard link points to."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            if data is None:
                member.type = tarfile.DIRTYPE
            elif isinstance(data, str):
                member.type, member.linkname = tarfile.LNKTYPE, data
            else:
                member.size = len(data)
            tar.addfile(member, io.BytesIO(data) if isinstance(data, bytes) else None)
    return out.getvalue()


def samples(count, first=0, label=True):
    for k in range(first, first + count):
        yield from [(f"{k:03d}.cls", b"%d" % (k % 3))] * label
        yield f"{k:03d}.png", b"image %d" % k


def members_of(path) -> list[tuple[str, bytes]]:
    with tarfile.open(path) as file:
        return [(member.name, file.extractfile(member).read()) for member in file]


def rows_of(source):
    return [row for shard in source.shards for row in read_shard(shard)]


def facts_of(source):
    return [(row.id, row.data, row.label, row.error and row.error.reason) for row in rows_of(source)]


def purified(out, source, bad=(), **options):
    """A job that writes <id> for each image; those of the ids in ``bad`` fail. Returns the members of each tar."""
    sink = open_sink(out, source, settings={}, **options)
    for shard in source.shards:
        results = []
        for row in read_shard(shard):
            error = row.error or (ImageError("truncated", "x") if row.id in bad else None)
            results.append((row, error or f"<{row.id}>".encode(), None if error else facts()))
        write_shard(sink, shard, results[::-1])
    finish(sink)
    return {str(path.relative_to(out)): members_of(path) for path in sorted(out.rglob("*.tar"))}


@pytest.mark.parametrize(
    ("names", "named", "expected", "written"),
    [
        ("0.left.png 0.right.png", None, "0.left.png 0.right.png", "0.left.png 0.right.png"),
        ("image.jpg", None, "image", "image.png"),
        ("IMG_1.2.jpg", None, "IMG_1", "IMG_1.2.png"),
        ("a.b/0.image.JPG a.b/0.txt", None, "a.b/0", "a.b/0.image.png"),
        ("./d/0.jpg", None, "./d/0", "./d/0.png"),
        ("0.jpg 0.seg.png 0.left.depth_map.png 0.mask-2.png", None, "0", "0.png"),
        ("0.normal.jpg", None, "0", "0.normal.png"),
        ("0.jpg 0.png 0.webp", None, "0.jpg 0.png 0.webp", "0.jpg.png 0.png 0.webp.png"),
        ("0.jpg 0.thumb.png", "jpg", "0", "0.png"),
        ("0.jpg 0.png", ".JPG", "0", "0.jpg.png"),
        ("0.left.jpg 0.right.jpg 0.top.jpg", "right.jpg, left.jpg", "0.left.jpg 0.right.jpg", "0.left.png 0.right.png"),
        ("0.seg.png 0.jpg", "seg.png", "0", "0.seg.png"),
        ("0.raw", "raw", "0", "0.png"),
    ],
)
def test_the_last_part_of_the_extension_says_what_is_an_image(tmp_path, names, named, expected, written):
    names = names.split()
    (tmp_path / "x.tar").write_bytes(packed([(name, name.encode()) for name in names]))
    source = open_source(tmp_path / "x.tar", image_member=named)
    assert [row.id for row in rows_of(source)] == [f"x/{identity}" for identity in expected.split()]
    assert not any(row.error for row in rows_of(source))
    ((_, made),) = purified(tmp_path / "out", source).items()
    changed = [name for name, data in made if data.startswith(b"<")]
    assert changed == written.split()
    # All else is there as it was.
    kept = [(name, data) for name, data in made if name not in changed]
    assert len(made) == len(names)
    assert all(name.encode() == data for name, data in kept)


def test_image_members_belong_to_the_job_and_to_the_digest(tmp_path):
    (tmp_path / "x.tar").write_bytes(packed([("0.a.png", b"1"), ("0.b.png", b"2"), ("1.a.png", b"3")]))
    sources = [open_source(tmp_path / "x.tar", image_member=named) for named in (None, "a.png", "a.png,b.png")]
    assert [source.rows for source in sources] == [3, 2, 3]
    assert len({source.digest for source in sources}) == 3
    open_sink(tmp_path / "out", sources[1], settings={})
    job = json.loads((tmp_path / "out/_raypurify/job.json").read_text())
    assert job["settings"]["image_member"] == "a.png"
    with pytest.raises(SinkError, match=r'settings\.image_member \("a\.png" → null\)'):
        open_sink(tmp_path / "out", sources[0], settings={})
    for named, message in (("c.png", "no sample has a member of the extension c.png"), (" , ", "names no extension")):
        with pytest.raises(SourceError, match=message):
            open_source(tmp_path / "x.tar", image_member=named)
    (tmp_path / "1.png").write_bytes(PNG)
    with pytest.raises(SourceError, match="--image-member png is for tars, the input holds images; leave it out"):
        open_source(tmp_path / "1.png", image_member="png")
    (tmp_path / "m.tar").write_bytes(packed([("0.seg.png", b"1")]))
    (row,) = rows_of(open_source(tmp_path / "m.tar"))
    assert "sample 0 holds no image; .seg.png is not taken for one, --image-member seg.png says it is" in str(row.error)


@pytest.mark.parametrize("seed", range(6))
def test_a_sample_is_never_cut_and_every_image_of_it_is_a_row(tmp_path, seed):
    draw = random.Random(seed)
    expected, members = {}, []
    for k in range(60):
        views = draw.sample(["a.png", "b.jpg", "c.webp", "jpg"], draw.choice([0, 1, 1, 2, 3, 4]))
        held = [(f"{k}.{view}", b"%d %s" % (k, view.encode())) for view in views]
        expected |= {(f"x/{name}" if len(views) > 1 else f"x/{k}"): data for name, data in held} or {f"x/{k}": None}
        held += [(f"{k}.txt", b"text"), (f"{k}.seg.png", b"mask")]
        members += draw.sample(held, len(held))
    (tmp_path / "x.tar").write_bytes(packed(members))
    order = [name for name, _ in members]
    source = open_source(tmp_path / "x.tar", shard_rows=draw.choice([1, 3, 8, 300]))
    rows = rows_of(source)
    assert source.rows == len(rows) == len(expected)
    assert {row.id: row.data for row in rows} == expected
    assert [row.row for row in rows] == list(range(len(rows)))
    keys = [{row.id[2:].partition(".")[0] for row in read_shard(shard)} for shard in source.shards]
    assert sum(map(len, keys)) == 60
    # A part of the images: the others of their samples are not passed on unpurified.
    some = select(select(source, sample=40, seed=seed), sample=25, seed=1)
    bad = {row.id for row in rows_of(some)[::5]}
    good = {row.id for row in rows_of(some) if not row.error} - bad
    picked = {row.id[2:].partition(".")[0] for row in rows_of(some)}
    for dropped in (False, True):
        tars = purified(tmp_path / f"out{dropped}", some, bad, drop_failed=dropped)
        made = [member for tar in tars.values() for member in tar]
        assert {data[1:-1].decode() for name, data in made if data.startswith(b"<")} == good
        kept = {identity[2:].partition(".")[0] for identity in good} if dropped else picked
        others = [name for name, data in made if not data.startswith(b"<")]
        sidecars = [name for name in order if name.endswith((".txt", ".seg.png")) and name.partition(".")[0] in kept]
        assert others == sidecars
        assert len({name for name, _ in made}) == len(made)


def test_two_images_of_one_name_are_refused(tmp_path):
    (tmp_path / "x.tar").write_bytes(packed([("a.png", b"1"), ("a.txt", b""), ("a.png", b"2")]))
    with pytest.raises(SourceError, match=r"x.tar: holds two images of the name a.png; rename one"):
        open_source(tmp_path / "x.tar")


def test_what_macos_and_people_put_into_tars_is_passed_over_and_counted(tmp_path):
    members = [("./", None), ("./._.", b"x"), ("./.DS_Store", b"x"), ("./README.md", b"x"), ("./LICENSE", b"x")]
    for k in range(3):
        members += [(f"./d/._{k}.cls", b"x"), (f"./d/{k}.cls", b"%d" % k)]
        members += [(f"./d/._{k}.png", b"x"), (f"./d/{k}.png", b"image %d" % k)]
    members += [("__MACOSX/d/0.png", b"x"), ("Thumbs.db", b"x"), ("readme.png", PNG), ("./notes/citation.cff", b"x")]
    (tmp_path / "x.tar").write_bytes(packed(members))
    source = open_source(tmp_path / "x.tar", shard_rows=2)
    assert facts_of(source) == [
        *((f"x/./d/{k}", b"image %d" % k, k, None) for k in range(3)),
        ("x/readme", PNG, None, None),
    ]
    assert source.ignored == {"hidden names in tars": 10, "READMEs and the like in tars": 3}
    made = [name for tar in purified(tmp_path / "out", source).values() for name, _ in tar]
    assert made == [f"./d/{k}{suffix}" for k in range(3) for suffix in (".cls", ".png")] + ["readme.png"]


@pytest.fixture
def imagenet(tmp_path):
    """A tar of tars, one a class, one of them of hard links and images that need their labels from its name."""
    classes = {f"n{k:02d}": [(f"n{k:02d}_{j}.JPEG", b"image %d %d" % (k, j)) for j in range(5 + k)] for k in range(3)}
    classes["n02"] += [("n02_9.JPEG", "n02_1.JPEG"), ("n02_99.JPEG", b"last")]
    path = tmp_path / "in" / "ILSVRC2012_img_train.tar"
    path.parent.mkdir()
    path.write_bytes(packed([(f"./{name}.tar", packed(members)) for name, members in classes.items()]))
    return path, classes


def test_a_tar_of_tars_is_read_where_it_is(imagenet, tmp_path):
    path, classes = imagenet
    data = dict(member for members in classes.values() for member in members) | {"n02_9.JPEG": b"image 2 1"}
    expected = [
        (f"ILSVRC2012_img_train/{name}/{member[:-5]}", data[member], number, None)
        for number, (name, members) in enumerate(classes.items())
        for member, _ in members
    ]
    source = open_source(path.parent, shard_rows=3)
    assert (source.classes, facts_of(source)) == (("n00", "n01", "n02"), expected)
    some = select(source, sample=7)
    assert set(facts_of(some)) < set(expected)
    tars = purified(tmp_path / "out", source)
    assert list(tars) == [
        f"ILSVRC2012_img_train/{name}-{k:05d}.tar" for name, k in (("n00", 0), ("n01", 0), ("n01", 1), ("n02", 0))
    ] + [f"ILSVRC2012_img_train/n02-{k:05d}.tar" for k in (1, 2)]
    assert [data for tar in tars.values() for _, data in tar] == [f"<{row[0]}>".encode() for row in expected]
    # The same from a store.
    import fsspec

    fsspec.filesystem("memory").pipe_file(f"{tmp_path}/in/{path.name}", path.read_bytes())
    there = open_source(f"memory://{tmp_path}/in", shard_rows=3)
    assert (there.digest, facts_of(there)) == (source.digest, expected)


def test_no_cut_and_no_zeros_in_a_tar_of_tars_lose_a_row(tmp_path):
    path = tmp_path / "x.tar"
    whole = packed([(f"{k}.tar", packed(samples(2, first=2 * k))[: 4 * 1024 + 1024]) for k in range(2)])
    path.write_bytes(whole)
    expected = facts_of(open_source(path))
    assert len(expected) == 4
    end = whole.rstrip(b"\0")
    for at in range(0, len(end) + 600, 128):
        for damaged in (whole[:at], whole[:at] + bytes(64) + whole[at + 64 :], whole[:at] + b"!" + whole[at + 1 :]):
            path.write_bytes(damaged)
            try:
                assert len(facts_of(open_source(path))) == 4, at
            except SourceError:
                continue


def test_tars_in_tars_stay_below_the_output_and_apart(tmp_path):
    names = ["../../up.tar", "/etc/root.tar", "a/same.tar", "b/same.tar"]
    inner = [packed(samples(1, first=k)) for k in range(4)]
    (tmp_path / "x.tar").write_bytes(packed(zip(names, inner)))
    source = open_source(tmp_path / "x.tar")
    assert source.classes == ("0", "1", "2")
    assert [row.id for row in rows_of(source)] == ["x/up/000", "x/etc/root/001", "x/a/same/002", "x/b/same/003"]
    assert sorted(os.path.dirname(name) for name in purified(tmp_path / "out", source)) == ["x", "x/a", "x/b", "x/etc"]
    (tmp_path / "x").mkdir()
    (tmp_path / "x/up.tar").write_bytes(inner[0])
    with pytest.raises(SourceError, match=r"the samples of x.tar/up.tar and x/up.tar would have the same names"):
        open_source([tmp_path / "x.tar", tmp_path / "x/up.tar"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda one: ("x.tar", packed([("a.tar", packed([("b.tar", one)]))])), "unpack it by `tar -xf x.tar`"),
        (lambda one: ("x.tar.gz", gzip.compress(packed([("a.tar", one)]))), "unpack it by `tar -xf x.tar.gz`"),
        (
            lambda one: ("x.tar", packed([("a.tar.gz", gzip.compress(one))])),
            "holds the tar a.tar.gz, .*`tar -xf x.tar`",
        ),
        (lambda one: ("x.tar", packed([("a.tar", one), ("b.png", PNG)])), "holds tars and also b.png"),
        (lambda one: ("x.tar", packed([("a.tar", one[:2000])])), "a.tar in it is cut off at byte"),
        (lambda one: ("x.tar", packed([("a.tar", b"no tar" * 500)])), "a.tar in it is no readable tar"),
    ],
    ids=["three-deep", "compressed-outer", "compressed-inner", "mixed", "cut-inner", "no-inner"],
)
def test_tars_in_tars_that_cannot_be_read_there_are_refused(tmp_path, make, message):
    name, data = make(packed(samples(2)))
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match=message):
        open_source(tmp_path / name)


@pytest.mark.parametrize("names", [("v1.0.tar", "v2.0.tar"), ("train.part1.tar",)])
def test_names_of_inner_tars_may_hold_dots(tmp_path, names):
    (tmp_path / "x.tar").write_bytes(packed((name, packed(samples(2))) for name in names))
    assert len(rows_of(open_source(tmp_path / "x.tar"))) == 2 * len(names)


@pytest.mark.parametrize("names", [("a.tar", "a.md5"), ("p.part1.tar", "p.part2.tar"), ("0.png", "a.tar")])
def test_a_tar_among_other_files_is_refused_in_any_order(tmp_path, names):
    contents = {".tar": packed(samples(2)), ".md5": b"0", ".png": PNG}
    (tmp_path / "x.tar").write_bytes(packed((name, contents[name[-4:]]) for name in names))
    with pytest.raises(SourceError, match=r"holds the tar .* among other files"):
        open_source(tmp_path / "x.tar")


def test_images_that_cannot_be_read_are_counted_where_they_pass_through(tmp_path):
    (tmp_path / "x.tar").write_bytes(packed([("1.png", PNG), ("1.left.jxl", b"a"), ("1.right.JXL", b"b")]))
    source = open_source(tmp_path / "x.tar")
    assert (source.rows, source.ignored) == (1, {".jxl images in tars, which come out as they are": 2})


def test_ids_are_told_apart_as_they_are_written(tmp_path):
    (tmp_path / "x.tar").write_bytes(packed([("caf\udce9.png", PNG), ("caf%E9.png", PNG)]))
    with pytest.raises(SourceError, match="or it comes twice"):
        open_source(tmp_path / "x.tar")


def test_a_tar_that_was_not_filled_to_its_end_loses_no_row(tmp_path):
    """Whatever part of a download is missing, where the file has its full size."""
    data = packed([(f"{k:03d}.png", random.Random(k).randbytes(9000)) for k in range(40)])
    for cut in range(512, len(data) - (128 << 10), 512 * 37):
        (tmp_path / "x.tar").write_bytes(data[:cut] + bytes(len(data) - cut))
        with pytest.raises(SourceError, match=r"zeros|damaged|cut off"):
            open_source(tmp_path / "x.tar")


def test_a_sidecar_that_is_a_tar_is_a_sidecar(tmp_path):
    (tmp_path / "x.tar").write_bytes(packed([("0.png", PNG), ("0.tar", b"any"), ("1.png", PNG)]))
    assert [row.error for row in rows_of(open_source(tmp_path / "x.tar"))] == [None, None]


@pytest.mark.parametrize("suffix", CODECS)
def test_a_compressed_tar_is_the_tar_in_it(tmp_path, suffix):
    # The link points further back than what is kept of a stream.
    whole = packed([*samples(20), ("y.png", b"y" * (5 << 19)), ("link.png", "003.png"), ("z.png", os.urandom(1 << 18))])
    for folder, name, data in (("one", "x.tar", whole), ("two", f"x.{suffix}", CODECS[suffix](whole))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(data)
    plain, source = (open_source(tmp_path / folder, shard_rows=8) for folder in ("one", "two"))
    assert facts_of(source) == facts_of(plain)
    assert [(shard.name, shard.rows) for shard in source.shards] == [(shard.name, shard.rows) for shard in plain.shards]
    assert facts_of(select(source, sample=5)) == facts_of(select(plain, sample=5))
    assert purified(tmp_path / "out", source) == purified(tmp_path / "plain", plain)
    # What it is says its content, not its name.
    (tmp_path / "one/x.tar").write_bytes(CODECS[suffix](whole))
    assert facts_of(open_source(tmp_path / "one")) == facts_of(source)
    (tmp_path / "two/x.tar").write_bytes(whole)
    with pytest.raises(SourceError, match=r"x\.\S+ and x\.\S+ would have the same names"):
        open_source(tmp_path / "two")


@pytest.mark.parametrize("suffix", ["tar.gz", "tar.bz2", "tar.xz", "tar.zst"])
def test_no_cut_and_no_changed_byte_of_a_compressed_tar_loses_a_row(tmp_path, suffix):
    draw = random.Random(0)
    whole = CODECS[suffix](packed([(f"{k}.png", draw.randbytes(700)) for k in range(3)]))
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(whole)
    expected = facts_of(open_source(path))
    for length in range(0, len(whole), 11):
        path.write_bytes(whole[:length])
        with pytest.raises(SourceError, match=rf"x\.{suffix}: "):
            open_source(path)
    for length in (1, 4, 8):
        path.write_bytes(whole[:-length])
        with pytest.raises(SourceError, match=r"cannot be unpacked further than to byte [\d,]+ .* get it again"):
            open_source(path)
    for at in range(0, len(whole), 11):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        try:
            found = facts_of(open_source(path))
        except SourceError:
            continue
        # Without a checksum, as of zstd, only the bytes of images may differ.
        assert len(found) == len(expected), at


def test_a_bomb_fills_no_memory(tmp_path):
    image, text = tarfile.TarInfo("0.png"), tarfile.TarInfo("long")
    image.size, text.size, text.type = 300 << 20, 300 << 20, tarfile.XHDTYPE
    size = 300 << 20
    bombs = {
        "image": image.tobuf() + bytes(size) + bytes(1024),
        "names": text.tobuf(tarfile.USTAR_FORMAT) + bytes(size),
        "padding": packed(samples(1)) + bytes(size),
    }
    for name, data in bombs.items():
        (tmp_path / f"{name}.tar.zst").write_bytes(zstd(data))
    del bombs, data
    tracemalloc.start()
    try:
        (row,) = rows_of(open_source(tmp_path / "image.tar.zst"))
        assert row.error.reason == "too-large"
        for name, message in (("names", "bytes of names"), ("padding", "zeros from byte")):
            with pytest.raises(SourceError, match=message):
                open_source(tmp_path / f"{name}.tar.zst")
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()


def test_a_tar_of_tars_that_is_mended_renames_no_shard_of_others(tmp_path):
    """Where names repeat, shards are numbered: those that are committed are not taken for those of another tar."""
    (tmp_path / "in/a").mkdir(parents=True)
    (tmp_path / "in/c").mkdir()
    for path, first in (("a/x", 0), ("c/x", 10)):
        (tmp_path / f"in/{path}.tar").write_bytes(packed(samples(2, first)))
    path, out = tmp_path / "in/b.tar", tmp_path / "out"
    whole = packed([(f"{name}.tar", packed(samples(2, first))) for name, first in (("m", 20), ("x", 30))])
    path.write_bytes(whole[: len(whole) // 2])
    source = open_source(tmp_path / "in", labels=False, looking=Looking(damaged=lambda error: None))
    sink = open_sink(out, source, settings={})
    for shard in source.shards:
        write_shard(sink, shard, [(row, row.data, facts()) for row in read_shard(shard)])
    path.write_bytes(whole)
    whole_source = open_source(tmp_path / "in", labels=False)
    sink = open_sink(out, whole_source, settings={})
    left = [shard for shard in whole_source.shards if shard.name in missing(sink)]
    assert [shard.cut.prefix for shard in left] == ["b/m", "b/x"]
    assert {shard.name for shard in source.shards} < {shard.name for shard in whole_source.shards}
