"""What becomes of jobs whose processes die, hang or find another at their output: real processes, without Ray."""

import json
import sys
import threading
import time

import pytest

from raypurify.bundle.manifest import open_bundle
from raypurify.containers.lease import held
from raypurify.containers.ledger import FORMAT_VERSION, commit, write_job
from raypurify.serve.jobs import driver as driver_module
from raypurify.serve.jobs import supervisor as module
from raypurify.serve.jobs.bundles import another_bundle
from raypurify.serve.jobs.driver import Driver
from raypurify.serve.jobs.refused import Refused
from raypurify.serve.jobs.registry import Registry
from raypurify.serve.jobs.request import MAX_BYTES, JobRequest, parse_request
from raypurify.serve.jobs.supervisor import Supervisor
from raypurify.serve.jobs.tally import Tally
from raypurify.storage import resolve


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PAUSE_S", 0.0)
    (tmp_path / "in").mkdir()
    yield tmp_path
    while opened:
        opened.pop().close()


opened: list[Supervisor] = []


def supervisor(root, command, **options):
    """A supervisor whose drivers run another command of raypurify; what each was told to overwrite is appended."""
    told = []

    def start(record, overwrite):
        told.append(overwrite)
        return Driver(command, record.request.input, record.request.output, [str(root)])

    one = Supervisor(Registry([str(root)]), start, **options)
    one.tick()
    opened.append(one)
    return one, told


def request(root, output="out", **options):
    return JobRequest.model_validate({"input": str(root / "in"), "output": str(root / output), "options": options})


def until(one, id, reached, seconds=60):
    end = time.monotonic() + seconds
    while not reached(view := one.job("me", id)):
        assert time.monotonic() < end, view
        one.tick()
        time.sleep(0.02)
    return view


@pytest.mark.parametrize(
    ("command", "options", "starts", "says"),
    [
        # It ends well, and has not said that the job is done.
        (["--help"], {}, 3, "its process died (exit "),
        # It is ended for saying nothing, every time.
        pytest.param(["doctor"], {"silent_s": -1.0}, 3, "its process died (exit ", marks=pytest.mark.slow),
        (["status", "/nowhere"], {}, 1, "neither the run directory"),
    ],
)
def test_a_job_whose_process_cannot_do_it_fails_and_says_why(root, command, options, starts, says):
    one, told = supervisor(root, command, **options)
    posted = one.post("me", request(root), most=1)
    view = until(one, posted.id, lambda view: view.ended)
    assert (view.state, len(told), says in view.message) == ("failed", starts, True), view
    # So it is after a restart, and when it is posted again it is tried again.
    one.close()
    one, _ = supervisor(root, command)
    assert one.job("me", posted.id) == view
    assert one.post("me", request(root), most=1).state == "queued"


@pytest.mark.parametrize("text", [b"\xfftopsecret", b'{"format_version": "topsecret"}', b'{"format_version": 1}'])
@pytest.mark.parametrize("running", [True, False])
def test_a_job_whose_record_is_damaged_fails_and_tells_nothing_of_it(root, running, text):
    why = ["not yet"]
    one, _ = supervisor(root, ["doctor", "--address", "127.0.0.1:1"], hindered=lambda record: why[0])
    id = one.post("me", request(root), most=1).id
    until(one, id, lambda view: view.message)
    if running:
        why[0] = None
        until(one, id, lambda view: view.state == "running")
    (root / "out" / "_raypurify").mkdir(parents=True)
    (root / "out" / "_raypurify" / "job.json").write_bytes(text)
    if running:
        one._runs[id].driver.kill()
    view = until(one, id, lambda view: view.ended)
    assert (view.state, "job.json" in view.message, "topsecret" in view.message) == ("failed", True, False), view


@pytest.mark.parametrize("link", ["out/_raypurify", "out/sub", "out"])
def test_a_link_that_comes_into_an_output_fails_its_job(root, tmp_path_factory, link):
    why, outside = ["not yet"], tmp_path_factory.mktemp("outside")
    one, told = supervisor(root, ["status", str(root)], hindered=lambda record: why[0])
    id = one.post("me", request(root), most=1).id
    until(one, id, lambda view: view.message)
    (root / link).parent.mkdir(exist_ok=True)
    (root / "elsewhere").mkdir()
    (root / link).symlink_to(outside if link != "out" else root / "elsewhere")
    why[0] = None
    view = until(one, id, lambda view: view.ended)
    assert (view.state, "a link" in view.message, len(told)) == ("failed", True, int(link != "out")), view
    assert not [*outside.iterdir()]


