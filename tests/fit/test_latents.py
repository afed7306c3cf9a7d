"""The latents stage: every image once, the same bytes after any interruption, nothing that is not a number."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raypurify.errors import DataError, SinkError, TrainingError
from raypurify.files import read_json
from raypurify.fit import latents
from raypurify.fit.latents import DONE, PARTS, extract_latents
from raypurify.fit.train import NETWORK
from raypurify.fit.units import cut_units, prepared_files, read_tables
from raypurify.nets import WideResNet
from raypurify.nets.store import load_network, save_network
from raypurify.runtime.progress import FILE, Progress
from raypurify.storage import Place, resolve
from raypurify.training.data import TRAIN, read_part, read_pixels

SIDE, UNIT_ROWS = 16, 30


def written(folder: Path) -> dict[str, bytes]:
    """Every file that a reader of the stage could find, and the markers."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for part in (PARTS, DONE)
        for p in sorted((folder / part).rglob("*"))
        if p.is_file()
    }


def read_class(folder: Path, label: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n,) and latents (n, d) of all that is in a class's folder, by row."""
    table = pq.read_table(folder / PARTS / f"label={label}", partitioning=None).sort_by("row")
    return table["row"].to_numpy(), np.array(table["latent"].to_pylist(), np.float32)


def train_files(prepared: Path) -> list[tuple[Place, int]]:
    return prepared_files(resolve(prepared / TRAIN))


def extract(folder: Path, prepared: Path, network: Path, *arguments: int) -> dict:
    return extract_latents(resolve(folder), resolve(prepared), resolve(network), *arguments)


@pytest.fixture(scope="module")
def run(small_run):
    """Extracts the latents of the small run into a folder, in units of 30 images."""
    prepared, network = small_run / "prepare", small_run / "baseline" / NETWORK
    return lambda folder, network=network: extract(folder, prepared, network, SIDE, UNIT_ROWS)


