"""What every container promises, run over every entry of the registry: a new one needs a case here and no test."""

import gzip
import io
import itertools
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_images import encode, pixels
from provenance import facts

from raypurify.containers.registry import CONTAINERS, container_of
from raypurify.containers.selection import select
from raypurify.containers.sink import finish, missing, open_sink, reopen_failed, status, write_shard
from raypurify.containers.source import Source, open_source, read_shard
from raypurify.errors import ImageError, SinkError, SourceError

COUNT, SHARD = 40, 12
# Told apart by what follows the picture.
IMAGES = [encode(pixels()) + b"%03d" % k for k in range(COUNT)]


@dataclass(frozen=True)
class Case:
    """A way to write an input of one container: ``build(folder, images)`` puts the images there, in this order, in
    several files where that is of interest; ``data_of`` a file of the output are the bytes of its images; so many
    ``together`` are never in two shards. ``images`` are those to put there: ``joined`` arrays hold no files, and keep
    images that failed as they were."""

    kind: str
    build: Callable[[Path, list[bytes]], None]
    data_of: Callable[[Path], list[bytes]]
    together: int = 1
    images: tuple[bytes, ...] = tuple(IMAGES)
    joined: bool = False


def write_folder(folder: Path, images: list[bytes]) -> None:
    for number, data in enumerate(images):
        path = folder / "ab"[2 * number // len(images)] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def write_tables(folder: Path, images: list[bytes], ids: bool = True) -> None:
    folder.mkdir()
    for number, part in enumerate((images[:25], images[25:])):
        columns = {"id": [f"{number}/{k}" for k in range(len(part))]} if ids else {}
        table = pa.table(columns | {"image": part, "extra": [[k] for k in range(len(part))]})
        pq.write_table(table, folder / f"t{number}.parquet", row_group_size=7)


def write_tars(folder: Path, images: list[bytes]) -> None:
    folder.mkdir()
    for number, part in enumerate((images[:25], images[25:])):
        with tarfile.open(folder / f"t{number}.tar", "w") as file:
            for k, data in enumerate(part):
                for suffix, held in ((".cls", b"%d" % (k % 3)), (".png", data)):
                    member = tarfile.TarInfo(f"{k:03d}{suffix}")
                    member.size = len(held)
                    file.addfile(member, io.BytesIO(held))


def write_compressed_tars(folder: Path, images: list[bytes]) -> None:
    write_tars(folder, images)
    for path in folder.glob("*.tar"):
        Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
        path.unlink()


def write_tar_of_tars(folder: Path, images: list[bytes]) -> None:
    write_tars(folder, images)
    for name in ("t0.tar", "t1.tar"):
        with tarfile.open(folder / f"all-{name}", "w") as file:
            file.add(folder / name, name)
        (folder / name).unlink()


def write_pairs(folder: Path, images: list[bytes]) -> None:
    folder.mkdir()
    for number, part in enumerate((images[:26], images[26:])):
        with tarfile.open(folder / f"pairs{number}.tar", "w") as file:
            for k, data in enumerate(part):
                member = tarfile.TarInfo(f"{k // 2:03d}.{('left', 'right')[k % 2]}.png")
                member.size = len(data)
                file.addfile(member, io.BytesIO(data))


def images_of_tar(path: Path) -> list[bytes]:
    with tarfile.open(path) as file:
        return [file.extractfile(member).read() for member in file if member.name.endswith(".png")]


def images_of_table(path: Path) -> list[bytes]:
    """Those that are there: a failed row is kept without one."""
    return pq.read_table(path)["image"].drop_null().to_pylist()


PPMS = tuple(b"P6 8 6 255\n" + bytes([k]) * 96 + bytes(48) for k in range(COUNT))


def pixels_in(images: list[bytes]) -> np.ndarray:
    return np.stack([np.frombuffer(data[-144:], np.uint8).reshape(6, 8, 3) for data in images])


def write_arrays(folder: Path, images: list[bytes]) -> None:
    folder.mkdir()
    for number, part in enumerate((images[:25], images[25:])):
        np.save(folder / f"t{number}.npy", pixels_in(part))


def write_zipped_arrays(folder: Path, images: list[bytes]) -> None:
    folder.mkdir()
    np.savez(folder / "stored.npz", images=pixels_in(images[:25]))
    np.savez_compressed(folder / "t.npz", a=pixels_in(images[25:30]), b=pixels_in(images[30:]))


def images_of_arrays(path: Path) -> list[bytes]:
    with path.open("rb") as file:
        held = np.load(file, allow_pickle=False)
        arrays = [held] if isinstance(held, np.ndarray) else [held[name] for name in held.files]
        return [b"P6 8 6 255\n" + row.tobytes() for array in arrays for row in array]


CASES = {
    "folder": Case("folder", write_folder, lambda path: [path.read_bytes()]),
    "parquet": Case("parquet", write_tables, images_of_table),
    "parquet without ids": Case(
        "parquet",
        lambda folder, images: write_tables(folder, images, ids=False),
        images_of_table,
    ),
    "tar": Case("tar", write_tars, images_of_tar),
    "compressed tar": Case("tar", write_compressed_tars, images_of_tar),
    "tar of tars": Case("tar", write_tar_of_tars, images_of_tar),
    "tar of pairs": Case("tar", write_pairs, images_of_tar, together=2),
    "arrays": Case("arrays", write_arrays, images_of_arrays, images=PPMS, joined=True),
    "zipped arrays": Case("arrays", write_zipped_arrays, images_of_arrays, images=PPMS, joined=True),
}


@pytest.fixture(params=CASES)
def case(request) -> Case:
    return CASES[request.param]


@pytest.fixture
def folder(case, tmp_path) -> Path:
    case.build(tmp_path / "in", list(case.images))
    return tmp_path / "in"


@pytest.fixture
def source(folder) -> Source:
    return open_source(folder, shard_rows=SHARD)


def rows_of(source: Source):
    return [row for shard in source.shards for row in read_shard(shard)]


def identity(row):
    """A purifier's results for a row where purifying changes nothing; every seventh is flagged."""
    return (row, row.error, None) if row.error else (row, row.data, facts(flagged=row.row % 7 == 0))


def work(sink, source, shards=None) -> list[str]:
    """Do all shards that are left, or those, by what is sent to another process. Returns their names."""
    sink, done = pickle.loads(pickle.dumps(sink)), []
    for shard in pickle.loads(pickle.dumps(source.shards if shards is None else shards)):
        if shard.name in missing(sink):
            # In any order.
            write_shard(sink, shard, [identity(row) for row in read_shard(shard)][::-1])
            done.append(shard.name)
    return done


def purified(out, source, **options):
    sink = open_sink(out, source, settings={}, **options)
    work(sink, source)
    return finish(sink)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def images(case: Case, out: Path) -> list[bytes]:
    """The images that stand in an output, by the names of its files."""
    names = [name for name in files(out) if not name.startswith("_raypurify/")]
    return [data for name in names for data in case.data_of(out / name)]


def recorded(out: Path, table: str) -> list[dict]:
    return pq.read_table(out / "_raypurify" / f"{table}.parquet").to_pylist()


def test_every_container_has_a_case():
    assert {case.kind for case in CASES.values()} == set(CONTAINERS)
    assert all(container.kind == kind for kind, container in CONTAINERS.items())
    suffixes = [suffix for container in CONTAINERS.values() for suffix in container.suffixes]
    assert len(suffixes) == len(set(suffixes))
    assert all(container_of(f"a{suffix.upper()}") for suffix in suffixes)


def test_rows_are_the_images_in_order_with_ids_of_their_own(case, source):
    rows = rows_of(source)
    assert [row.data for row in rows] == [*case.images]
    assert [row.row for row in rows] == list(range(COUNT)) == list(range(source.rows))
    assert len({row.id for row in rows}) == COUNT
    assert not any(row.error for row in rows)
    assert (source.kind, source.ignored) == (case.kind, {})
    assert all(row.label is None or source.classes[row.label] for row in rows)
    assert len({shard.name for shard in source.shards}) == len(source.shards) > 2
    assert [shard.index for shard in source.shards] == list(range(len(source.shards)))


def test_shards_travel_small_and_each_reads_its_own_rows_alone(source):
    whole = rows_of(source)
    for shard in source.shards:
        sent = pickle.dumps(shard)
        assert len(sent) < 1500
        assert [*read_shard(pickle.loads(sent))] == whole[shard.first_row : shard.first_row + shard.rows]


def test_an_input_is_cut_the_same_again(folder, source):
    assert open_source(str(folder), shard_rows=SHARD) == replace(source, uris=(str(folder),))
    told = []
    assert open_source(folder, shard_rows=lambda rows: told.append(rows) or SHARD) == source
    assert told == [COUNT]


@pytest.mark.parametrize("shard_rows", [1, 3, 1000])
def test_ids_and_digest_do_not_depend_on_the_cut(case, folder, source, shard_rows):
    other = open_source(folder, shard_rows=shard_rows)
    assert rows_of(other) == rows_of(source)
    assert (other.digest, other.classes) == (source.digest, source.classes)
    assert max(shard.rows for shard in other.shards) < 2 * shard_rows + case.together - 1


def test_one_look_at_an_input_opens_each_file_once(case, folder, monkeypatch):
    from raypurify.storage import Place

    opened, real = [], Place.open

    def watched(place, *args):
        opened.append(place.name)
        return real(place, *args)

    monkeypatch.setattr(Place, "open", watched)
    open_source(folder, shard_rows=lambda rows: max(1, rows // 8))
    # A Parquet file's footer is read for the digest, too.
    most = {"folder": 0, "parquet": 2}.get(case.kind, 1)
    assert all(opened.count(name) <= most for name in opened)


def test_an_output_holds_every_image_with_provenance(case, source, tmp_path):
    out = tmp_path / "out"
    summary = purified(out, source)
    assert (summary.rows, summary.written, summary.failed, summary.flagged) == (COUNT, COUNT, 0, 6)
    assert images(case, out) == [*case.images]
    provenance = recorded(out, "provenance")
    assert [entry["id"] for entry in provenance] == [row.id for row in rows_of(source)]
    assert {entry["output"] for entry in provenance} == {n for n in files(out) if not n.startswith("_raypurify/")}
    assert recorded(out, "errors") == []
    assert status(out).complete


def test_an_output_is_an_input_again(case, source, tmp_path):
    purified(tmp_path / "out", source)
    again = open_source(tmp_path / "out", shard_rows=SHARD)
    assert [row.data for row in rows_of(again)] == [*case.images]
    assert (again.kind, again.classes) == (source.kind, source.classes)


@pytest.mark.parametrize(("limit", "sample"), [(21, None), (None, 9), (30, 9)])
def test_a_selection_reads_and_writes_its_rows_and_no_others(case, source, tmp_path, limit, sample):
    whole, some = {row.id: row for row in rows_of(source)}, select(source, limit, sample)
    rows = rows_of(some)
    picked = [whole[row.id].row for row in rows]
    assert some.rows == len(rows) == (sample or limit)
    assert picked == sorted(set(picked))
    assert max(picked) < (limit or COUNT)
    assert [row.row for row in rows] == list(range(len(rows)))
    assert all((row.data, row.label) == (whole[row.id].data, whole[row.id].label) for row in rows)
    assert purified(tmp_path / "out", some).written == len(rows)
    assert images(case, tmp_path / "out") == [case.images[number] for number in picked]
    assert [entry["id"] for entry in recorded(tmp_path / "out", "provenance")] == [row.id for row in rows]


def test_a_selection_of_a_selection_is_one_of_its_rows(source):
    some = select(source, sample=20)
    ids, fewer = [row.id for row in rows_of(some)], [row.id for row in rows_of(select(some, sample=6, seed=1))]
    assert len(fewer) == 6
    assert fewer == [identity for identity in ids if identity in fewer]


def test_a_row_with_an_error_is_left_out_and_recorded(case, source, tmp_path):
    out, shard = tmp_path / "out", source.shards[1]
    sink = open_sink(out, source, settings={})
    # An earlier attempt could read it and was killed before its commit.
    work(sink, source)
    (out / "_raypurify" / "provenance" / f"{shard.name}.parquet").unlink()
    lost, (first, *others) = shard.first_row, [identity(row) for row in read_shard(shard)]
    write_shard(sink, shard, [(first[0], ImageError("truncated", "half"), None), *others])
    assert finish(sink).reasons == {"truncated": 1}
    kept = [image for number, image in enumerate(case.images) if case.joined or number != lost]
    assert images(case, out) == kept
    ids = [row.id for row in rows_of(source)]
    assert [entry["id"] for entry in recorded(out, "provenance")] == ids[:lost] + ids[lost + 1 :]
    assert recorded(out, "errors") == [{"id": ids[lost], "reason": "truncated", "message": "half", "shard": shard.name}]
    # An image that could be read in the end takes its place.
    assert reopen_failed(out) == work(sink, source) == [shard.name]
    assert finish(sink).failed == 0
    assert images(case, out) == [*case.images]


def test_a_shard_of_nothing_but_errors_commits(case, source, tmp_path):
    sink = open_sink(tmp_path / "out", source, settings={})
    for shard in source.shards:
        write_shard(sink, shard, [(row, ImageError("empty", "nothing"), None) for row in read_shard(shard)])
    assert finish(sink).failed == COUNT
    assert images(case, tmp_path / "out") == [*case.images] * case.joined


def test_an_empty_image_is_a_row_with_an_error(case, tmp_path):
    if case.joined:
        pytest.skip("an array holds no image without pixels")
    case.build(tmp_path / "in", [*IMAGES[:30], b"", *IMAGES[30:]])
    source = open_source(tmp_path / "in", shard_rows=SHARD)
    rows = rows_of(source)
    assert [row.error and row.error.reason for row in rows] == [None] * 30 + ["empty"] + [None] * 10
    assert purified(tmp_path / "out", source).reasons == {"empty": 1}
    assert images(case, tmp_path / "out") == IMAGES


def test_two_runs_and_a_broken_one_end_in_the_same_bytes(case, tmp_path):
    case.build(tmp_path / "in", [*case.images[:2], *[b""] * (not case.joined), *case.images[2:]])
    source = open_source(tmp_path / "in", shard_rows=SHARD)
    purified(tmp_path / "straight", source)
    whole = files(tmp_path / "straight")
    sink = open_sink(tmp_path / "broken", source, settings={})
    assert work(sink, source, source.shards[:2]) == [shard.name for shard in source.shards[:2]]
    again = open_sink(tmp_path / "broken", source, settings={})
    assert work(again, source) == [shard.name for shard in source.shards[2:]]
    finish(again)
    assert files(tmp_path / "broken") == whole
    assert work(again, source) == []
    finish(again)
    assert files(tmp_path / "broken") == whole


def test_a_crash_before_the_marker_is_done_again(case, source, tmp_path):
    out = tmp_path / "out"
    purified(out, source)
    whole, shard, state = files(out), source.shards[0], out / "_raypurify"
    # What a kill leaves between the first image and the marker: torn scratch files, a part of the output, no record.
    for name in (f"provenance/{shard.name}.parquet", f"errors/{shard.name}.parquet", "summary.json"):
        (state / name).unlink()
    (state / "tmp").mkdir()
    (state / "tmp/0123").write_bytes(b"half an ima")
    if not case.joined:
        (out / min(name for name in whole if not name.startswith("_raypurify"))).unlink()
    again = open_sink(out, source, settings={})
    assert work(again, source) == [shard.name]
    finish(again)
    assert files(out) == whole


def test_what_has_changed_since_it_was_planned_is_refused(folder, source):
    victim = sorted(path for path in folder.rglob("*") if path.is_file())[0]
    kept = victim.read_bytes()
    victim.write_bytes(kept[:-1] + b"!")
    os.utime(victim, ns=(1, 1))
    try:
        errors = [row.error for row in read_shard(source.shards[0]) if row.error]
        assert [error.reason for error in errors] == ["changed"]
    except SourceError as error:
        errors = [error]
    assert f"{victim}: changed since the job was planned" in str(errors[0])
    assert not any(row.error for row in read_shard(source.shards[-1]))


def test_what_is_gone_is_named(folder, source):
    victim = sorted(path for path in folder.rglob("*") if path.is_file())[0]
    victim.unlink()
    try:
        errors = [row.error for row in read_shard(source.shards[0]) if row.error]
        assert [error.reason for error in errors] == ["unreadable"]
    except SourceError as error:
        errors = [error]
    assert f"{victim}: " in str(errors[0])
    assert "No such file" in str(errors[0])


def test_a_digest_sees_another_image(case, folder, source):
    case.build(folder.parent / "same", list(case.images))
    case.build(folder.parent / "other", [*case.images[:-1], case.images[-1] + b"more"])
    assert open_source(folder.parent / "same").digest == source.digest
    assert open_source(folder.parent / "other").digest != source.digest


def test_overwriting_removes_the_earlier_output_and_nothing_else(case, source, tmp_path):
    out = tmp_path / "out"
    purified(out, source)
    suffix = min(CONTAINERS[case.kind].suffixes)
    mine = {"mine.txt": b"keep", f"mine{suffix}": b"keep", f"a/mine{suffix}": b"keep"}
    for name, data in mine.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(data)
    sink = open_sink(out, select(source, limit=3), settings={}, overwrite=True)
    left = files(out)
    assert left.keys() == mine.keys() | {"_raypurify/job.json"}
    assert all(left[name] == data for name, data in mine.items())
    assert missing(sink) == [source.shards[0].name]


def test_a_file_of_others_is_never_written_over(case, source, tmp_path):
    """Where no job is recorded, and beside one."""
    out, few, holding = tmp_path / "out", select(source, limit=3), tmp_path / "straight"
    purified(holding, source)
    first, *_, last = [name for name in files(holding) if not name.startswith("_raypurify/")]
    for name, before in ((first, []), (last, [few])):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(b"mine")
        for earlier in before:
            purified(out, earlier, overwrite=True)
        standing = files(out)
        with pytest.raises(SinkError, match=rf"{name}: no job of raypurify wrote this file, .* move it away"):
            open_sink(out, source, settings={}, overwrite=True)
        assert files(out) == standing
        (out / name).unlink()
    purified(out, source, overwrite=True)
    assert files(out) == files(holding)


class Stopped(Exception):
    """Where a kill would be."""


def stopping(patched, at: int) -> None:
    """Let the ``at``-th write or removal of a file raise instead."""
    from raypurify.storage import Place

    numbers, writing, delete, delete_folder = itertools.count(1), Place.writing, Place.delete, Place.delete_folder

    def step() -> None:
        if next(numbers) == at:
            raise Stopped

    def stop_delete(place: Place) -> None:
        step()
        delete(place)

    def stop_delete_folder(place: Place) -> None:
        for name in [*place.walk()] if place.kind == "folder" else ():
            stop_delete(place / name[0])
        delete_folder(place)

    def stop_writing(place: Place, scratch: Place | None = None):
        step()
        return writing(place, scratch)

    patched.setattr(Place, "writing", stop_writing)
    patched.setattr(Place, "delete", stop_delete)
    patched.setattr(Place, "delete_folder", stop_delete_folder)


@pytest.mark.parametrize("case", {case.kind: name for name, case in CASES.items()}.values(), indirect=True)
@pytest.mark.parametrize("before", [3, 5])
def test_overwriting_that_is_stopped_anywhere_is_gone_on_with(case, folder, tmp_path, monkeypatch, before):
    """By the same command, and without --overwrite; where nothing has happened yet, the earlier job stands."""
    whole, out, standing = open_source(folder, shard_rows=2), tmp_path / "out", tmp_path / "before"
    source = select(whole, limit=3)
    purified(standing, select(whole, limit=before))
    purified(tmp_path / "straight", source)
    made = files(tmp_path / "straight")
    for at in itertools.count(1):
        for overwrite in (True, False):
            shutil.copytree(standing, out)
            with monkeypatch.context() as patched, suppress(Stopped):
                stopping(patched, at)
                open_sink(out, source, settings={}, overwrite=True)
                assert at > 9
                return
            untouched = files(out) == files(standing)
            assert untouched == (at == 1)
            if untouched and not overwrite and before != 3:
                with pytest.raises(SinkError, match="belongs to another job"):
                    open_sink(out, source, settings={})
            else:
                purified(out, source, overwrite=overwrite)
                assert files(out) == made
            shutil.rmtree(out)


def test_an_output_is_overwritten_by_another_container(case, source, tmp_path):
    out, others = tmp_path / "out", [other for other in CASES.values() if other.kind != case.kind]
    purified(out, source)
    for number, other in enumerate(others):
        other.build(tmp_path / f"other{number}", list(other.images))
        purified(out, open_source(tmp_path / f"other{number}"), overwrite=True)
        assert images(other, out) == [*other.images]


def test_an_object_store_holds_the_same_files(case, folder, source, tmp_path):
    import fsspec

    remote, root = fsspec.filesystem("memory"), f"/contract{tmp_path}"
    for name, data in files(folder).items():
        remote.pipe_file(f"{root}/in/{name}", data)
    there = open_source(f"memory:/{root}/in", shard_rows=SHARD)
    assert (there.digest, rows_of(there)) == (source.digest, rows_of(source))
    purified(tmp_path / "out", source)
    for _ in range(2):
        purified(f"memory:/{root}/out", source)
    made = {name.removeprefix(f"{root}/out/"): remote.cat(name) for name in remote.find(f"{root}/out")}
    assert made == files(tmp_path / "out")
    assert status(f"memory:/{root}/out").complete
    open_sink(f"memory:/{root}/out", source, settings={}, overwrite=True)
    assert remote.find(f"{root}/out") == [f"{root}/out/_raypurify/job.json"]


@pytest.mark.parametrize(("one", "other"), itertools.combinations(CONTAINERS, 2))
def test_containers_are_not_mixed(tmp_path, one, other):
    for kind in (one, other):
        (tmp_path / f"x{min(CONTAINERS[kind].suffixes)}").write_bytes(b"any")
    nouns = [f"{CONTAINERS[kind].noun}s" for kind in (one, other)]
    with pytest.raises(SourceError, match=rf"holds both {nouns[0]} \(x\.\w+\) and {nouns[1]} \(x\.\w+\)"):
        open_source(tmp_path)
