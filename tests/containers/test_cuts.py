"""Shards of heavy images are cut by bytes, of everything that a row holds; those of light ones as ever."""

import io
import os
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypurify.containers import cuts, parquet
from raypurify.containers.source import open_source, read_shard

SIZES = [20_000, 30_000, 20_000, 300_000, 10_000, 90_000, 20_000, 20_000, 20_000, 20_000]
MOST = 125_000


def write_folder(folder):
    for k, size in enumerate(SIZES):
        (folder / f"{k}.png").write_bytes(os.urandom(size))


def write_parquet(folder):
    """The weight is in a column that passes through."""
    schema = pa.schema([("image", pa.binary()), ("more", pa.binary())])
    with pq.ParquetWriter(folder / "0.parquet", schema) as writer:
        for size in SIZES:
            writer.write_table(pa.table({"image": [b"image"], "more": [os.urandom(size)]}, schema))


def write_tar(folder):
    """The weight is in sidecars, and one of them is a link to another."""
    with tarfile.open(folder / "0.tar", "w") as tar:
        for k, size in enumerate(SIZES):
            for suffix, data in ((".png", b"image"), (".bin", os.urandom(size))):
                info = tarfile.TarInfo(f"{k}{suffix}")
                if suffix == ".bin" and k == 5:
                    info.type, info.linkname = tarfile.LNKTYPE, "3.bin"
                    tar.addfile(info)
                    continue
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


KINDS = {
    "folder": (write_folder, [3, 1, 3, 3]),
    "parquet": (write_parquet, [3, 1, 3, 3]),
    # The bytes that a link stands for count.
    "tar": (write_tar, [3, 1, 1, 1, 4]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_shards_are_bounded_by_bytes_and_light_ones_stay_as_they_are(tmp_path, monkeypatch, kind):
    write, expected = KINDS[kind]
    write(tmp_path)
    whole = open_source(tmp_path, labels=False)
    assert [shard.rows for shard in whole.shards] == [10]
    monkeypatch.setattr(cuts, "SHARD_BYTES", MOST)
    monkeypatch.setattr(parquet, "_READ_BYTES", 40_000)
    cut = open_source(tmp_path, labels=False)
    assert [shard.rows for shard in cut.shards] == expected
    assert [row for shard in cut.shards for row in read_shard(shard)] == list(read_shard(whole.shards[0]))
    assert cut.digest == whole.digest


def test_the_shards_of_imagenet_stay_as_they_are(tmp_path):
    for k in range(512):
        (tmp_path / f"{k:03d}.jpg").touch()
        os.truncate(tmp_path / f"{k:03d}.jpg", 110_000)
    assert [shard.rows for shard in open_source(tmp_path).shards] == [256, 256]


def test_heavy_rows_are_read_a_few_at_a_time(tmp_path):
    data = [bytes([k]) * (3 << 20) for k in range(12)]
    pq.write_table(pa.table({"image": data}), tmp_path / "0.parquet")
    (first, *_) = open_source(tmp_path, labels=False).shards
    assert first.rows == 10
    assert [batch.num_rows for batch in parquet.read_batches(first, ["image"])] == [5, 5]


def test_samples_of_several_images_do_not_make_a_shard_too_large(tmp_path, monkeypatch):
    sizes = [10_000, 10_000, 10_000, 10_000, 100_000, 60_000]
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for k, size in enumerate(sizes):
            for suffix in (".a.png", ".b.png", ".c.png"):
                info = tarfile.TarInfo(f"{k}{suffix}")
                info.size = size // 3
                tar.addfile(info, io.BytesIO(bytes(info.size)))
    light = [shard.rows for shard in open_source(tmp_path, labels=False, shard_rows=4).shards]
    assert light == [3, 3, 3, 3, 6]
    monkeypatch.setattr(cuts, "SHARD_BYTES", MOST)
    source = open_source(tmp_path, labels=False, shard_rows=4)
    ids = [[row.id for row in read_shard(shard)] for shard in source.shards]
    assert [one for some in ids for one in some] == [
        f"0/{k}{suffix}" for k in range(6) for suffix in (".a.png", ".b.png", ".c.png")
    ]
    for some in ids:
        held = {int(one.split("/")[1].split(".")[0]) for one in some}
        assert len(some) == 3 * len(held)
        assert len(held) == 1 or sum(sizes[k] for k in held) <= MOST