@pytest.fixture(scope="module")
def extracted(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("latents")
    return folder, run(folder)


@pytest.fixture(autouse=True)
def seen_cpus(monkeypatch):
    """Sets how many CPUs the stage sees, of which it leaves one free: the first set comes of three actors, what is
    compared with it of one."""
    import ray

    def see(cpus: int) -> None:
        monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": float(cpus)})

    see(2)
    return see


@pytest.fixture
def extractor(small_run, tmp_path, local_ray):
    """What an actor of the pool runs, in this process."""
    import ray

    network = load_network(small_run / "baseline" / NETWORK)
    progress = ray.remote(num_cpus=0)(Progress).remote(tmp_path, 0, "images")
    return latents._Extractor(ray.put(network), resolve(tmp_path), SIDE, "cpu", progress)


def test_every_image_has_the_latent_of_the_network_under_its_class(small_run, extracted):
    folder, report = extracted
    train = read_part(small_run / "prepare", TRAIN)
    network = load_network(small_run / "baseline" / NETWORK)
    assert report == {"images": len(train), "features": network.dim}
    with torch.no_grad():
        expected = network.latents(torch.from_numpy(read_pixels(train, SIDE).copy()).float() / 255).numpy()
    rows, labels = train["row"].to_numpy(), train["label"].to_numpy()
    for label in range(3):
        found, vectors = read_class(folder, label)
        assert found.tolist() == rows[labels == label].tolist()
        np.testing.assert_allclose(vectors, expected[labels == label], rtol=1e-4, atol=1e-5)


def test_files_are_sorted_and_markers_count_them(extracted):
    folder, report = extracted
    units = sorted((folder / DONE).iterdir())
    assert len(units) == -(-report["images"] // UNIT_ROWS)
    for marker in units:
        facts = json.loads(marker.read_text())
        assert facts["features"] == report["features"]
        for label, count in facts["rows"].items():
            rows = pq.read_table(folder / PARTS / f"label={label}" / f"{marker.stem}.parquet", partitioning=None)["row"]
            assert rows.to_pylist() == sorted(rows.to_pylist())
            assert len(rows) == count
    assert read_json(folder / FILE)["done"] == report["images"]


def test_a_unit_without_a_marker_is_done_again_and_no_other(run, extracted, tmp_path):
    folder, report = extracted
    before = written(folder)
    assert run(tmp_path) == report
    lost = sorted((tmp_path / DONE).iterdir())[1]
    lost.unlink()
    torn, gone, *_ = (tmp_path / PARTS).glob(f"*/{lost.stem}.parquet")
    torn.write_bytes(b"torn")
    gone.unlink()
    others = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/**/*.*") if p.is_file() and p.name.find(lost.stem) < 0}
    assert run(tmp_path) == report
    assert written(tmp_path) == before
    assert {p: p.stat().st_mtime_ns for p in others} == others
    assert read_json(tmp_path / FILE)["start"] == report["images"] - UNIT_ROWS


def test_a_complete_set_is_not_touched(run, extracted):
    folder, report = extracted
    times = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert run(folder) == report
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == times


def test_an_interrupted_write_leaves_nothing_to_read(run, extracted, extractor, small_run, tmp_path, monkeypatch):
    units = cut_units(train_files(small_run / "prepare"), UNIT_ROWS)
    replaced = []

    def stop_at_the_second(source, target, **folders):
        if replaced:
            raise KeyboardInterrupt
        replaced.append(Path(target))
        os.rename(source, target, **folders)

    monkeypatch.setattr("raypurify.storage.os.replace", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        extractor({"unit": [units[0]]})
    monkeypatch.undo()
    # Nothing half-written stays either.
    assert [p for p in (tmp_path / PARTS).rglob("*") if p.is_file()] == [replaced[0]]
    assert not (tmp_path / DONE).exists()
    assert pq.ParquetDataset(tmp_path / PARTS, partitioning=None).files == [str(replaced[0])]
    # Of another cut, as an earlier version or another unit size would leave.
    (replaced[0].parent / "00000-other.parquet").write_bytes(b"stale")
    run(tmp_path)
    assert written(tmp_path) == written(extracted[0])


def test_another_cut_takes_the_place_of_the_first(run, extracted, small_run, tmp_path):
    extract(tmp_path, small_run / "prepare", small_run / "baseline" / NETWORK, SIDE, 50)
    assert written(tmp_path).keys() != written(extracted[0]).keys()
    run(tmp_path)
    assert written(tmp_path) == written(extracted[0])


def test_bytes_do_not_depend_on_the_size_of_the_cluster(run, extracted, tmp_path, seen_cpus):
    seen_cpus(64)
    run(tmp_path)
    assert written(tmp_path) == written(extracted[0])


def test_default_units_are_a_function_of_the_data(small_run):
    # 120 images are one unit, as any number up to 1,024 is.
    folder = small_run / "latents"
    assert len(list((folder / DONE).iterdir())) == 1


@pytest.mark.parametrize("unit_rows", [1, 7, 100, 1000])
def test_units_hold_every_row_of_every_file_once(unit_rows):
    files = [(Place(name), rows) for name, rows in (("a", 10), ("b", 1), ("c", 250), ("d", 3))]
    units = cut_units(files, unit_rows)
    assert [unit.rows for unit in units[:-1]] == [unit_rows] * (len(units) - 1)
    seen = [(path, row) for unit in units for path, start, stop in unit.pieces for row in range(start, stop)]
    assert seen == [(path, row) for path, rows in files for row in range(rows)]
    assert all(unit.rows == sum(stop - start for _, start, stop in unit.pieces) for unit in units)
    names = {unit.name for unit in units}
    assert len(names) == len(units)
    # The folder may move; other files are other units.
    assert {unit.name for unit in cut_units([(Place("/x") / p.path, n) for p, n in files], unit_rows)} == names
    assert not names & {unit.name for unit in cut_units([(Place(f"{p}2"), n) for p, n in files], unit_rows)}


def test_a_diverged_network_is_an_error_with_row_and_remedy(run, small_run, tmp_path):
    network = load_network(small_run / "baseline" / NETWORK)
    with torch.no_grad():
        network.features[0].weight.fill_(float("nan"))
    save_network(tmp_path / "nan.safetensors", network)
    (path, _), *_ = train_files(small_run / "prepare")
    first = min(pq.read_table(path, columns=["row"], partitioning=None)["row"].to_pylist()[:UNIT_ROWS])
    with pytest.raises(
        DataError, match=rf"{UNIT_ROWS} of {UNIT_ROWS} images, the first is row {first}, .*learning rate"
    ):
        run(tmp_path, tmp_path / "nan.safetensors")
    assert written(tmp_path) == {}
    for _ in range(100):
        if not extractors():
            break
        time.sleep(0.1)
    assert not extractors()


def test_one_bad_image_is_named(extractor, small_run):
    unit = cut_units(train_files(small_run / "prepare"), UNIT_ROWS)[0]
    table = pa.concat_tables(read_tables(unit, 256))
    bad = 11
    row, name = table["row"][bad].as_py(), table["id"][bad].as_py()

    class OneInfinite(WideResNet):
        def latents(self, images):
            found = super().latents(images)
            found[bad, 3] = float("inf")
            return found

    extractor.network.__class__ = OneInfinite
    (error,) = extractor({"unit": [unit]})["error"]
    assert isinstance(error, DataError)
    assert name.endswith(".png")
    assert f"1 of {UNIT_ROWS} images, the first is row {row}, {name}: " in str(error)


def test_what_cannot_be_written_or_read_is_named(run, tmp_path):
    (tmp_path / PARTS).mkdir()
    (tmp_path / PARTS / "label=1").write_text("in the way")
    with pytest.raises(SinkError, match="label=1"):
        run(tmp_path)
    with pytest.raises(TrainingError, match="cannot read a network"):
        run(tmp_path, tmp_path / "none.safetensors")


def test_large_images_go_through_in_small_batches(local_ray, tmp_path, monkeypatch):
    """A row more than a batch, in units that begin and end amid files and row groups."""
    prepare_noise(tmp_path / "prepared", rows=50, side=300, files=2, row_group=16)
    save_network(tmp_path / NETWORK, WideResNet(10, 1, 2))
    extract(tmp_path / "out", tmp_path / "prepared", tmp_path / NETWORK, 300, 20)
    found = sum(len(read_class(tmp_path / "out", label)[0]) for label in range(2))
    assert found == 50


def prepare_noise(folder: Path, rows: int, side: int, files: int, row_group: int) -> None:
    rng = np.random.default_rng(0)
    (folder / TRAIN).mkdir(parents=True)
    for i, part in enumerate(np.array_split(rng.permutation(rows), files)):
        pixels = rng.integers(0, 256, (len(part), 3 * side * side), np.uint8)
        images = pa.array([image.tobytes() for image in pixels], pa.binary(3 * side * side))
        table = pa.table({"row": part, "id": part.astype(str), "label": part % 2, "image": images})
        pq.write_table(table, folder / TRAIN / f"{i}.parquet", row_group_size=row_group)


def test_a_killed_actor_changes_no_byte(local_ray, tmp_path, seen_cpus):
    seen_cpus(3)
    prepare_noise(tmp_path / "prepared", rows=2000, side=32, files=3, row_group=1000)
    save_network(tmp_path / NETWORK, WideResNet(10, 2, 2))
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    counts, done_at_kill, over = [], [], threading.Event()

    def run(to: Path) -> None:
        to.mkdir()
        extract(to, tmp_path / "prepared", tmp_path / NETWORK, 32, 400)

    def kill_one() -> None:
        while not over.is_set():
            counts.append((read_json(folder / FILE) or {"done": 0})["done"])
            # Amid the second unit of its actor.
            if not done_at_kill and counts[-1] > 600:
                os.kill(extractors()[0], signal.SIGKILL)
                done_at_kill.append(len(list((folder / DONE).glob("*.json"))))
            time.sleep(0.005)

    run(whole)
    thread = threading.Thread(target=kill_one)
    thread.start()
    try:
        run(folder)
    finally:
        over.set()
        thread.join()
    assert done_at_kill[0] < 5
    assert written(folder) == written(whole)
    # Work done twice is counted once.
    assert max(counts) <= 2000
    assert read_json(folder / FILE)["done"] == 2000


def extractors() -> list[int]:
    """Process ids of this test's own actors, the oldest first."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and "_Extractor" in (entry / "cmdline").read_text() and is_ours(int(entry.name)):
                found.append(int(entry.name))
        except OSError:
            continue
    return sorted(found)


def is_ours(pid: int) -> bool:
    while pid > 1:
        if pid == os.getpid():
            return True
        pid = int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
    return False
