"""Images that kill whoever decodes them, faults that no one foresaw, actors that fail at their start, and what is kept.

Decoders are real but for files with a certain end; actors are processes that really die.
"""

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from bad_images import encode, pixels

import raypurify.bulk.job
from raypurify.bulk import shards
from raypurify.bulk import work as works
from raypurify.bulk.actor import ShardActor
from raypurify.bulk.job import purify
from raypurify.bulk.work import ShardOutcome, Sign, Work
from raypurify.cli.app import app
from raypurify.containers.ledger import scratch
from raypurify.containers.sink import open_sink, status
from raypurify.containers.source import open_source
from raypurify.errors import BundleError, RaypurifyError
from raypurify.runtime.poison import Care
from raypurify.storage import resolve

GIB = 1 << 30


def fault(data: bytes) -> None:
    """What the decoder does to the process with a file of this end."""
    if data.endswith(b"crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    elif data.endswith(b"sleep"):
        time.sleep(1000)
    elif data.endswith(b"allocate"):
        held = []
        while resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2 * GIB >> 10:
            held.append(np.ones(1 << 22))
        # As the kernel does where there is no more.
        os.kill(os.getpid(), signal.SIGKILL)
    elif data.endswith(b"raise"):
        raise KeyError("nobody thought of this\n" * 100)


class Endangered(ShardActor):
    """An actor whose decoder has faults, and whose bundle is there at the third try; tells what memory it took."""

    folder: Path
    false_starts = 0

    def start(self) -> str:
        for k in range(self.false_starts):
            with contextlib.suppress(FileExistsError):
                (self.folder / f"false-start-{k}").touch(exist_ok=False)
                raise BundleError("the store does not answer")
        from raypurify.purifiers import batch

        decode = batch.decode_image

        def watched(data, **options):
            fault(data)
            return decode(data, **options)

        batch.decode_image = watched
        return super().start()

    def do(self, shard, care):
        yield from super().do(shard, care)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        (self.folder / f"peak-{os.getpid()}").write_text(str(peak))


@pytest.fixture
def endangered(local_ray, tmp_path, monkeypatch):
    """Lets jobs use such actors, and waits three seconds for a decoder."""
    ray.cloudpickle.register_pickle_by_value(__import__(__name__))

    def use(false_starts: int = 0) -> None:
        kind = type("Endangered", (Endangered,), {"folder": tmp_path, "false_starts": false_starts})
        monkeypatch.setattr(shards, "ShardActor", kind)
        monkeypatch.setattr(raypurify.bulk.job, "Work", partial(Work, decode_s=3.0))

    yield use
    ray.cloudpickle.unregister_pickle_by_value(__import__(__name__))


def write_images(folder: Path, ends: dict[int, bytes], count: int = 64) -> Path:
    folder.mkdir()
    for k in range(count):
        (folder / f"{k:03d}.png").write_bytes(encode(pixels(seed=k)) + ends.get(k, b""))
    return folder


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def reasons(out: Path) -> dict[str, str]:
    return {row["id"]: row["reason"] for row in pq.read_table(out / "_raypurify" / "errors.parquet").to_pylist()}


@pytest.mark.timeout(180)
def test_what_kills_is_left_out_and_what_was_not_foreseen_leaves_its_shard_alone(
    endangered, tmp_path, monkeypatch, capfd
):
    folder, out = write_images(tmp_path / "in", {5: b"crash", 20: b"sleep", 50: b"raise"}), tmp_path / "out"
    endangered(false_starts=2)
    with pytest.raises(RaypurifyError, match="1 of 4 shards could not be done, part-00003 first: KeyError: ") as error:
        purify([str(folder)], str(out), "cifar10", sheet=0)
    said = str(error.value)
    assert "the same command does the rest" in said
    assert "\n" not in said
    assert len(said) < 700
    log = re.search(r"traceback is in (\S+) on", said)[1]
    assert re.search(r"Traceback.*in fault.*KeyError", Path(log).read_text(), re.DOTALL)
    assert (status(out).committed, status(out).failed) == (3, 2)
    # Three deaths each: one at work, two in a probe.
    shown = capfd.readouterr()
    assert "Ray" not in shown.out + shown.err
    assert len(re.findall("died over shard part-0000[01]; it is begun again", shown.err)) == 6

    # Where the fault is mended, the rest is done, and what killed is not tried again.
    monkeypatch.undo()
    summary = purify([str(folder)], str(out), "cifar10", sheet=0)
    assert (summary.written, summary.reasons) == (62, {"kills": 2})
    assert reasons(out) == {"005.png": "kills", "020.png": "kills"}

    # The others are what they are where these cannot be decoded at all.
    undecodable = tmp_path / "undecodable"
    shutil.copytree(folder, undecodable)
    for name in ("005.png", "020.png"):
        (undecodable / name).write_bytes(b"no image")
    purify([str(undecodable)], str(tmp_path / "other"), "cifar10", sheet=0)
    made, expected = files_below(out), files_below(tmp_path / "other")
    assert made.keys() == expected.keys()
    names = [name for name in made if name.endswith(".png") or "/provenance" in name]
    assert all(made[name] == expected[name] for name in names)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_memory_that_runs_out_and_several_that_kill_in_one_shard(endangered, tmp_path):
    folder, out = write_images(tmp_path / "in", {3: b"allocate", 4: b"crash", 12: b"allocate"}, 16), tmp_path / "out"
    endangered()
    summary = purify([str(folder)], str(out), "cifar10", sheet=0)
    assert (summary.written, summary.reasons) == (13, {"kills": 3})


def test_actors_that_cannot_start_end_the_job_in_one_line(endangered, tmp_path):
    folder = write_images(tmp_path / "in", {}, 2)
    endangered(false_starts=99)
    with pytest.raises(RaypurifyError) as error:
        purify([str(folder)], str(tmp_path / "out"), "cifar10", sheet=0)
    assert str(error.value) == "no actor can be started, after 4 tries: the store does not answer"


def test_an_interrupted_job_says_what_is_kept(local_ray, tmp_path, monkeypatch, capsys):
    folder, out = write_images(tmp_path / "in", {}), tmp_path / "out"

    def interrupt(lease) -> None:
        if status(out).committed:
            raise KeyboardInterrupt

    asked = ["purify", str(folder), str(out), "--sheet", "0"]
    with monkeypatch.context() as patched:
        patched.setattr("raypurify.containers.lease.Lease.check", interrupt)
        with pytest.raises(SystemExit) as end:
            app(asked)
    assert end.value.code == 130
    kept = re.search(r"purify: ([0-4]) of 4 shards are done and kept", capsys.readouterr().err)
    assert int(kept[1]) <= (committed := status(out).committed)
    with pytest.raises(SystemExit):
        app(asked)
    assert f"purify: going on, {committed} of 4 shards were done before and are kept" in capsys.readouterr().err


def test_a_shard_tells_how_far_it_is(local_ray, tmp_path, monkeypatch):
    monkeypatch.setattr(works, "SIGN_S", 0.0)
    monkeypatch.setattr("raypurify.purifiers.batch.WINDOW_PIXELS", 3 * 32 * 32)
    source = open_source(write_images(tmp_path / "in", {}, 12), labels=False)
    sink = open_sink(tmp_path / "out", source, settings={})
    one = ShardActor(Work("cifar10", sink, 1 << 24, frozenset()))
    one.start()
    *signs, last = one.do(source.shards[0], Care())
    assert [sign.done for sign in signs] == list(range(1, 13))
    assert last == ShardOutcome("part-00000", {"purified": 12}, seconds=last.seconds)
    *probes, _ = one.do(source.shards[0], Care(True, frozenset({7})))
    assert [sign.row for sign in probes if isinstance(sign, Sign) and sign.row is not None] == [
        row for row in range(12) if row != 7
    ]
    assert set(reasons_of_shard(tmp_path / "out")) == {"kills"}


SLOW_ENDPOINT = """
import sys, time
import pandas  # which the writing loads: seconds where others work
from raypurify.bulk import actor
from raypurify.bulk.actor import ShardActor
from raypurify.bulk.work import Work, replace
from raypurify.runtime.poison import Care
from raypurify.containers.sink import open_sink
from raypurify.containers.source import open_source
from raypurify.errors import ImageError
from raypurify.serve import client

def slow(images, heard, digest):
    for k in range(6):
        time.sleep(0.7)
        if sys.argv[3] == "answers":
            heard()
    return [ImageError("too-small", "none")] * len(images)

client.purify_there, actor.SIGN_S = slow, 0.1
source = open_source(sys.argv[1], labels=False)
sink = open_sink(sys.argv[2], source, settings={})
one = ShardActor(Work("cifar10", sink, 1 << 24, frozenset(), engine="serve"))
one.start()
one.work = replace(one.work, step_s=3.0)
*signs, last = one.do(source.shards[0], Care(True, frozenset({0, 1})))
assert last.images == {"kills": 2, "too-small": 1}, last
assert sum(sign.row == 2 for sign in signs) >= 5, signs
assert sum(sign.done == 2 for sign in signs) >= 4, signs
"""


@pytest.mark.parametrize("endpoint", ["answers", "hangs"])
def test_a_window_may_wait_as_long_as_the_endpoint_answers(endpoint, tmp_path):
    folder = write_images(tmp_path / "in", {}, 3)
    command = [sys.executable, "-c", SLOW_ENDPOINT, str(folder), str(tmp_path / "out"), endpoint]
    run = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (run.returncode, "Timeout" in run.stderr) == {"answers": (0, False), "hangs": (1, True)}[endpoint], (
        run.stderr
    )


def reasons_of_shard(out: Path) -> list[str]:
    return pq.read_table(out / "_raypurify" / "errors" / "part-00000.parquet")["reason"].to_pylist()


def heavy(kind: str, folder: Path) -> Path:
    """Small images, each with megabytes that belong to it."""
    folder.mkdir()
    images = [encode(pixels(seed=k)) for k in range(96)]
    if kind == "folder":
        for k, data in enumerate(images):
            (folder / f"{k:03d}.png").write_bytes(data)
            os.truncate(folder / f"{k:03d}.png", 20 << 20)
    elif kind == "parquet":
        schema = pa.schema([("image", pa.binary()), ("more", pa.binary())])
        with pq.ParquetWriter(folder / "0.parquet", schema) as writer:
            for data in images[:64]:
                table = pa.table({"image": [data + bytes(20 << 20)], "more": [bytes(20 << 20)]}, schema)
                writer.write_table(table)
    else:
        import io
        import tarfile

        with tarfile.open(folder / "0.tar", "w") as tar:
            for k, data in enumerate(images):
                for suffix, content in ((".png", data), (".bin", bytes(30 << 20))):
                    info = tarfile.TarInfo(f"{k:03d}{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return folder


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["folder", "parquet", "tar"])
def test_the_memory_of_an_actor_is_bounded_whatever_comes(endangered, tmp_path, kind):
    endangered()
    summary = purify([str(heavy(kind, tmp_path / "in"))], str(tmp_path / "out"), "cifar10", sheet=0)
    assert summary.failed == 0
    peak = max(int(path.read_text()) for path in tmp_path.glob("peak-*"))
    print(f"{kind}: {peak / 1e9:.2f} GB")
    assert peak < 1.5 * GIB
    assert not scratch(resolve(tmp_path / "out")).names()
