"""Small sets purified in one process: the bytes of actors, kills and interruptions, who is chosen and what is told."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_images import encode, pixels
from bulk_kills import KILL_POINTS, plan_kill

import raypurify.bulk.job
import raypurify.bulk.local
import raypurify.bulk.work
import raypurify.containers.folder
from raypurify.bulk.actor import ShardActor
from raypurify.bulk.engine import SMALL_SHARDS, after_deaths, chosen_engine
from raypurify.bulk.job import purify, retry
from raypurify.bulk.planning import SMALL
from raypurify.bulk.shards import ActorShape
from raypurify.bulk.work import Work
from raypurify.cli.app import app
from raypurify.containers.at_work import AtWork
from raypurify.containers.contract import Sink
from raypurify.containers.ledger import committed
from raypurify.containers.sink import status
from raypurify.containers.source import open_source
from raypurify.errors import ConfigError, RaypurifyError, SinkError
from raypurify.runtime.poison import Care
from raypurify.storage import overlapped, resolve

REPOSITORY = Path(__file__).resolve().parents[2]
IMAGES = 24


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A folder, a tar and a Parquet file of the same images of two sizes, one of them cut short."""
    root = tmp_path_factory.mktemp("inputs")
    images = {f"{k:03d}": encode(pixels(24 + 8 * (k % 2), seed=k)) for k in range(IMAGES)}
    images["005"] = images["005"][:99]
    for kind in ("folder", "tar", "parquet"):
        (root / kind).mkdir()
    with tarfile.open(root / "tar" / "0.tar", "w") as tar:
        for name, data in images.items():
            (root / "folder" / f"{name}.png").write_bytes(data)
            member = tarfile.TarInfo(f"{name}.png")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    pq.write_table(pa.table({"id": [*images], "image": [*images.values()]}), root / "parquet" / "0.parquet")
    return root


@pytest.fixture(scope="module")
def whole(inputs) -> dict[str, bytes]:
    """The output of the folder that nothing has disturbed."""
    purify([str(inputs / "folder")], str(inputs / "whole"), sheet=0, engine="local")
    return files_below(inputs / "whole")


def both(inputs: Path, out: Path) -> None:
    """The same output by one process and by actors."""
    made = {}
    for engine in ("local", "actors"):
        summary = purify([str(inputs)], str(out / engine), sheet=2, engine=engine)
        assert (summary.written, summary.reasons) == (IMAGES - 1, {"truncated": 1})
        made[engine] = files_below(out / engine)
    assert made["local"] == made["actors"]


def test_bytes_are_those_of_actors(local_ray, inputs, tmp_path):
    both(inputs / "folder", tmp_path)


def test_threads_that_decode_and_encode_beside_the_purifier_change_no_byte(inputs, whole, tmp_path):
    out = tmp_path / "out"
    summary = purify([str(inputs / "folder")], str(out), sheet=0, engine="local", actor=ActorShape(cpus=3))
    assert (summary.written, summary.reasons) == (IMAGES - 1, {"truncated": 1})
    assert files_below(out) == whole


def test_a_job_with_nothing_left_to_do_says_so(inputs, whole, capsys):
    shards = status(inputs / "whole").committed
    purify([str(inputs / "folder")], str(inputs / "whole"), sheet=0, engine="local")
    assert f"purify: nothing to do, all {shards} shards were done before and are kept" in capsys.readouterr().err
    assert files_below(inputs / "whole") == whole


