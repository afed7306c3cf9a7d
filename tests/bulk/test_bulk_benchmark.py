"""What benchmarks/bulk.py rests on: the obvious script does the same job, and the helpers measure what they say."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "cifar10" / "clean"


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    files = sorted(EXAMPLES.glob("*.png"))[:3]
    return pa.table({"image": [file.read_bytes() for file in files], "id": [file.name for file in files]})


def test_the_obvious_script_does_what_the_purifier_does(benchmark, rows, tmp_path):
    import raypurify
    from raypurify.images import to_pixels

    bulk = benchmark("bulk")
    purifier, images = raypurify.load("cifar10"), bulk.pixels(rows[:2])
    # Two solvers that stop in their own ways come to the same only where they go on for long enough.
    csc = purifier.settings.csc.model_copy(update={"rel_tol": 2e-4})
    purifier.settings = purifier.settings.model_copy(update={"csc": csc})
    bulk.write_settings(tmp_path / "settings.npz", purifier, images)
    source = bulk.write_folder(rows[:2], tmp_path / "in")
    said = bulk.run_script(source, tmp_path / "out", tmp_path / "settings.npz")
    assert (said["images"], said["unsolved"]) == (2, 0)
    for path, image in zip(sorted((tmp_path / "out").iterdir()), purifier.purify(images).images.numpy(), strict=True):
        difference = np.asarray(Image.open(path), int) - to_pixels(image)
        assert np.abs(difference).max() <= 1
        assert np.abs(difference).mean() < 0.1


def test_the_steady_part_begins_when_every_actor_has_done_a_shard(benchmark):
    jobs = benchmark("bulk_job")
    job = jobs.Job(0.0, 16.0, [(10.0, 8), (10.5, 8), (12.0, 8), (12.5, 4)])
    assert (job.startup, job.rate) == (10.0, 1.75)
    assert job.steady(2) == (10.5, 12.5, 2, 12)
    assert (job.steady_rate(1), job.steady_rate(2)) == (8.0, 6.0)
    with pytest.raises(ValueError, match="give more images"):
        job.steady(4)


def test_tables_show_ratios_of_medians(benchmark, monkeypatch):
    bulk, job = benchmark("bulk"), benchmark("bulk_job").Job(0.0, 16.0, [(10.0, 8), (10.5, 8), (12.0, 8), (12.5, 4)])
    monkeypatch.setattr(bulk, "CORES", 2)
    found = {"set": "some", "images": 28, "jobs": {"Parquet": bulk.against([2.0, 8.0, 4.0], [job] * 3)}}
    assert "| some, Parquet | 28 | 1.50 | 0.44 | 10.0 s |" in bulk.tables({"tensors": {"sets": [found]}})


def test_commits_are_read_off_the_records_of_an_output(benchmark, rows, tmp_path):
    folder = tmp_path / "_raypurify" / "provenance"
    folder.mkdir(parents=True)
    for name, count, when in (("b", 2, 103.5), ("a", 3, 107.0)):
        pq.write_table(rows[:count], folder / f"{name}.parquet")
        os.utime(folder / f"{name}.parquet", (when, when))
    assert benchmark("bulk_job").commits(tmp_path, 100.0) == [(3.5, 2), (7.0, 3)]


def test_inputs_hold_the_pixels_of_the_first_rows(benchmark, rows, tmp_path):
    jobs = benchmark("bulk_job")
    one, other = (jobs.write_parquet(part, tmp_path / name) for name, part in (("a", rows[:1]), ("b", rows[1:])))
    table = jobs.first_rows([one, other], 2)
    assert table["id"].to_pylist() == rows["id"].to_pylist()[:2]
    written = sorted(jobs.write_folder(table, tmp_path / "in").iterdir())
    for path, before in zip(written, sorted(EXAMPLES.glob("*.png"))[:2], strict=True):
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(before)))
    with pytest.raises(SystemExit, match="4 images asked for, 3 are there"):
        jobs.first_rows([one, other], 4)


def test_memory_and_time_of_a_process_are_those_it_took(benchmark):
    processes = benchmark("processes")
    code = (
        "import subprocess, sys, time; held = bytes(range(256)) * (1 << 18)\n"
        "while time.process_time() < 0.5: pass\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import sys; print(1, flush=True); sys.stdin.read()'])\n"
        "child.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        parent.stdout.readline()
        found = processes.tree(parent.pid)
        assert (len(found), found[0]) == (2, parent.pid)
        assert processes.memory(found[:1]) in range(64 << 20, 96 << 20)
        assert processes.memory(found) > processes.memory(found[:1])
        assert 0.4 < processes.cpu_seconds(parent.pid) < 2
        assert processes.ray_kind(parent.pid) == "others"
        parent.stdin.close()
    assert processes.tree(parent.pid) == [parent.pid]
    assert (processes.memory([parent.pid]), processes.cpu_seconds(parent.pid)) == (0, 0.0)


def test_growth_is_that_between_two_times(benchmark):
    growth = benchmark("bulk_nodes").growth
    series = [(10.0, 1.0), (11.0, 3.0), (12.0, 5.0)]
    assert growth(series, 10.5, 12.0) == pytest.approx(3)
    assert growth(series, 11.0, 20.0) == pytest.approx(2)
    assert growth(series, 5.0, 10.5) == pytest.approx(2)


def test_sides_are_taken_in_turn(benchmark, capsys):
    order = []
    sides = {name: lambda name=name: order.append(name) or (name, time.monotonic()) for name in ("a", "b")}
    found = benchmark("bulk_job").results_in_turn("part", sides, 2)
    assert order == ["a", "b", "a", "b"]
    assert [name for name, _ in found["b"]] == ["b", "b"]
    assert "part: b done, 4 of 4 runs, about 0 s left" in capsys.readouterr().out
