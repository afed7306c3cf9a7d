"""No input loses images in silence: damage and cuts are errors, what is passed over is counted by its reason."""

import io
import itertools
import os
import subprocess
import tarfile
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_images import encode, pixels
from provenance import facts

from raypurify.containers.selection import select
from raypurify.containers.sink import finish, open_sink, write_shard
from raypurify.containers.source import open_source, read_shard
from raypurify.errors import RaypurifyError, SourceError

PNG = encode(pixels())
LONG = "folder/" * 20


def rows_of(source):
    return [row for shard in source.shards for row in read_shard(shard)]


def facts_of(rows):
    return [(row.id, row.data, row.label) for row in rows]


def packed(members, format=tarfile.USTAR_FORMAT, ends=2) -> bytes:
    """A tar of (name, bytes), and of (name, name it is a hard link to), with so many zero blocks at its end."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            if isinstance(data, str):
                member.type, member.linkname = tarfile.LNKTYPE, data
                tar.addfile(member)
            else:
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        end = tar.offset
    return out.getvalue()[:end] + bytes(512 * ends)


def samples(count, first=0, folder=""):
    for k in range(first, first + count):
        yield f"{folder}{k}.cls", b"%d" % k
        yield f"{folder}{k}.png", b"image %d" % k


def outcome(path, data):
    """The rows of a tar of these bytes, "error" where it is refused or a row has one."""
    path.write_bytes(data)
    try:
        rows = rows_of(open_source(path))
    except SourceError:
        return "error"
    return "error" if any(row.error for row in rows) else facts_of(rows)


@pytest.mark.parametrize(
    ("format", "folder"),
    [(tarfile.USTAR_FORMAT, ""), (tarfile.GNU_FORMAT, ""), (tarfile.GNU_FORMAT, LONG), (tarfile.PAX_FORMAT, LONG)],
)
def test_no_changed_byte_of_a_tar_loses_a_row(tmp_path, format, folder):
    whole = packed([*samples(2, folder=folder)], format)
    path = tmp_path / "x.tar"
    expected = outcome(path, whole)
    assert len(expected) == 2
    # Header blocks are those that hold a magic; the text of long names has no checksum.
    starts = range(0, len(whole), 512)
    headers = {at for at in starts if whole[at + 257 : at + 262] == b"ustar"}
    # Every third or seventh byte: they meet each field of a header, as seven and three divide no block.
    for at in range(0, len(whole), 7 if folder else 3):
        for value in {0, whole[at] ^ 1} - {whole[at]}:
            found = outcome(path, whole[:at] + bytes([value]) + whole[at + 1 :])
            if at // 512 * 512 in headers or at >= len(whole) - 1024:
                assert found in ("error", expected), (at, value)
            else:
                assert len(found) >= 2, (at, value)


@pytest.mark.parametrize(("format", "folder"), [(tarfile.USTAR_FORMAT, ""), (tarfile.GNU_FORMAT, LONG)])
def test_no_cut_of_a_tar_loses_a_row(tmp_path, format, folder):
    whole = packed([*samples(2, folder=folder)], format, ends=3)
    path = tmp_path / "x.tar"
    expected, end = outcome(path, whole), len(whole) - 3 * 512
    for length in (*range(0, len(whole), 7 if folder else 2), *range(end, len(whole), 64)):
        # Whoever has one block of the end has all of the members.
        assert outcome(path, whole[:length]) == ("error" if length < end + 512 else expected), length


def test_zeros_over_any_blocks_of_a_tar_lose_no_row(tmp_path):
    whole = packed([*samples(3)])
    path = tmp_path / "x.tar"
    expected, blocks = outcome(path, whole), len(whole) // 512
    for first, last in itertools.combinations(range(blocks + 1), 2):
        found = outcome(path, whole[: 512 * first] + bytes(512 * (last - first)) + whole[512 * last :])
        if last < blocks - 2:
            # Whole members gone before others: they look as if tars were appended, and are refused, too.
            assert found == "error" or len(found) == len(expected), (first, last)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda w: w[:1024] + b"!" + w[1025:], r"x.tar: is damaged at byte 1,024: .*get it again"),
        (lambda w: w[:2048], r"ends at byte 2,048 without .* `head -c 1024 /dev/zero >> FILE` completes it"),
        (lambda w: w[:2200], r"x.tar: is cut off at byte 2,200 .*get it again"),
        (lambda w: w[:2700], r"x.tar: is cut off at byte 2,700 .*get it again"),
        (lambda w: w + b"garbage" * 99, r"follow the end of the tar from byte 7,168 on; .*`truncate -s 7168 FILE`"),
        (lambda w: w + w, r"another tar begins at byte 7,168; .*`head -c 7168 FILE` and `tail -c \+7169 FILE`"),
        (lambda w: w[:2048] + bytes(512) + w[2560:], r"is damaged at byte 2,048: zeros stand there"),
        (lambda w: w + bytes(16 << 20), r"zeros .*may be a download that was not completed"),
    ],
    ids=["header", "between", "in-header", "in-data", "garbage", "appended", "zeros", "preallocated"],
)
def test_damage_is_named_with_its_place_and_a_remedy(tmp_path, damage, message):
    path = tmp_path / "x.tar"
    path.write_bytes(damage(packed([*samples(3)])))
    with pytest.raises(SourceError, match=message):
        open_source(path)


def test_the_remedies_work(tmp_path):
    one, two = packed([*samples(2)], ends=20), packed([*samples(2, first=2)])
    path = tmp_path / "x.tar"
    path.write_bytes(one + two)
    for command in (f"head -c {len(one)} x.tar > a.tar", f"tail -c +{len(one) + 1} x.tar > b.tar", "rm x.tar"):
        subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    path.write_bytes(packed([*samples(1, first=4)], ends=0))
    subprocess.run("head -c 1024 /dev/zero >> x.tar", shell=True, check=True, cwd=tmp_path)
    assert [row.data for row in rows_of(open_source(tmp_path))] == [b"image %d" % k for k in range(5)]


def test_a_shard_meets_damage_that_came_after_the_plan(tmp_path):
    path = tmp_path / "x.tar"
    whole = packed([*samples(8)])
    path.write_bytes(whole)
    source, stamp = open_source(path, shard_rows=4), os.stat(path)
    path.write_bytes(whole[: 5 * 2048] + b"!" + whole[5 * 2048 + 1 :])
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert len([*read_shard(source.shards[0])]) == 4
    with pytest.raises(SourceError, match="damaged at byte 10,240"):
        [*read_shard(source.shards[1])]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_hard_links_of_a_tar_are_the_members_they_point_to(tmp_path, format):
    members = [(f"{k}.png", b"image %d" % k) for k in range(6)]
    members += [("6.cls", b"2"), ("6.png", "1.png"), ("7.cls", "6.cls"), ("7.png", "6.png"), ("8.png", b"image 8")]
    path = tmp_path / "x.tar"
    path.write_bytes(packed(members, format))
    source = open_source(path, shard_rows=2)
    expected = [b"image %d" % k for k in (0, 1, 2, 3, 4, 5, 1, 1, 8)]
    rows = rows_of(source)
    assert [row.data for row in rows] == expected
    assert [row.label for row in rows] == [None] * 6 + [2, 2, None]
    some = rows_of(select(source, sample=5))
    assert [row.data for row in some] == [expected[int(row.id[-1])] for row in some]
    sink = open_sink(tmp_path / "out", source, settings={})
    for shard in source.shards:
        write_shard(sink, shard, [(row, row.data, facts()) for row in read_shard(shard)])
    assert finish(sink).written == 9
    again = rows_of(open_source(tmp_path / "out"))
    assert [(row.data, row.label) for row in again] == [(row.data, row.label) for row in rows]


def test_a_hard_link_to_nothing_is_refused(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(packed([("a.png", PNG), ("b.png", "elsewhere.png")]))
    with pytest.raises(SourceError, match=r"b.png is a hard link to elsewhere.png.*--hard-dereference"):
        open_source(path)


def test_links_and_devices_in_a_tar_are_counted(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for name, type in (("a", tarfile.DIRTYPE), ("a/1.png", tarfile.SYMTYPE), ("a/2.png", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = type, "3.png" if type == tarfile.SYMTYPE else ""
            tar.addfile(member)
        member = tarfile.TarInfo("a/3.png")
        member.size = len(PNG)
        tar.addfile(member, io.BytesIO(PNG))
    source = open_source(path)
    assert (source.rows, source.ignored) == (1, {"devices and pipes in tars": 1, "links in tars": 1})


@pytest.mark.parametrize("sparse_version", ["old", "0.0", "0.1", "1.0"])
def test_sparse_members_of_gnu_tar_are_read_and_written_whole(tmp_path, sparse_version):
    data = PNG + bytes(300_000) + b"end"
    with open(tmp_path / "a.png", "wb") as file:
        file.write(PNG)
        file.truncate(len(data) - 3)
        file.seek(0, 2)
        file.write(b"end")
    (tmp_path / "b.png").write_bytes(PNG)
    format = ["--format=gnu"] if sparse_version == "old" else ["--format=posix", f"--sparse-version={sparse_version}"]
    subprocess.run(["tar", "-cSf", "x.tar", *format, "a.png", "b.png"], check=True, cwd=tmp_path)
    assert os.path.getsize(tmp_path / "x.tar") < len(data)
    source = open_source(tmp_path / "x.tar")
    assert [row.data for row in rows_of(source)] == [data, PNG]
    sink = open_sink(tmp_path / "out", source, settings={})
    for shard in source.shards:
        write_shard(sink, shard, [(row, row.data, facts()) for row in read_shard(shard)])
    assert [row.data for row in rows_of(open_source(tmp_path / "out"))] == [data, PNG]


def test_a_tar_in_a_store_is_read_once_and_its_damage_seen(tmp_path, monkeypatch):
    import fsspec

    from raypurify.storage import Place

    remote, whole = fsspec.filesystem("memory"), packed([*samples(40)])
    opened, real = [], Place.open

    def watched(place, *args):
        opened.append(_Counted(real(place)))
        return io.BufferedReader(opened[-1], *args)

    remote.pipe_file(f"{tmp_path}/in/x.tar", whole)
    monkeypatch.setattr(Place, "open", watched)
    source = open_source(f"memory://{tmp_path}/in", shard_rows=8)
    assert (source.rows, len(opened)) == (40, 1)
    # The last label is read again, after the end.
    assert len(whole) <= opened[0].count < len(whole) + 4096
    assert len(rows_of(source)) == 40
    for damaged in (whole[:-1024], whole[: 9 * 2048], whole[:1024] + b"!" + whole[1025:], whole + whole):
        remote.pipe_file(f"{tmp_path}/in/x.tar", damaged)
        with pytest.raises(SourceError, match=r"x.tar: .* byte [\d,]+"):
            open_source(f"memory://{tmp_path}/in")


def test_no_changed_byte_of_a_parquet_footer_loses_a_row(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": [b"image %d" % k for k in range(23)]}), path, row_group_size=9)
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for at in range(footer, len(whole)):
        for value in {whole[at] ^ 1, whole[at] ^ 2, (whole[at] + 2) % 256, (whole[at] - 2) % 256}:
            path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
            try:
                rows = rows_of(open_source(path))
            except SourceError:
                continue
            assert len(rows) >= 23, (at, value)


def test_a_parquet_footer_whose_row_counts_are_wrong_together_is_refused(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": [b"image %d" % k for k in range(23)]}), path)
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    # 23 rows, as a number of Thrift.
    counts, refused = [at for at in range(footer, len(whole)) if whole[at] == 46], []
    for pair in itertools.combinations(counts, 2):
        data = bytearray(whole)
        for at in pair:
            data[at] = 44
        path.write_bytes(data)
        try:
            assert len(rows_of(open_source(path))) >= 23, pair
        except SourceError as error:
            refused.append(str(error))
    assert any("has 22 rows and 23 images" in message for message in refused)


def test_no_cut_of_a_parquet_file_loses_a_row(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": [b"image %d" % k for k in range(23)]}), path, row_group_size=9)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(SourceError):
            open_source(path)


@pytest.mark.parametrize("change", [-1, 1])
def test_more_or_fewer_rows_than_planned_are_damage_in_every_container(tmp_path, change, monkeypatch):
    from raypurify.containers import registry

    (tmp_path / "a").mkdir()
    for k in range(4):
        (tmp_path / "a" / f"{k}.png").write_bytes(PNG)
    pq.write_table(pa.table({"image": [PNG] * 4}), tmp_path / "b.parquet")
    (tmp_path / "c.tar").write_bytes(packed([*samples(4)]))
    np.save(tmp_path / "d.npy", np.zeros((4, 6, 8, 3), np.uint8))
    seen = set()
    for name in ("a", "b.parquet", "c.tar", "d.npy"):
        (shard,) = open_source(tmp_path / name).shards
        seen.add(shard.kind)
        with pytest.raises(
            SourceError, match=rf"{name}: holds (more than the 3|4 of the 5) rows of shard {shard.name}"
        ):
            [*read_shard(replace(shard, rows=4 + change))]
    assert seen == set(registry.CONTAINERS)


@pytest.mark.parametrize("name", ["b.parquet", "c.tar"])
def test_a_writer_that_finds_fewer_rows_than_its_results_commits_nothing(tmp_path, name):
    pq.write_table(pa.table({"image": [PNG] * 4, "other": range(4)}), tmp_path / "b.parquet")
    (tmp_path / "c.tar").write_bytes(packed([*samples(4)]))
    source = open_source(tmp_path / name)
    (shard,) = source.shards
    row = next(read_shard(shard))
    sink = open_sink(tmp_path / "out", source, settings={})
    longer = replace(shard, rows=5, cut=replace(shard.cut, span=5))
    results = [(replace(row, id=f"{row.id[:-1]}{k}", row=k), b"image", facts()) for k in range(5)]
    with pytest.raises(RaypurifyError, match="4 of the 5 rows"):
        write_shard(sink, longer, results)
    assert not [*(tmp_path / "out").rglob("provenance/*")]


def test_a_folder_that_loses_files_while_it_is_listed_loses_no_row_in_silence(tmp_path, monkeypatch):
    for name in ("a/1.png", "b/2.png", "c/3.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(PNG)
    real = os.scandir

    def scandir(path):
        entries = [*real(path)]
        if os.fspath(path).endswith("/b"):
            os.remove(tmp_path / "b/2.png")
        return _Entries(entries)

    monkeypatch.setattr(os, "scandir", scandir)
    rows = rows_of(open_source(tmp_path))
    assert [(row.id, row.error and row.error.reason) for row in rows] == [
        ("a/1.png", None),
        ("b/2.png", "unreadable"),
        ("c/3.png", None),
    ]

    def folder_gone(path):
        if os.fspath(path).endswith("/c"):
            raise FileNotFoundError(2, "No such file or directory", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", folder_gone)
    with pytest.raises(SourceError, match="cannot be listed"):
        open_source(tmp_path)


class _Counted(io.RawIOBase):
    """A file that counts the bytes that were read from it."""

    def __init__(self, file):
        self.file, self.count = file, 0

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, *where):
        return self.file.seek(*where)

    def tell(self):
        return self.file.tell()

    def readinto(self, buffer):
        data = self.file.read(len(buffer))
        buffer[: len(data)] = data
        self.count += len(data)
        return len(data)


class _Entries(list):
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def test_a_store_that_lists_only_a_part_is_refused(tmp_path, monkeypatch):
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    remote = fsspec.filesystem("memory")
    for name in ("a/1.png", "b/2.png", "c/d/3.png"):
        remote.pipe_file(f"{tmp_path}/in/{name}", PNG)
    assert open_source(f"memory://{tmp_path}/in").rows == 3
    # As most file systems of fsspec, which walk from folder to folder.
    monkeypatch.setattr(MemoryFileSystem, "find", fsspec.AbstractFileSystem.find)
    assert open_source(f"memory://{tmp_path}/in").rows == 3
    real = MemoryFileSystem.ls

    for bad in ("/in/b", "/in/c/d", "/in"):

        def ls(self, path, detail=True, bad=bad, **options):
            if path.endswith(bad):
                raise PermissionError(f"not allowed: {path}")
            return real(self, path, detail=detail, **options)

        monkeypatch.setattr(MemoryFileSystem, "ls", ls)
        with pytest.raises(SourceError, match=r"in: (cannot be listed: not allowed|no such)"):
            open_source(f"memory://{tmp_path}/in")


def test_what_is_passed_over_is_counted_by_its_reason(tmp_path):
    root = tmp_path / "in"
    for name in ("cat/1.png", "cat/2.jxl", "cat/3.JXL", "cat/notes", "cat/.DS_Store", ".git/x.png", "dog/4.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PNG)
    (tmp_path / "horse").mkdir()
    (tmp_path / "horse/5.png").write_bytes(PNG)
    os.symlink(tmp_path / "horse", root / "horse")
    os.mkfifo(root / "pipe.png")
    source = open_source(root)
    assert source.rows == 2
    assert source.ignored == {
        ".jxl images that are not read": 2,
        "devices and pipes": 1,
        "files without a suffix": 1,
        "hidden names": 2,
        "links to folders": 1,
    }
    sink = open_sink(tmp_path / "out", source, settings={})
    for shard in source.shards:
        write_shard(sink, shard, [(row, row.data, facts()) for row in read_shard(shard)])
    summary = finish(sink)
    assert (summary.ignored, summary.passed_over) == (7, source.ignored)
    assert '"ignored": 7,' in (tmp_path / "out/_raypurify/summary.json").read_text()
    assert "passed_over" not in (tmp_path / "out/_raypurify/summary.json").read_text()


def test_the_texts_list_what_is_passed_over(tmp_path):
    from raypurify.bulk.estimate import Estimate
    from raypurify.cli.texts import summary_text
    from raypurify.containers.ledger import Summary

    ignored = {".jxl images that are not read": 2, "hidden names": 1, "links to folders": 1_000}
    summary = Summary(1, 1, 0, 0, 1_003, 1, {}, {}, 0.0, passed_over=ignored)
    text = "2 .jxl images that are not read, 1 hidden names, 1,000 links to folders (--follow-links reads them)"
    line = f"ignored:    {text}"
    assert line in summary_text(summary, str(tmp_path), 1.0).splitlines()
    assert line in str(Estimate(1, 1, 1, 0, 1.0, 1.0, ignored)).splitlines()
    assert "ignored" not in str(Estimate(1, 1, 1, 0, 1.0, 1.0))


def test_an_input_of_nothing_but_links_says_so(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "in").mkdir()
    (tmp_path / "cat/1.png").write_bytes(PNG)
    os.symlink(tmp_path / "cat", tmp_path / "in/cat")
    with pytest.raises(SourceError, match=r"holds no image, .*1 links to folders \(--follow-links"):
        open_source(tmp_path / "in")


def test_the_total_is_that_of_an_independent_count(tmp_path):
    for number in range(3):
        members = [*samples(7, first=10 * number)]
        members += [(f"{10 * number + 8}.png", f"{10 * number}.png"), (f"{10 * number + 9}.txt", b"no image")]
        (tmp_path / f"{number}.tar").write_bytes(packed(members))
    source = open_source(tmp_path, shard_rows=3)
    sink = open_sink(tmp_path.parent / f"{tmp_path.name}-out", source, settings={})
    for shard in source.shards:
        write_shard(
            sink, shard, [(row, row.error or row.data, row.error is None and facts()) for row in read_shard(shard)]
        )
    summary = finish(sink)
    # By another program, which knows nothing of samples.
    listed = subprocess.run(
        "for t in *.tar; do tar -tf $t; done", shell=True, check=True, capture_output=True, cwd=tmp_path
    )
    names = listed.stdout.decode().split()
    assert summary.written == sum(name.endswith(".png") for name in names) == 24
    assert summary.rows == len({name.partition(".")[0] for name in names}) == 27
