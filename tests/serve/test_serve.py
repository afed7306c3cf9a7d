"""The endpoint as callers see it: a real Serve instance on loopback and a real, untrained bundle."""

import asyncio
import contextlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from bad_images import broken_images, encode, odd_images, pixels
from free_ports import free_port
from PIL import Image

import raypurify
from raypurify.errors import BundleError, ConfigError
from raypurify.images import decode_image
from raypurify.purifiers.batch import purify_pixels
from raypurify.runtime.resources import Resources
from raypurify.serve import local
from raypurify.serve.app import build
from raypurify.serve.auth import hash_token, token_fits
from raypurify.serve.client import purify_there
from raypurify.serve.local import serving
from raypurify.serve.settings import parse_settings
from serve.endpoint import HEADERS, TOKEN, expected, noisy

httpx = pytest.importorskip("httpx")

BROKEN = broken_images()
STATUS = {
    "empty": 400,
    "too-large": 413,
    "not-an-image": 415,
    "unsupported-mode": 415,
    "truncated": 422,
    "animated": 422,
}


def test_an_image_comes_back_purified_with_its_provenance(client, bundle):
    data = encode(noisy(40, 33))
    answer = client.post("/v1/purify", content=data, headers={"Content-Type": "image/png"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    wanted, out = expected(bundle, data)
    np.testing.assert_array_equal(decode_image(answer.content).pixels, wanted)
    cluster = int(out.cluster[0])
    assert float(out.relative_change[0]) > 0.01
    assert answer.headers["x-raypurify-cluster"] == str(cluster)
    assert answer.headers["x-raypurify-class"] == ["ko%C4%8Dka", "ko%C4%8Dka", "dog"][cluster]
    assert float(answer.headers["x-raypurify-distance"]) == pytest.approx(float(out.distance[0]), rel=1e-3)
    assert float(answer.headers["x-raypurify-relative-change"]) == pytest.approx(
        float(out.relative_change[0]), rel=1e-3
    )
    assert int(answer.headers["x-raypurify-iterations"]) == int(out.iterations[0])
    assert answer.headers["x-raypurify-flagged"] == "false"
    assert answer.headers["x-raypurify-bundle"] == raypurify.load(bundle).digest


@pytest.mark.parametrize("name", [name for name in odd_images() if name not in ("one-pixel.png", "thin.png")])
def test_odd_images_keep_their_size_and_kind(client, name):
    data, mode = odd_images()[name]
    answer = client.post("/v1/purify", content=data)
    assert answer.status_code == 200, answer.text
    with Image.open(io.BytesIO(data)) as sent, Image.open(io.BytesIO(answer.content)) as got:
        assert (got.format, got.mode, got.size) == ("PNG", mode, sent.size)
        assert got.getexif().get(0x0112) == (sent.getexif().get(0x0112) if "rotated" in name else None)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_images_get_their_status_and_reason(client, name):
    data, reason = BROKEN[name]
    answer = client.post("/v1/purify", content=data)
    assert (answer.status_code, answer.json()["error"]) == (STATUS[reason], reason)
    assert answer.json()["message"]


def test_an_image_whose_pixels_and_file_are_over_what_grpc_takes_by_itself_comes_back(client):
    data = encode(noisy(1500, 1500))
    assert len(data) > 4 << 20
    answer = client.post("/v1/purify", content=data)
    assert answer.status_code == 200
    assert len(answer.content) > 4 << 20


def test_grpc_with_its_own_limit_is_refused(monkeypatch, bundle):
    monkeypatch.delenv("RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH")
    with pytest.raises(ConfigError, match="RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH=2147483647"):
        build({"bundle": str(bundle), "no_auth": True})


def test_an_image_smaller_than_an_atom_is_refused(client):
    for name in ("one-pixel.png", "thin.png"):
        answer = client.post("/v1/purify", content=odd_images()[name][0])
        assert (answer.status_code, answer.json()["error"]) == (422, "too-small")
        assert "at least 8 pixels" in answer.json()["message"]


def test_a_form_with_a_file_works_like_a_body(client):
    data = encode(pixels(), "JPEG")
    body = client.post("/v1/purify", content=data)
    form = client.post("/v1/purify", files={"file": ("x.jpg", data, "image/jpeg")}, data={"note": "ignored"})
    assert form.status_code == 200, form.text
    assert form.content == body.content
    for wrong in (
        {"files": {"picture": ("x.jpg", data, "image/jpeg")}},
        {"data": {"file": "text"}, "files": {"other": ("a", b"b")}},
        {"content": b"no form", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        {"content": b"no form", "headers": {"Content-Type": "multipart/form-data"}},
    ):
        answer = client.post("/v1/purify", **wrong)
        assert (answer.status_code, answer.json()["error"]) == (400, "bad-form")
    empty = client.post("/v1/purify", files={"file": ("x.jpg", b"", "image/jpeg")})
    assert (empty.status_code, empty.json()["error"]) == (400, "empty")


def test_only_the_token_opens_the_door(url):
    data = encode(pixels())
    for headers in ({}, {"Authorization": TOKEN}, {"Authorization": f"Basic {TOKEN}"}, {"Authorization": "Bearer x"}):
        answer = httpx.post(f"{url}/v1/purify", content=data, headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
    for path in ("/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json"):
        assert httpx.get(url + path).status_code == 200
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert (httpx.head(url + path).status_code, httpx.head(url + path).content) == (200, b"")


def test_health_names_the_bundle(url, bundle):
    assert httpx.get(f"{url}/v2/health/live").json() == {"live": True}
    ready = httpx.get(f"{url}/v2/health/ready").json()
    assert ready == {"ready": True, "bundle": raypurify.load(bundle).digest}


def test_the_documentation_tells_what_to_send(url):
    page = httpx.get(f"{url}/openapi.json").json()
    operation = page["paths"]["/v1/purify"]["post"]
    assert {"image/png", "multipart/form-data"} <= operation["requestBody"]["content"].keys()
    assert {"200", "400", "401", "413", "415", "422", "503"} <= operation["responses"].keys()
    assert operation["security"] == [{"HTTPBearer": []}]


def test_the_documentation_page_asks_no_other_host(url):
    page = httpx.get(f"{url}/docs").text
    assert not re.findall(r"(?:https?:)?//|<script|@import", page)
    assert "POST /v1/purify" in page
    assert "X-Raypurify-Timeout" in page
    assert "Retry-After" in page


def test_a_caller_says_how_long_it_waits(client):
    data = encode(noisy(300, 300))
    for text in ("soon", "-1", "0", "nan"):
        answer = client.post("/v1/purify", content=data, headers={"X-Raypurify-Timeout": text})
        assert (answer.status_code, answer.json()["error"]) == (400, "bad-timeout")
    begun = time.monotonic()
    answer = client.post("/v1/purify", content=data, headers={"X-Raypurify-Timeout": "0.05"})
    assert (answer.status_code, answer.json()["error"]) == (504, "timeout")
    assert time.monotonic() - begun < 5
    assert client.post("/v1/purify", content=data, headers={"X-Raypurify-Timeout": "inf"}).status_code == 200


def test_callers_that_leave_are_forgotten(url, bundle):
    """The trap of ray#50046: after many cancelled requests a batch never came again."""
    data = encode(noisy(40, 40))

    async def main():
        async with httpx.AsyncClient(base_url=url, headers=HEADERS, timeout=60, limits=httpx.Limits()) as client:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(
                    asyncio.gather(*(client.post("/v1/purify", content=data) for _ in range(60))), 0.3
                )
            return await asyncio.gather(*(client.post("/v1/purify", content=data) for _ in range(20)))

    assert {answer.status_code for answer in asyncio.run(main())} == {200}


def test_a_photo_does_not_hold_up_small_images(client):
    done = threading.Event()

    def photo():
        assert client.post("/v1/purify", content=encode(noisy(600, 600))).status_code == 200
        done.set()

    caller = threading.Thread(target=photo)
    caller.start()
    time.sleep(0.3)
    begun = time.monotonic()
    for _ in range(3):
        assert client.post("/v1/purify", content=encode(noisy(32, 32))).status_code == 200
    assert not done.is_set(), f"three small images took {time.monotonic() - begun:.1f} s"
    caller.join()


def test_unknown_paths_and_methods_answer_in_the_same_form(client):
    lost, wrong = client.get("/v1/nothing"), client.get("/v1/purify")
    assert (lost.status_code, lost.json()["error"]) == (404, "not-found")
    assert (wrong.status_code, wrong.json()["error"]) == (405, "method-not-allowed")
    assert lost.headers["x-content-type-options"] == "nosniff"


def test_callers_at_once_each_get_their_own_image(url, bundle):
    sent = [encode(noisy(*size, seed=seed)) for seed in range(6) for size in ((24, 20), (33, 48))]

    async def everyone():
        async with httpx.AsyncClient(base_url=url, headers=HEADERS, timeout=120) as client:
            return await asyncio.gather(*(client.post("/v1/purify", content=data) for data in sent))

    for data, answer in zip(sent, asyncio.run(everyone())):
        assert answer.status_code == 200, answer.text
        got, wanted = decode_image(answer.content).pixels.astype(int), expected(bundle, data)[0]
        # A batch may round differently from a single image by one level.
        assert np.abs(got - wanted).max() <= 1


def test_a_job_gets_what_the_purifier_gives_it(url, bundle):
    images = [noisy(*size, seed=seed) for seed in range(3) for size in ((520, 300), (4, 30), (40, 24), (33, 48))]
    theirs, ours = purify_there(images), purify_pixels(raypurify.load(bundle), images)
    for there, here in zip(theirs, ours, strict=True):
        if isinstance(here, Exception):
            assert (there.reason, str(there)) == (here.reason, str(here))
            continue
        np.testing.assert_array_equal(there[0], here[0])
        assert there[1] == here[1]


def test_limits_hold_however_the_body_is_sent(small_url):
    large = os.urandom(100_001)

    def chunks():
        for _ in range(50):
            yield os.urandom(10_000)

    for body in (
        {"content": large},
        {"content": chunks()},
        {"files": {"file": ("x", large)}},
        {"files": {"file": ("x", large * 3)}},
    ):
        answer = httpx.post(f"{small_url}/v1/purify", **body, timeout=60)
        assert (answer.status_code, answer.json()["error"]) == (413, "too-large")
        assert "100,000 bytes" in answer.json()["message"]
    wide = httpx.post(f"{small_url}/v1/purify", content=encode(np.zeros((100, 401, 3), np.uint8)), timeout=60)
    assert (wide.status_code, wide.json()["error"]) == (413, "too-large")
    assert "401×100 is 40,100 pixels" in wide.json()["message"]


def test_a_crowd_is_told_to_come_back(small_url):
    data = encode(noisy(180, 200), "JPEG")

    async def crowd():
        async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=60)) as client:
            return await asyncio.gather(*(client.post(f"{small_url}/v1/purify", content=data) for _ in range(30)))

    answers = asyncio.run(crowd())
    assert {answer.status_code for answer in answers} == {200, 503}
    refused = [answer for answer in answers if answer.status_code == 503]
    assert {answer.json()["error"] for answer in refused} == {"busy"}
    assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in refused)
    # Refused by a count, before the body is decoded, and not after others were worked off.
    assert max(answer.elapsed.total_seconds() for answer in refused) < max(
        answer.elapsed.total_seconds() for answer in answers if answer.status_code == 200
    )
    assert httpx.post(f"{small_url}/v1/purify", content=data, timeout=60).status_code == 200


def test_tokens_are_kept_as_digests_only():
    digests = [hash_token("gehëim"), hash_token("another")]
    assert "gehëim" not in digests[0]
    assert token_fits("bearer " + "gehëim".encode().decode("latin-1"), digests)
    assert token_fits("Bearer another", digests)
    assert not token_fits("Bearer geheim", digests)
    assert not token_fits(None, digests)
    assert not token_fits("Bearer another", [])


def test_settings_that_leave_the_door_open_by_accident_are_refused():
    digest = hash_token("x")
    assert parse_settings({"token_sha256": digest}).bundle == "cifar10"
    assert parse_settings({"token_sha256": [digest, digest]}).token_sha256 == (digest, digest)
    for args, message in [
        ({}, "give token_sha256"),
        ({"token_sha256": digest, "no_auth": True}, "contradict"),
        ({"token_sha256": "secret"}, "token_sha256.0: String should match"),
        ({"no_auth": True, "max_batch_size": 3}, "max_batch_size: Extra inputs"),
        ({"no_auth": True, "device": "cuda"}, "cuda without a GPU; give num_gpus"),
        ({"no_auth": True, "min_replicas": 3, "max_replicas": 2}, "min_replicas 3 is above max_replicas 2"),
        ({"no_auth": True, "max_bytes": 0}, "max_bytes: .* greater than or equal to 1"),
    ]:
        with pytest.raises(ConfigError, match=message):
            parse_settings(args)


@pytest.mark.parametrize(
    ("where", "options", "replicas"),
    [
        ({}, {"num_cpus": 3}, 3),
        ({"address": "head:6379"}, {}, 64),
        ({"RAY_ADDRESS": "head:6379"}, {"num_cpus": 3}, 64),
        ({"RAY_ADDRESS": "head:6379"}, {"replica_cpus": 10}, 6),
        ({"address": "head:6379"}, {"replica_cpus": 80, "min_replicas": 2}, 2),
        ({"address": "head:6379"}, {"max_replicas": 5}, 5),
        ({"address": "head:6379"}, {"replica_gpus": 1}, 4),
    ],
)
def test_replicas_are_by_default_as_many_as_there_are_cpus_for(monkeypatch, where, options, replicas):
    class Built(Exception):
        pass

    def build(args):
        raise Built(parse_settings(args).max_replicas)

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("raypurify.runtime.session.ray_session", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr("raypurify.runtime.resources.cluster_resources", lambda: Resources(64, 8, 8))
    monkeypatch.setattr("raypurify.serve.app.build", build)
    # What is set for Ray goes with it.
    others = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    monkeypatch.setattr(os, "environ", others | {name: value for name, value in where.items() if name != "address"})
    with pytest.raises(Built) as built, serving(port=free_port(), address=where.get("address"), **options):
        pass
    assert built.value.args == (replicas,)


def test_what_cannot_be_served_is_said_before_ray_starts(tmp_path, bundle):
    with pytest.raises(BundleError, match="no bundle at"), serving(tmp_path, port=free_port(), num_cpus=4):
        pass
    for token, message in (
        (" ", "the token is empty"),
        (["fine", ""], "the token is empty"),
        ("gehëim", "printable ASCII"),
        ("a\nb", "printable ASCII"),
    ):
        with pytest.raises(ConfigError, match=message), serving(bundle, port=free_port(), token=token):
            pass
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(ConfigError, match="on loopback only"), serving(bundle, host, free_port()):
            pass
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"), serving(bundle, port=port):
            pass


def test_a_port_is_held_for_one_endpoint_also_while_nobody_listens():
    port = free_port()
    with local._held("127.0.0.1", port):
        with socket.socket() as proxy:
            # As Serve's proxy binds.
            proxy.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            proxy.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            proxy.bind(("127.0.0.1", port))
            proxy.listen()
            with socket.create_connection(("127.0.0.1", port)), pytest.raises(ConfigError):
                local._held("127.0.0.1", port).__enter__()
        with pytest.raises(ConfigError, match="cannot listen"):
            local._held("127.0.0.1", port).__enter__()
    with local._held("127.0.0.1", port):
        pass


def test_images_of_a_replica_that_dies_are_done_by_another(url):
    from ray import serve

    data = encode(noisy(100, 100))
    pid = serve.get_deployment_handle("Purifier", local.APP).report.remote().result()["pid"]

    async def main():
        async with httpx.AsyncClient(base_url=url, headers=HEADERS, timeout=90) as client:
            asking = asyncio.gather(*(client.post("/v1/purify", content=data) for _ in range(20)))
            await asyncio.sleep(0.3)
            os.kill(pid, signal.SIGKILL)
            return await asking

    assert [answer.status_code for answer in asyncio.run(main())] == [200] * 20


def descendants(pid):
    """Process ids of a process and of all that it started."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            yield from descendants(child)
    yield pid


def listening(pids):
    """Addresses, in hexadecimal, on which any of these processes listens."""
    inodes = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            inodes |= {os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                yield fields[1]


def test_serve_ends_on_sigterm_when_everyone_has_an_answer(bundle):
    port, token = free_port(), "hush-hush"
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_MODE")}
    command = [sys.executable, "-m", "raypurify", "serve", "--bundle", str(bundle), "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--max-replicas", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment | {"RAYPURIFY_TOKEN": f"{token}\nanother"},
    )
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "raypurify serves" in line:
                break
        assert f"http://127.0.0.1:{port}/v1/purify with the token" in lines[-1], "".join(lines)
        client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": "Bearer another"}, timeout=60
        )
        assert client.get("/v2/health/ready").status_code == 200
        # The token is nowhere but in the process that was given it.
        pids = [pid for pid in descendants(process.pid) if pid != process.pid]
        assert len(pids) > 3
        for pid in pids:
            with contextlib.suppress(OSError):
                assert token not in Path(f"/proc/{pid}/environ").read_text() + Path(f"/proc/{pid}/cmdline").read_text()
        addresses = {address.rpartition(":")[0] for address in listening(pids)}
        # Loopback, also for metrics; but for the port between Serve's deployments, which asks for Ray's token.
        assert addresses <= {"0100007F", "0" * 16 + "FFFF00000100007F", "0" * 32}, addresses
        second = subprocess.run(command, capture_output=True, text=True, env=environment | {"RAYPURIFY_TOKEN": token})
        assert second.returncode == 2
        assert f"cannot listen on 127.0.0.1:{port}" in second.stderr

        answers = []
        photo = encode(noisy(1000, 1000))
        callers = [
            threading.Thread(target=lambda: answers.append(client.post("/v1/purify", content=photo))) for _ in range(3)
        ]
        for caller in callers:
            caller.start()
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        until = time.monotonic() + 30
        while (ready := client.get("/v2/health/ready")).status_code == 200 and time.monotonic() < until:
            time.sleep(0.05)
        late = client.post("/v1/purify", content=photo)
        assert (ready.status_code, ready.json()["error"].partition(":")[0]) == (503, "ending")
        assert (late.status_code, late.json()["error"], late.headers["retry-after"]) == (503, "ending", "1")
        for caller in callers:
            caller.join()
        assert [answer.status_code for answer in answers] == [200] * 3
        rest, _ = process.communicate(timeout=60)
        assert process.returncode == 0, rest
        assert token not in "".join(lines) + rest
    finally:
        process.kill()
