"""WebDataset tars in and out: samples, ids and labels, what is kept, and what is refused by name."""

import io
import tarfile

import pytest
from bad_images import encode, pixels
from provenance import facts

from raypurify.containers.selection import select
from raypurify.containers.sink import finish, open_sink, write_shard
from raypurify.containers.source import open_source, read_shard
from raypurify.errors import ImageError, SourceError

PNG = encode(pixels())


def tar(path, members, **facts):
    """A tar of (name, bytes); None for a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, data in members:
            member = tarfile.TarInfo(name)
            if data is None:
                member.type = tarfile.DIRTYPE
            else:
                member.size = len(data)
            for fact, value in facts.items():
                setattr(member, fact, value)
            file.addfile(member, io.BytesIO(data or b""))
    return path


def members_of(path) -> list[tuple[str, bytes]]:
    with tarfile.open(path) as file:
        return [(member.name, file.extractfile(member).read()) for member in file]


def samples(count, first=0):
    for k in range(first, first + count):
        yield f"d/{k:04d}.cls", b"%d\n" % (k % 3)
        yield f"d/{k:04d}.jpg", PNG + b"%d" % k
        yield f"d/{k:04d}.seg.png", b"mask %d" % k
        yield f"d/{k:04d}.json", b"{}"


def rows_of(source):
    return [row for shard in source.shards for row in read_shard(shard)]


@pytest.fixture
def two(tmp_path):
    tar(tmp_path / "in" / "a" / "train-000.tar", samples(50))
    tar(tmp_path / "in" / "b.tar", samples(20, first=50))
    return tmp_path / "in"


def test_samples_are_rows_with_ids_labels_and_the_bytes_of_their_image(two):
    source = open_source(two, shard_rows=16)
    rows = rows_of(source)
    assert (source.kind, source.rows, source.classes) == ("tar", 70, ("0", "1", "2"))
    assert [row.row for row in rows] == list(range(70))
    assert [row.data for row in rows] == [PNG + b"%d" % k for k in range(70)]
    assert [row.label for row in rows] == [k % 3 for k in range(70)]
    assert (rows[0].id, rows[69].id) == ("a/train-000/d/0000", "b/d/0069")
    assert [shard.rows for shard in source.shards] == [12, 13, 12, 13, 20]
    assert [row.data for row in rows_of(select(source, sample=9))] == [
        rows[k].data for k in sorted(int(row.id[-4:]) for row in rows_of(select(source, sample=9)))
    ]


def test_a_tar_becomes_tars_with_every_sidecar_in_its_place(two, tmp_path):
    source = open_source(two, shard_rows=16)
    sink = open_sink(tmp_path / "out", source, settings={})
    for shard in source.shards:
        results = [(row, b"<%d>" % row.row, facts()) for row in read_shard(shard)]
        if shard.index == 1:
            results[3] = (results[3][0], ImageError("truncated", "x"), None)
        write_shard(sink, shard, results[::-1])
    assert (finish(sink).written, finish(sink).failed) == (69, 1)
    expected = []
    for k in range(70):
        names = (".cls", b"%d\n" % (k % 3)), (".png", b"<%d>" % k), (".seg.png", b"mask %d" % k), (".json", b"{}")
        expected += [(f"d/{k:04d}{suffix}", data) for suffix, data in names if (k, suffix) != (15, ".png")]
    made = sorted((tmp_path / "out").rglob("*.tar"), key=lambda path: path.name)
    assert {path.name for path in made} == {f"{shard.name}.tar" for shard in source.shards}
    assert {path.parent.relative_to(tmp_path / "out") for path in made} == {
        path.parent.relative_to(two) for path in two.rglob("*.tar")
    }
    by_name = {path.name: members_of(path) for path in made}
    assert [member for shard in source.shards for member in by_name[f"{shard.name}.tar"]] == expected
    # The output is an input again, of the images that are there.
    again = rows_of(open_source(made))
    assert [row.id[-4:] for row in again if row.error] == ["0015"]
    assert len(again) == 70


def test_times_modes_and_owners_travel_and_bytes_do_not_depend_on_the_run(tmp_path):
    long = "n" * 120 + "/" + "m" * 130
    path = tar(tmp_path / "in.tar", [(f"{long}.png", PNG), ("é.png", PNG)], mtime=12345, mode=0o600, uname="me")
    made = []
    for name in ("one", "two"):
        source = open_source(path)
        sink = open_sink(tmp_path / name, source, settings={})
        for shard in source.shards:
            write_shard(sink, shard, [(row, PNG, facts()) for row in read_shard(shard)])
        (out,) = (tmp_path / name).glob("*.tar")
        made.append(out.read_bytes())
        with tarfile.open(out) as file:
            found = file.getmembers()
        assert [member.name for member in found] == [f"{long}.png", "é.png"]
        assert {(member.mtime, member.mode, member.uname) for member in found} == {(12345, 0o600, "me")}
    assert made[0] == made[1]


def test_samples_without_an_image_and_empty_ones_are_errors(tmp_path):
    path = tar(tmp_path / "x.tar", [("a.txt", b"1"), ("b.png", b""), ("c", None), ("d.JPG", PNG), ("e.cls", b"cat")])
    rows = rows_of(open_source(path))
    assert [(row.id, row.error and row.error.reason) for row in rows] == [
        ("x/a", "empty"),
        ("x/b", "empty"),
        ("x/d", None),
        ("x/e", "empty"),
    ]
    assert open_source(path).classes is None


def truncated(path):
    data = tar(path, samples(3)).read_bytes()
    path.write_bytes(data[: len(data) // 3])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: tar(p, [("a.png", PNG), ("b.png", PNG), ("a.cls", b"1")]), "sample 'a' do not stand together"),
        (lambda p: tar(p, [("a.png", PNG), ("a.png", PNG)]), "holds two images of the name a.png"),
        (lambda p: tar(p, []), "the tars hold no samples"),
        (lambda p: p.write_bytes(b"no tar" * 500), "x.tar: is no readable tar"),
        (lambda p: p.write_bytes(b""), "x.tar: is no readable tar"),
        (truncated, "x.tar: is cut off at byte"),
    ],
)
def test_tars_that_cannot_be_used_are_named(tmp_path, make, message):
    make(tmp_path / "x.tar")
    with pytest.raises(SourceError, match=message):
        open_source(tmp_path / "x.tar")
