"""The lease on an output: one holder at a time, and none that a crash leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from raypurify.containers import lease
from raypurify.containers.lease import held
from raypurify.containers.sink import open_sink
from raypurify.containers.source import open_source
from raypurify.errors import SinkError
from raypurify.images import SUFFIX
from raypurify.storage import resolve


def sign(**more) -> str:
    facts = {"holder": "other", "pid": 1, "started": "0", "renewed": time.time(), "host": "elsewhere", "numbering": ""}
    return json.dumps(facts | more)


@pytest.fixture(params=["disk", "memory"])
def out(request, tmp_path):
    uri = tmp_path / "out" if request.param == "disk" else f"memory://{tmp_path}/out"
    return resolve(uri)


def leave(out, text: str) -> None:
    (out / "_raypurify" / "lease.json").write(text.encode(), out / "_raypurify")


def test_a_lease_lasts_as_long_as_its_block(out):
    with held(out) as lease:
        assert lease.file.kind == "file"
        lease.check()
        with pytest.raises(SinkError, match=f"another job writes here .process {os.getpid()} on"), held(out):
            pass
        assert lease.file.kind == "file"
    assert (out / "_raypurify").names() == []
    with held(out):
        pass


def test_a_holder_elsewhere_counts_until_it_has_been_silent(out):
    leave(out, sign(renewed=time.time() - lease.EXPIRES + 5))
    with pytest.raises(SinkError, match="process 1 on elsewhere, last sign 55 s ago"), held(out):
        pass
    leave(out, sign(renewed=time.time() - lease.EXPIRES - 1))
    with held(out):
        pass


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "null", '{"holder": "other"}', '{"renewed": null}', '{"renewed": "now"}']
)
def test_a_damaged_lease_holds_nothing(out, text):
    leave(out, text)
    with held(out):
        pass


def test_a_killed_holder_on_this_machine_does_not_count(tmp_path):
    code = (
        "import sys, time\nfrom raypurify.containers.lease import held\nfrom raypurify.storage import resolve\n"
        "with held(resolve(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(SinkError, match=f"process {holder.pid} on"), held(resolve(tmp_path)):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with held(resolve(tmp_path)):
        pass


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="tells processes apart by /proc")
def test_a_number_given_to_another_process_is_not_its_holder(out):
    leave(out, sign(pid=os.getpid(), started="1", **lease._machine()))
    with held(out):
        pass


def test_a_machine_of_the_same_name_is_another(out):
    # Its processes are not among those here: it counts as long as its sign is new.
    leave(out, sign(pid=os.getpid(), started="1", **lease._machine() | {"boot": "another"}))
    with pytest.raises(SinkError, match="another job writes here"), held(out):
        pass


def test_a_holder_that_was_taken_over_hears_of_it(out, monkeypatch):
    monkeypatch.setattr(lease, "RENEWED", 0.02)
    with held(out) as one:
        until = time.monotonic() + 10
        while one._thread.is_alive() and time.monotonic() < until:
            # Its own sign may have been on its way.
            leave(out, sign())
            one._thread.join(0.1)
        with pytest.raises(SinkError, match="a job on elsewhere has taken over"):
            one.check()
    assert json.loads(one.file.read())["holder"] == "other"


def test_parts_of_one_output_go_side_by_side(out):
    with held(out, (1, 3)), held(out, (3, 3)):
        for other in (None, (1, 3), (1, 2)):
            with pytest.raises(SinkError, match="another job writes here"), held(out, other):
                pass
    with held(out), pytest.raises(SinkError, match="another job writes here"), held(out, (1, 3)):
        pass
    assert (out / "_raypurify").names() == []


def renewed(one):
    # A sign that is being written may be half a file, which counts as none.
    return float((lease._found(one.file) or {"renewed": 0})["renewed"])


def test_a_holder_renews_its_sign_and_a_lost_file(out, monkeypatch):
    monkeypatch.setattr(lease, "RENEWED", 0.02)
    with held(out) as one:
        first = renewed(one)
        one.file.delete()
        until = time.monotonic() + 10
        while renewed(one) <= first and time.monotonic() < until:
            time.sleep(0.01)
        assert renewed(one) > first


def test_a_lease_that_a_store_kept_does_not_bind_its_own_process(out):
    with held(out) as one:
        kept = one.file.read()
    leave(out, kept.decode())
    with held(out):
        pass


def test_every_sign_of_a_holder_is_as_long(out, monkeypatch):
    with held(out) as one:
        lengths = set()
        for moment in (1.8e9, 1.8e9 + 1 / 3):
            monkeypatch.setattr(lease.time, "time", lambda moment=moment: moment)
            one._write()
            assert float(json.loads(one.file.read())["renewed"]) == pytest.approx(moment, abs=1e-5)
            lengths.add(len(one.file.read()))
        assert len(lengths) == 1


def test_of_two_at_the_same_moment_the_one_that_stays_goes_on(out, monkeypatch):
    monkeypatch.setattr(lease.time, "sleep", lambda seconds: leave(out, sign()))
    with pytest.raises(SinkError, match="at the same moment"), held(out):
        pass
    assert (out / "_raypurify" / "lease.json").kind == "file"


def test_overwriting_an_output_leaves_the_lease(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"a{SUFFIX['png']}").write_bytes(b"x")
    out, source = resolve(tmp_path / "out"), open_source(tmp_path / "in")
    with held(out) as one:
        open_sink(tmp_path / "out", source, settings={"a": 1})
        open_sink(tmp_path / "out", source, settings={"a": 2}, overwrite=True)
        assert one.file.kind == "file"
    assert "lease.json" not in (out / "_raypurify").names()
