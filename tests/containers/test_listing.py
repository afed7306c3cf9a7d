"""The layouts that people have: what of them is read, what is set aside, which patterns and links name it."""

import glob
import io
import os
import pickle
import tarfile
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_images import encode, pixels

from raypurify.containers import patterns
from raypurify.containers.passed_over import passed_over_text
from raypurify.containers.sink import open_sink
from raypurify.containers.source import open_source, read_shard
from raypurify.errors import SinkError, SourceError

PNG = encode(pixels())


def tar_bytes() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo("0.png")
        member.size = len(PNG)
        tar.addfile(member, io.BytesIO(PNG))
    return out.getvalue()


def parquet_bytes(**columns) -> bytes:
    out = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), out)
    return out.getvalue().to_pybytes()


IMAGES = parquet_bytes(jpg=pa.array([PNG], pa.binary()))
FACTS = parquet_bytes(url=["http://x"], width=[20])
TAR = tar_bytes()
CONTENT = {".png": PNG, ".tar": TAR, ".json": b"{}", ".csv": b"file_name"}


def build(root: Path, *names: str, **content: bytes) -> Path:
    """Files of the given names, each with what fits its suffix, unless ``content`` has it by its stem."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.get(path.name.partition(".")[0]) or CONTENT.get(path.suffix, FACTS))
    return root


def ids(source) -> list[str]:
    return [row.id for shard in source.shards for row in read_shard(shard)]


LAYOUTS = {
    "img2dataset's tars": (
        ["00000.tar", "00000.parquet", "00000_stats.json", "00001.tar", "00001.parquet", "00001_stats.json"],
        ("tar", 2, {".json files": 2, ".parquet files without images": 2}),
    ),
    "img2dataset's files": (
        ["00000/000000000.png", "00000/000000000.json", "00000.parquet", "00000_stats.json"],
        ("folder", 1, {".json files": 2, ".parquet files without images": 1}),
    ),
    "ImageFolder with metadata.parquet": (
        ["train/a.png", "train/b.png", "train/metadata.parquet", "metadata.parquet"],
        ("folder", 2, {".parquet files without images": 2}),
    ),
    "ImageFolder with metadata.csv": (["a/1.png", "metadata.csv"], ("folder", 1, {".csv files": 1})),
    "tars with an index": (["x/0.tar", "index.parquet"], ("tar", 1, {".parquet files without images": 1})),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_table_about_the_images_is_set_aside(tmp_path, name):
    names, expected = LAYOUTS[name]
    source = open_source(build(tmp_path, *names))
    assert (source.kind, source.rows, source.ignored) == expected


UNCLEAR = {
    "a stray archive": (["a/1.png", "a/2.png", "old.tar"], {}, "images", {"images": 2, "tars": 1}),
    "a table that may hold images": (["a/1.png", "a.parquet"], {"a": IMAGES}, "images", {"images": 1, "parquet": 1}),
    "one of many tables holds images": (
        ["0.tar", "x.parquet", "y.parquet"],
        {"y": IMAGES},
        "parquet",
        {"tars": 1},
    ),
    "a damaged table": (["0.tar", "0.parquet"], {"0": b"PAR1"}, "tars", {}),
    "all three": (["a/1.png", "b.tar", "c.parquet"], {}, "images", {"images": 1, "tars": 1}),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_what_is_not_clear_asks_for_a_kind_which_is_then_read(tmp_path, name):
    names, content, option, rows = UNCLEAR[name]
    build(tmp_path, *names, **content)
    with pytest.raises(SourceError, match=rf"holds both \w.* \(.*\) and .*; say which to read: .*--kind {option}"):
        open_source(tmp_path)
    for kind, count in rows.items():
        source = open_source(tmp_path, kind=kind)
        assert source.rows == count
        assert sum(n for reason, n in source.ignored.items() if reason.endswith(f"files (--kind {kind})")) > 0


def test_a_kind_that_is_not_there_or_not_known_is_named(tmp_path):
    build(tmp_path, "a/1.png")
    with pytest.raises(SourceError, match=r"holds no tar \(1 \.png files \(--kind tars\)\); check the path; known: "):
        open_source(tmp_path, kind="tars")
    with pytest.raises(SourceError, match="unknown kind 'tar'; use one of images, parquet, tars"):
        open_source(tmp_path, kind="tar")


def test_a_parquet_file_is_known_by_its_content_where_its_name_ends_in_a_compression(tmp_path):
    build(tmp_path, "a.parquet.gzip", "b.PARQ", "c.parquet.zst", "_d.parquet.gz", a=IMAGES, b=IMAGES, c=b"\x1f\x8b")
    source = open_source(tmp_path)
    assert (source.kind, source.rows) == ("parquet", 2)
    reason = ".zst files that are no Parquet, though it is in their names (unpack them)"
    assert source.ignored == {"hidden names": 1, reason: 1}


def test_images_that_are_not_read_are_told_by_suffix_however_few(tmp_path):
    build(tmp_path, "a.png", "b.jxl", "c.PSD", *(f"{k}.{suffix}" for suffix in "bcdefghi" for k in range(3)))
    text = passed_over_text(open_source(tmp_path).ignored)
    assert "1 .jxl images that are not read, 1 .psd images that are not read" in text
    assert text.endswith("6 others")


# By pattern, relative to a folder with these files.
FILES = ["a/1.png", "a/2.png", "a/.3.png", "b/1.png", "b/c/1.png", "b/c/10.png", "{x}/1.png", "[ab]/9.png", ".h/1.png"]
PATTERNS = {
    "a/*.png": ["1.png", "2.png"],
    "*/1.png": ["a/1.png", "b/1.png", "{x}/1.png"],
    "b/c/1?.png": ["10.png"],
    "[!a]/1.png": ["1.png"],
    "[ab]": ["9.png"],
    "[a-b]/1.png": ["a/1.png", "b/1.png"],
    "**/1*.png": ["a/1.png", "b/1.png", "b/c/1.png", "b/c/10.png", "{x}/1.png"],
    "b/**": ["1.png", "c/1.png", "c/10.png"],
    "**/c": ["1.png", "10.png"],
    "{a,b/c}/1.png": ["a/1.png", "b/c/1.png"],
    "{x}": ["1.png"],
    "a/{1..2}.png": ["1.png", "2.png"],
    "{a,b}/*": ["a/1.png", "a/2.png", "b/1.png", "b/c/1.png", "b/c/10.png"],
    "*/.3.png": [".3.png"],
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_name_what_they_name_in_a_shell_on_disk_and_in_a_store(tmp_path, pattern):
    build(tmp_path, *FILES)
    if "{" not in pattern and "**" not in pattern:
        by_the_shell = sorted(glob.glob(str(tmp_path / pattern)))
        named = [place.path for place, _ in patterns.named_by(tmp_path / pattern).named]
        assert named == ([str(tmp_path / "[ab]")] if pattern == "[ab]" else by_the_shell)
    store = fsspec.filesystem("memory")
    for name in FILES:
        store.pipe_file(f"{tmp_path}/{name}", PNG)
    on_disk, in_store = (open_source(f"{root}{tmp_path}/{pattern}") for root in ("", "memory:/"))
    assert ids(on_disk) == ids(in_store) == PATTERNS[pattern]
    assert on_disk.digest == in_store.digest


def test_a_store_is_listed_for_a_pattern(store, tmp_path):
    build(tmp_path, *FILES, "b/d e%/1.tar", "b/d e%/2.tar")
    store.put_folder("listing", tmp_path)
    for pattern in ("**/1*.png", "{a,b/c}/1.png", "b/c/1[0-9].png"):
        assert ids(open_source(store.uri("listing/X").replace("X", pattern))) == PATTERNS.get(pattern, ["10.png"])
    # Escaped, and as people write it.
    for name in ("b/d%20e%25/{1..2}.tar", "b/d e%25/*.tar"):
        assert open_source(store.uri("listing/X").replace("X", name)).rows == 2
    with pytest.raises(SourceError, match=r"listing/a/\*\.jpg.*: nothing fits the pattern; check it"):
        open_source(store.uri("listing/X").replace("X", "a/*.jpg"))


def test_patterns_that_name_nothing_or_too_much_are_errors(tmp_path):
    build(tmp_path, "a/1.png", "a/2.png")
    os.symlink(tmp_path / "a", tmp_path / "b")
    for pattern, message in {
        "a/*.jpg": r"a/\*.jpg: nothing fits the pattern; check it$",
        "{a,c}/*.png": r"/c/\*.png: nothing fits the pattern",
        "a/{1..3}.png": r"a/\{1..3}.png: .*/a/3.png: no such file or folder; check the path",
        "no/*/x": "nothing fits the pattern",
        "a/[.png": "nothing fits the pattern",
        "**/b/*.png": "nothing fits the pattern; check it, or read links to folders too with --follow-links",
        "{0..999}{0..999}": "the braces stand for more than 100,000 names; use \\* instead",
        "{x}": "{x}: no such file or folder",
    }.items():
        with pytest.raises(SourceError, match=message):
            open_source(tmp_path / pattern)


def test_an_output_that_would_be_an_input_the_next_time_is_refused_the_first_time(tmp_path):
    build(tmp_path, "in/day/1.png", "in/night/2.png")
    for pattern, out in {"d*": "dout", "[dx]*": "x/deep/out", "{d?y,n[io]ght}": "noght"}.items():
        source = open_source(tmp_path / "in" / pattern)
        with pytest.raises(SinkError, match="would take the output for an input"):
            open_sink(tmp_path / "in" / out, source, settings={})
        for good in ("in/out", "dout", "in/.d"):
            open_sink(tmp_path / good, source, settings={}, overwrite=True)


def test_several_inputs_are_one_and_what_the_shell_gives_of_an_output_is_no_record_of_it(tmp_path):
    build(tmp_path, "a/1.png", "b/1.png", "b/2.png", "b/_raypurify/sheet.png", "b/_raypurify/provenance.parquet")
    source = open_source([tmp_path / "a", tmp_path / "b/*"])
    assert (ids(source), source.ignored) == (["a/1.png", "b/1.png", "b/2.png"], {"hidden names": 1})
    assert ids(open_source([tmp_path / "a/1.png", tmp_path / "**/1.png"])) == ["a/1.png", "b/1.png"]
    with pytest.raises(SourceError, match="is the record of a job; name the folder beside it"):
        open_source(tmp_path / "b/_raypurify")
    for inside in ("b", "b/new"):
        with pytest.raises(SinkError, match="overlap"):
            open_sink(tmp_path / inside, source, settings={})


@pytest.fixture
def linked(tmp_path) -> Path:
    """A subset cut by links: a class, a file, a class in a class, a loop, a link to itself."""
    build(tmp_path, "all/cat/1.png", "all/cat/2.png", "all/dog/3.png", "in/own/0.png")
    for name, target in {
        "cat": "../all/cat",
        "own/3.png": "../../all/dog/3.png",
        "own/deep": str(tmp_path / "all/dog"),
        "own/loop": "..",
        "own/self.png": "self.png",
    }.items():
        os.symlink(target, tmp_path / "in" / name)
    os.symlink("../../in", tmp_path / "all/cat/back")
    return tmp_path / "in"


def test_links_are_followed_where_asked_for_and_no_loop_is(linked):
    def outcomes(source):
        rows = [row for shard in source.shards for row in read_shard(pickle.loads(pickle.dumps(shard)))]
        return {row.id: row.error.reason if row.error else row.data == PNG for row in rows}

    plain, followed = open_source(linked), open_source(linked, follow_links=True)
    assert outcomes(plain) == {"own/0.png": True, "own/3.png": "unreadable", "own/self.png": "unreadable"}
    assert plain.ignored == {"links to folders": 3}
    assert outcomes(followed) == {
        **dict.fromkeys(("cat/1.png", "cat/2.png", "own/0.png", "own/3.png", "own/deep/3.png"), True),
        "own/self.png": "unreadable",
    }
    assert followed.classes == ("cat", "own")
    assert followed.ignored == {"links in a loop": 2}
    (error,) = (row.error for row in read_shard(plain.shards[0]) if row.id == "own/3.png")
    assert str(error).endswith("--follow-links reads it")
    assert ids(open_source(linked / "**/[123].png", follow_links=True)) == [
        "cat/1.png",
        "cat/2.png",
        "own/3.png",
        "own/deep/3.png",
    ]


def test_an_output_is_kept_apart_from_what_links_lead_to(linked):
    source = open_source(linked, follow_links=True)
    for out in ("all/cat/new", "all/dog", "all"):
        with pytest.raises(SinkError, match="overlap"):
            open_sink(linked.parent / out, source, settings={})
    open_sink(linked.parent / "out", source, settings={})


@pytest.mark.parametrize("pattern", ["", "*.png", "[0-9].png", "**/*.png", "[^z].png"])
def test_a_pattern_loses_no_dead_link_and_no_pipe(tmp_path, pattern):
    folder = build(tmp_path / "in", "1.png", "z.png") if "^" in pattern else build(tmp_path / "in", "1.png")
    (folder / "2.png").symlink_to("/no/such/2.png")
    os.mkfifo(folder / "3.png")
    source = open_source(str(folder / pattern))
    assert (ids(source), source.ignored) == (["1.png", "2.png"], {"devices and pipes": 1})
