"""Part of a source: which images, in which shards; the contract tests do the same over every container."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from provenance import facts

from raypurify.containers.selection import part_of, select, shards_of
from raypurify.containers.sink import finish, open_sink, write_shard
from raypurify.containers.source import open_source, read_shard
from raypurify.errors import SourceError

COUNT = 100


@pytest.fixture
def source(tmp_path):
    table = pa.table({"image": [b"%d" % k for k in range(COUNT)], "extra": list(range(COUNT))})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=7)
    return open_source(tmp_path / "in.parquet", shard_rows=16)


def numbers(source) -> list[int]:
    return [int(row.data) for shard in source.shards for row in read_shard(shard)]


def test_a_limit_is_the_first_images(source):
    some = select(source, limit=37)
    assert numbers(some) == list(range(37))
    assert some.rows == 37
    assert some.digest not in (source.digest, select(source, limit=38).digest)
    assert select(source, limit=COUNT) is select(source) is source


def test_a_sample_is_drawn_by_its_seed_over_all_shards(source):
    some, again, other = select(source, sample=20), select(source, sample=20), select(source, sample=20, seed=1)
    assert some == again
    assert len(set(numbers(some))) == some.rows == 20
    assert numbers(some) == sorted(numbers(some)) != numbers(other)
    assert max(numbers(some)) > 80
    assert some.digest != other.digest
    assert max(numbers(select(source, limit=30, sample=20))) < 30
    assert [shard.index for shard in some.shards] == list(range(len(some.shards)))


def test_parts_are_all_the_shards_each_once(source):
    parts = [shards_of(source.shards, (i, 3)) for i in (1, 2, 3)]
    assert sorted(shard.index for part in parts for shard in part) == [shard.index for shard in source.shards]
    assert shards_of(source.shards, None) == list(source.shards)


def test_a_sink_writes_the_selected_rows_with_their_other_columns(source, tmp_path):
    some = select(source, sample=20)
    sink = open_sink(tmp_path / "out", some, settings={})
    for shard in some.shards:
        write_shard(sink, shard, [(row, b"<%s>" % row.data, facts()) for row in read_shard(shard)])
    assert finish(sink).written == 20
    made = pq.read_table([*sorted((tmp_path / "out").glob("*.parquet"))])
    assert made["image"].to_pylist() == [b"<%d>" % k for k in numbers(some)]
    assert made["extra"].to_pylist() == numbers(some)


@pytest.mark.parametrize("text", ["", "3", "0/3", "4/3", "a/b", "1/2/3", "-1/3"])
def test_what_is_no_part_is_said(text):
    with pytest.raises(SourceError, match="is no part"):
        part_of(text)


def test_numbers_below_one_are_refused(source):
    for name in ("limit", "sample"):
        with pytest.raises(SourceError, match=f"{name} is 0"):
            select(source, **{name: 0})