@pytest.mark.parametrize("running", [True, False])
def test_a_job_that_another_bundle_began_fails_with_what_its_caller_can_do(root, running):
    """Before its process is started, and where that ends because of it."""
    now, began = open_bundle("cifar10").digest, "0" * 64
    job = {"format_version": FORMAT_VERSION, "source": {"rows": 3, "shards": 1}, "settings": {"bundle": now}}
    write_job(resolve(root / "out"), job)
    served = ["cifar10"]
    one, told = supervisor(
        root,
        # It waits for nobody, and ends with 2.
        ["status", "/nowhere"],
        hopeless=lambda record: another_bundle(record.request.output, served[0]),
    )
    if not running:
        write_job(resolve(root / "out"), job | {"settings": {"bundle": began}})
    id = one.post("me", request(root), most=1).id
    if running:
        until(one, id, lambda view: told)
        write_job(resolve(root / "out"), job | {"settings": {"bundle": began}})
    view = until(one, id, lambda view: view.ended)
    assert (view.state, len(told)) == ("failed", int(running)), view
    assert f"another bundle by now ({now[:16]}…) than the one that began this output ({began[:16]}…)" in view.message
    # What it says helps: the first is begun, and the second too.
    one.post("me", request(root, overwrite=True), most=1)
    until(one, id, lambda view: view.ended)
    assert told[-1] is True
    other = one.post("me", request(root, "new"), most=1).id
    assert "neither the run directory" in until(one, other, lambda view: view.ended).message
    # What cannot be read says nothing of bundles.
    served[0] = "/nowhere"
    one.post("me", request(root), most=1)
    assert "another bundle" not in until(one, id, lambda view: view.ended).message


@pytest.mark.parametrize("error", [ValueError("a null byte"), OSError(7, "Argument list too long", "/secret/bin")])
def test_a_job_whose_process_cannot_be_started_fails(root, error):
    told = []

    def start(record, overwrite):
        told.append(overwrite)
        raise error

    one, _ = supervisor(root, [])
    one.start = start
    id = one.post("me", request(root), most=1).id
    view = until(one, id, lambda view: view.ended)
    assert (view.state, len(told), "cannot be started" in view.message) == ("failed", 3, True), view
    assert "/secret" not in view.message


def test_a_job_of_the_longest_request_is_started(root):
    long = "é" * 600
    inputs = [str(root / f"{n}" / long / long) for n in range(26)]
    body = json.dumps({"input": inputs, "output": str(root / "out")}, ensure_ascii=False).encode()
    assert MAX_BYTES - 4000 < len(body) <= MAX_BYTES
    one, told = supervisor(root, ["status", "/nowhere"])
    id = one.post("me", parse_request(body), most=1).id
    view = until(one, id, lambda view: view.ended)
    assert ("neither the run directory" in view.message, len(told)) == (True, 1), view.message[:300]


def test_an_output_that_another_process_writes_is_waited_for(root):
    one, told = supervisor(root, ["status", "/nowhere"])
    with held(resolve(root / "out")):
        id = one.post("me", request(root), most=1).id
        view = until(one, id, lambda view: view.message)
        assert (view.state, "writes this output" in view.message, told) == ("queued", True, [])
    until(one, id, lambda view: view.ended)
    assert told == [False]


def test_a_supervisor_that_ends_leaves_its_jobs_to_the_next(root):
    why = ["the endpoint is not there"]
    one, told = supervisor(root, ["doctor"], hindered=lambda record: why[0])
    id = one.post("me", request(root), most=1).id
    assert until(one, id, lambda view: view.message).message == why[0]
    why[0] = None
    until(one, id, lambda view: view.state == "running")
    driver = one._runs[id].driver
    other, told_other = supervisor(root, ["--help"])
    with pytest.raises(Refused, match="not there yet") as refused:
        other.jobs("me")
    assert refused.value.status == 503
    one.close()
    assert driver.poll() is not None
    one.tick()
    assert told == [False]
    other.tick()
    assert told_other == [False]
    assert other.job("me", id).state in ("queued", "running")
    other.cancel("me", id)
    assert until(other, id, lambda view: view.ended).state == "cancelled"
    other.cancel("me", id)
    with pytest.raises(Refused, match="no job of yours"):
        other.job("me", id)
    assert not list((root / ".raypurify-jobs").glob("*.json"))