@pytest.mark.parametrize("compression", ["small", "fast"])
def test_a_job_says_how_its_files_are_compressed_and_goes_on_so(inputs, whole, tmp_path, compression):
    pytest.importorskip("deflate", reason="needs raypurify[fast]")
    out, other = str(tmp_path / "out"), {"small": "fast", "fast": "small"}[compression]
    purify([str(inputs / "folder")], out, sheet=0, engine="local", compression=compression)
    assert (files_below(tmp_path / "out") == whole) == (compression == "small")
    with pytest.raises(SinkError, match=f"compression .*{compression}.*{other}"):
        purify([str(inputs / "folder")], out, sheet=0, engine="local", compression=other)
    assert retry(out).written == IMAGES - 1
    assert json.loads((tmp_path / "out/_raypurify/job.json").read_text())["settings"]["compression"] == compression


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_bytes_are_those_of_what_an_actor_does(inputs, tmp_path, monkeypatch, kind):
    def without_ray(shards, mine, work, *_) -> list:
        actor = ShardActor(work)
        actor.start()
        return [pair for shard in shards for said in actor.do(shard, Care()) for pair in getattr(said, "pairs", ())]

    monkeypatch.setattr(raypurify.bulk.job, "work_off_shards", without_ray)
    both(inputs / kind, tmp_path)


JOB = """
import atexit, sys
atexit.register(lambda: print("with Ray" if "ray" in sys.modules else "without Ray", file=sys.stderr))
from raypurify.cli.job import run_job
run_job("purify")
"""