def test_jobs_whose_caller_is_gone_end_and_their_outputs_are_free(root, serve_log):
    one, _ = supervisor(root, ["doctor"], at_once=1)
    ended = one.post("me", request(root, "ended"), most=9).id
    one.cancel("me", ended)
    until(one, ended, lambda view: view.ended)
    at_work = one.post("me", request(root), most=9).id
    until(one, at_work, lambda view: view.state == "running")
    kept = one.post("them", request(root, "kept"), most=9).id
    driver = one._runs[at_work].driver
    (root / "out" / "done.png").parent.mkdir(exist_ok=True)
    (root / "out" / "done.png").write_bytes(b"what is done")
    one.close()
    assert driver.poll() is not None
    one, _ = supervisor(root, ["--help"], hindered=lambda record: "not yet", owners={"them"})
    assert [view.id for view in one.jobs("them")] == [kept]
    assert one.jobs("me") == []
    assert [file.stem for file in (root / ".raypurify-jobs").glob("*.json")] == [kept]
    told = [line.getMessage() for line in serve_log.records if "taken no longer" in line.getMessage()]
    assert sorted((ended in line, "is cancelled and" in line) for line in told) == [(False, True), (True, False)]
    assert (root / "out" / "done.png").read_bytes() == b"what is done"
    assert {one.post("them", request(root, output), most=9).id for output in ("out", "ended")} == {at_work, ended}


def test_what_is_overwritten_is_overwritten_once(root):
    job = {"format_version": 1, "source": {"rows": 3, "shards": 1}, "settings": {}}
    write_job(resolve(root / "out"), job)
    one, told = supervisor(root, ["--help"])
    id = one.post("me", request(root, overwrite=True), most=1).id
    until(one, id, lambda view: told)
    assert one.job("me", id).total is None, "the older job is not this one"
    # The first driver has claimed the output, and died.
    write_job(resolve(root / "out"), job | {"more": True})
    assert until(one, id, lambda view: view.ended).total == 3
    assert told == [True, False, False]


def test_files_that_come_before_a_job_begins_are_not_overwritten(root):
    why = ["not yet"]
    one, told = supervisor(root, ["--help"], hindered=lambda record: why[0])
    ids = [one.post("me", request(root, output, overwrite=True), most=2).id for output in ("out", "other")]
    until(one, ids[0], lambda view: view.message)
    (root / "out").mkdir()
    (root / "out" / "mine.png").write_bytes(b"mine")
    # What a lease leaves behind is nobody's.
    (root / "other" / "_raypurify").mkdir(parents=True)
    why[0] = None
    view = until(one, ids[0], lambda view: view.ended)
    assert (view.state, "files of others" in view.message) == ("failed", True), view
    until(one, ids[1], lambda view: view.ended)
    assert told == [True] * 3


def test_a_record_that_cannot_be_read_keeps_its_output(root):
    one, _ = supervisor(root, ["--help"], hindered=lambda record: "not yet")
    ids = {one.post("me", request(root, output), most=2).id for output in ("out", "other")}
    one.close()
    file = next((root / ".raypurify-jobs").glob("*.json"))
    file.rename(root / "kept")
    # A link to itself is there, and reading it fails, also for root.
    file.symlink_to(file)
    one, _ = supervisor(root, ["--help"], hindered=lambda record: "not yet")
    for ask in (
        lambda: one.jobs("me"),
        lambda: one.post("them", request(root), most=1),
        lambda: one.post("them", request(root, "other"), most=1),
    ):
        with pytest.raises(Refused, match="the log of the server says why") as refused:
            ask()
        assert refused.value.status == 503
    (root / "kept").replace(file)
    one.tick()
    assert {view.id for view in one.jobs("me")} == ids
    with pytest.raises(Refused, match="another caller"):
        one.post("them", request(root), most=1)


def test_a_driver_that_ends_while_its_job_is_looked_at_is_no_error(root):
    one, _ = supervisor(root, ["doctor"])
    id = one.post("me", request(root), most=1).id
    until(one, id, lambda view: view.state == "running")
    run = one._runs[id]

    class Ends(type(run.tally)):
        @property
        def failed(self):
            run.driver = None
            return super().failed

    driver, run.tally = run.driver, Ends(str(root / "out"))
    try:
        assert one.job("me", id).state == "running"
        assert run.driver is None
    finally:
        run.driver = driver