def run(*arguments: object, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    """A job script's end, outside of any cluster."""
    outside = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    paths = os.pathsep.join((str(KILL_POINTS), str(REPOSITORY)))
    return subprocess.run(
        [sys.executable, "-c", JOB, *map(str, arguments)],
        env=outside | {"PYTHONPATH": paths} | (environment or {}),
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_a_small_set_is_purified_without_ray(inputs, whole, tmp_path):
    done = run(inputs / "folder", tmp_path / "out", "--sheet", "0")
    assert done.returncode == 1, done.stderr
    *_, last = done.stdout.splitlines()
    facts = {"images": IMAGES, "purified": IMAGES - 1, "failed": 1, "exit": 1, "output": str(tmp_path / "out")}
    assert facts.items() <= json.loads(last).items()
    assert f"purify: {IMAGES}/{IMAGES} images" in done.stderr
    assert done.stderr.endswith("without Ray\n")
    assert files_below(tmp_path / "out") == whole


def killed_and_run_again(inputs: Path, out: Path, folder: Path, *kills: tuple[str, int]) -> None:
    """A job that is killed at each of the points, the how-manieth time that it gets there, and in the end is done."""
    options = ("--sheet", "0", "--engine", "local")
    for number, (point, count) in enumerate(kills):
        plan, killed = plan_kill(folder, str(inputs / "folder"), str(out), point, "driver", count)
        ended = run(inputs / "folder", out, *options, environment={"KILL_PLAN": str(plan)})
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        killed.unlink()
        assert ("an earlier run died" in ended.stderr) == bool(number)
    died = AtWork(resolve(out)).died_over()
    assert died
    assert not {*died} & {p.stem for p in (out / "_raypurify" / "provenance").glob("*")}
    done = run(inputs / "folder", out, *options)
    assert done.returncode == 1, done.stderr
    assert re.search(f"an earlier run died at shard {died[0]}.* --engine actors", done.stderr)


def test_killed_jobs_end_in_the_bytes_of_an_undisturbed_one(inputs, whole, tmp_path):
    killed_and_run_again(inputs, tmp_path / "out", tmp_path, ("solve", 2), ("written", 12))
    assert files_below(tmp_path / "out") == whole


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_at_every_point_they_do_too(inputs, whole, tmp_path):
    kills = [("read", 9), ("solve", 2), ("write", 7), ("written", 14), ("renamed", 11), ("write", 4), ("renamed", 5)]
    killed_and_run_again(inputs, tmp_path / "out", tmp_path, *kills)
    assert files_below(tmp_path / "out") == whole


@pytest.fixture
def by_itself():
    """SIGTERM has no handler, as Ray leaves one."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("by_itself")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_with_130_and_the_same_command_goes_on(
    inputs, whole, tmp_path, monkeypatch, capsys, number
):
    out, command = tmp_path / "out", ["purify", str(inputs / "folder"), str(tmp_path / "out"), "--sheet", "0"]

    def interrupt(lease) -> None:
        if status(out).committed:
            # Else it would end the tests.
            assert signal.getsignal(number) is signal.default_int_handler
            signal.raise_signal(number)

    with monkeypatch.context() as patched:
        patched.setattr("raypurify.containers.lease.Lease.check", interrupt)
        with pytest.raises(SystemExit) as end:
            app([*command, "--engine", "local"])
    assert end.value.code == 130
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert re.search("purify: [12] of 2 shards are done and kept", capsys.readouterr().err)
    assert not AtWork(resolve(out)).died_over()
    with pytest.raises(SystemExit) as end:
        app([*command, "--engine", "local"])
    assert end.value.code == 1
    assert "died" not in capsys.readouterr().err
    assert files_below(out) == whole


def test_an_image_that_hangs_ends_the_job_and_leaves_a_note(inputs, whole, tmp_path, monkeypatch):
    from raypurify.purifiers import batch

    decode, hanging = batch.decode_image, (inputs / "folder" / "007.png").read_bytes()

    def slow(data: bytes, **options):
        time.sleep(4 * (data == hanging))
        return decode(data, **options)

    with monkeypatch.context() as patched:
        patched.setattr(batch, "decode_image", slow)
        patched.setattr(raypurify.bulk.job, "Work", partial(Work, decode_s=0.5))
        with pytest.raises(RaypurifyError, match=r"part-00000: a step of it takes too long.* --engine actors"):
            purify([str(inputs / "folder")], str(tmp_path / "out"), sheet=0, engine="local")
    assert "part-00000" in AtWork(resolve(tmp_path / "out")).died_over()
    purify([str(inputs / "folder")], str(tmp_path / "out"), sheet=0, engine="local")
    assert files_below(tmp_path / "out") == whole


@pytest.mark.parametrize("ends_s", [20.0, 0.1])
def test_nothing_is_written_once_a_hanging_job_has_ended(inputs, tmp_path, monkeypatch, ends_s):
    """Shard 1 is being written when an image of shard 0 hangs: it is waited for, but not for ever."""
    from raypurify.purifiers import batch

    decode, hanging = batch.decode_image, (inputs / "folder" / "007.png").read_bytes()
    read, put, puts = raypurify.bulk.work.read_shard, Sink.put, []
    writing, ended, freed = threading.Event(), threading.Event(), threading.Event()

    def read_shard(shard):
        if shard.name == "part-00000":
            writing.wait(50)
        return read(shard)

    def slow_put(sink, name, data):
        if threading.current_thread() is not threading.main_thread():
            puts.append(name)
            writing.set()
            ended.wait(4 * (len(puts) == 1))
        put(sink, name, data)

    def slow_decode(data: bytes, **options):
        if data == hanging:
            freed.wait(50)
        return decode(data, **options)

    monkeypatch.setattr(raypurify.bulk.work, "read_shard", read_shard)
    monkeypatch.setattr(Sink, "put", slow_put)
    monkeypatch.setattr(raypurify.containers.folder, "overlapped", partial(overlapped, at_once=1))
    monkeypatch.setattr(batch, "decode_image", slow_decode)
    monkeypatch.setattr(raypurify.bulk.local, "ENDS_S", ends_s)
    monkeypatch.setattr(raypurify.bulk.local, "_cpus", lambda: 2)
    monkeypatch.setattr(raypurify.bulk.job, "Work", partial(Work, decode_s=0.5))
    before = {*threading.enumerate()}
    with pytest.raises(RaypurifyError, match=r"part-00000: a step of it takes too long"):
        purify([str(inputs / "folder")], str(tmp_path / "out"), sheet=0, engine="local")
    at_end = committed(resolve(tmp_path / "out")), list(puts)
    ended.set()
    freed.set()
    for thread in {*threading.enumerate()} - before:
        thread.join(20)
    assert (committed(resolve(tmp_path / "out")), puts) == at_end
    assert len(at_end[0]) == (ends_s > 1)


@pytest.fixture
def alone(monkeypatch):
    """No Ray is there or named."""
    monkeypatch.setattr("raypurify.runtime.session._is_there", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")


def test_small_known_sets_without_a_cluster_are_done_here(alone, inputs, monkeypatch):
    source = open_source(inputs / "folder", labels=False, shard_rows=16)

    def chosen(source=source, shape=None, address=None) -> str:
        return chosen_engine("auto", source, shape or ActorShape(), address)

    assert chosen(replace(source, rows=SMALL)) == "local"
    assert chosen(replace(source, rows=SMALL + 1)) == "actors"
    assert chosen(replace(source, shards=source.shards * SMALL_SHARDS)) == "actors"
    assert chosen(replace(source, seen_to="b.tar")) == "actors"
    assert chosen(shape=ActorShape(cpus=2)) == "actors"
    assert chosen(address="auto") == "actors"
    assert chosen_engine("serve", source, ActorShape(), None) == "serve"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert chosen() == "actors"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert chosen() == "actors"
    with pytest.raises(ConfigError, match="--engine local uses no cluster; leave --address out"):
        purify(["in"], "out", engine="local", address="auto")


def test_after_a_death_actors_go_on(inputs, whole, tmp_path, capsys):
    out = resolve(inputs / "whole")
    note, other = AtWork(resolve(tmp_path)), AtWork(resolve(tmp_path), (1, 2))
    assert after_deaths("local", "auto", note) == "local"
    note.begin("part-00000")
    note.begin("part-00001")
    note.begin("part-00002")
    note.end("part-00001")
    note.begin("part-00003")
    assert after_deaths("local", "auto", other) == "local"
    assert capsys.readouterr().err == ""
    assert after_deaths("local", "auto", note) == "actors"
    assert "died at shard part-00000 or 2 more; actors go on" in capsys.readouterr().err
    assert after_deaths("local", "local", note) == "local"
    assert "--engine actors" in capsys.readouterr().err
    note.clear()
    assert after_deaths("local", "auto", note) == "local"
    # What is committed has killed nobody.
    done = AtWork(out)
    done.begin("part-00000")
    assert not done.died_over()
    done.clear()


def test_nothing_is_loaded_here_for_actors_who_go_on(alone, inputs, tmp_path, monkeypatch):
    loads, command = [], partial(purify, [str(inputs / "folder")], str(tmp_path / "out"), sheet=0)
    load = raypurify.bulk.job.load_here
    monkeypatch.setattr(raypurify.bulk.job, "load_here", lambda *given: loads.append(given) or load(*given))

    def by_actors(*_) -> list:
        raise RaypurifyError("actors")

    monkeypatch.setattr(raypurify.bulk.job, "work_off_shards", by_actors)
    AtWork(resolve(tmp_path / "out")).begin("part-00000")
    with pytest.raises(RaypurifyError, match="actors"):
        command()
    assert not loads
    command(engine="local")
    assert len(loads) == 1


CRASHING = """
import os, signal
from PIL import Image
opened = Image.open
def watched(file, *arguments, **options):
    if file.getvalue().endswith(b"crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return opened(file, *arguments, **options)
Image.open = watched
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_image_that_kills_is_left_out_by_the_same_command_again(inputs, tmp_path):
    (tmp_path / "in").mkdir()
    for k in range(40):
        (tmp_path / "in" / f"{k:03d}.png").write_bytes(encode(pixels(seed=k)) + b"crash" * (k == 20))
    (tmp_path / "sitecustomize.py").write_text(CRASHING)
    environment = {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(REPOSITORY)))}
    first = run(tmp_path / "in", tmp_path / "out", environment=environment)
    assert first.returncode == -signal.SIGSEGV, first.stderr
    second = run(tmp_path / "in", tmp_path / "out", environment=environment)
    assert second.returncode == 1, second.stderr
    assert "died at shard" in second.stderr
    assert "actors go on, who leave out an image that kills" in second.stderr
    errors = pq.read_table(tmp_path / "out" / "_raypurify" / "errors.parquet").to_pylist()
    assert [(row["id"], row["reason"]) for row in errors] == [("020.png", "kills")]