def test_people_are_told_what_is_said_to_them_and_no_noise(root, monkeypatch):
    (root / "noisy.py").write_text(
        "print('[2026-01-01 00:00:00,000 I 1 1] logging.cc:303: Set ray log level')\n"
        "print('purify: 1 of 3', flush=True)\n"
        "print('Started <ray.serve object at 0x7f00>', flush=True)\n"
    )
    run = driver_module.subprocess.Popen

    def noisy(words, **options):
        return run([words[0], str(root / "noisy.py")], **options)

    monkeypatch.setattr(driver_module.subprocess, "Popen", noisy)
    driver = Driver([], [], "", [])
    while driver.poll() is None:
        time.sleep(0.01)
    assert (driver.said, driver.last) == ("purify: 1 of 3", "Started <ray.serve object at 0x7f00>")


def test_what_a_driver_says_can_be_asked_for_while_it_speaks(root):
    driver, over = Driver(["--help"], [], str(root / "out"), [str(root)]), threading.Event()

    def speak():
        while not over.is_set():
            driver._lines.append("a line")

    every = sys.getswitchinterval()
    speaker = threading.Thread(target=speak)
    sys.setswitchinterval(1e-6)
    try:
        speaker.start()
        until = time.monotonic() + 1
        while time.monotonic() < until:
            assert isinstance(driver.said, str)
    finally:
        over.set()
        sys.setswitchinterval(every)
        speaker.join()
        driver.kill()


def test_outputs_of_jobs_are_apart_and_callers_have_so_many(root):
    one, _ = supervisor(root, ["--help"], hindered=lambda record: "not yet")
    write_job(resolve(root / "elsewhere"), {})
    one.post("me", request(root, "a/b"), most=2)
    for output, status, error in [
        ("a", 409, "output-taken"),
        ("a/b/c", 409, "output-taken"),
        ("elsewhere/deep/c", 409, "output-taken"),
    ]:
        with pytest.raises(Refused) as refused:
            one.post("me", request(root, output), most=9)
        assert (refused.value.status, refused.value.error) == (status, error)
    with pytest.raises(Refused) as refused:
        one.post("them", request(root, "a/b"), most=9)
    assert refused.value.error == "output-taken"
    one.post("me", request(root, "a/bc"), most=2)
    with pytest.raises(Refused) as refused:
        one.post("me", request(root, "d"), most=2)
    assert (refused.value.status, refused.value.retry_s) == (429, 30)
    assert len(one.jobs("me")) == 2
    assert one.jobs("them") == []


def test_jobs_in_a_store_are_recorded_and_kept_apart_there(store, monkeypatch):
    monkeypatch.setattr(module, "PAUSE_S", 0.0)
    root, bare = store.uri("jobs"), "s3://images/jobs"
    asked = JobRequest.model_validate({"input": f"{bare}/in", "output": f"{bare}/out"})
    one, told = supervisor(root, ["status", "/nowhere"])
    try:
        posted = one.post("me", asked, most=1)
        # The store's address is the operator's, and not shown.
        assert (posted.input, posted.output) == ([f"{bare}/in"], f"{bare}/out")
        with held(resolve(store.uri("jobs/out"))):
            view = until(one, posted.id, lambda view: view.message)
            assert (view.state, told) == ("queued", [])
        assert until(one, posted.id, lambda view: view.ended).state == "failed"
        one.close()
        other, _ = supervisor(root, ["status", "/nowhere"])
        assert [view.id for view in other.jobs("me")] == [posted.id]
        other.cancel("me", posted.id)
        assert not [name for name in store.objects("jobs") if name.endswith(f"{posted.id}.json")]
    finally:
        while opened:
            opened.pop().close()


def test_a_job_that_still_looks_into_its_input_has_no_total_and_no_end(tmp_path):
    now, out = [0.0], resolve(str(tmp_path))
    tally = Tally(str(tmp_path), clock=lambda: now[0])
    job = {"format_version": FORMAT_VERSION, "settings": {}, "source": {"rows": 4, "shards": 4}}
    planned = job["source"] | {"planned": {"to": "a.tar", "names": "x"}}
    for at, shard in enumerate(("a", "b", "c"), 1):
        write_job(out, job | {"source": planned})
        commit(out, shard, [], [{"id": shard, "reason": "truncated", "message": "", "shard": shard}])
        now[0] = 100.0 * at
        tally.update()
    assert (tally.total, tally.done, tally.eta_s) == (None, 3, None)
    write_job(out, job)
    tally.update(at_once=True)
    assert (tally.total, tally.eta_s) == (4, pytest.approx(100.0))
