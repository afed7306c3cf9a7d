"""The ingress with every route and without Ray: a stand-in answers, or does not, where the handle of a replica does."""

import asyncio
import hashlib
import json
import time
import tracemalloc
from collections import Counter
from types import SimpleNamespace

import pytest
from bad_images import encode
from ray.exceptions import RayActorError, RayTaskError, TaskCancelledError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from starlette.requests import ClientDisconnect, Request

from raypurify.images import decode_image
from raypurify.serve import coders, http
from raypurify.serve.app import api
from raypurify.serve.front import Front, front, refusing
from raypurify.serve.gate import Gate
from raypurify.serve.http import Refusal
from raypurify.serve.settings import ServeSettings
from serve.endpoint import TOKEN, noisy

httpx = pytest.importorskip("httpx")

INFER = "/v2/models/raypurify/infer"
VERSION = "/v2/models/raypurify/versions/1/infer"
IMAGE = encode(noisy(24, 20))
TENSOR = {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [2, 24, 20, 3], "data": [7] * 2880}]}
FACTS = {"cluster": 0, "distance": 0.5, "flagged": False, "iterations": 9, "relative_change": 0.25, "bundle": "b" * 64}


class Handle:
    """What stands where the handle of a deployment does: every method is ``answer``, a coroutine function."""

    def __init__(self, answer):
        self.answer = answer

    def __getattr__(self, name):
        return SimpleNamespace(remote=lambda *args: asyncio.ensure_future(self.answer(name, *args)))


async def never(name, *args):
    await asyncio.Event().wait()


async def same(name, *args):
    return FACTS["bundle"] if name == "digest" else (args[0], FACTS)


class Counted(Counter):
    """Images by outcome, as the counter of an ingress is told."""

    def inc(self, images, tags):
        self[tags["outcome"]] += images


def running(answer, check, **settings):
    """The ingress whose deployments answer so, after ``check`` has asked it with a client of HTTP."""

    async def run():
        deployment = Handle(answer)
        ingress = Front(deployment, ServeSettings(**({"no_auth": True} | settings)), deployment)
        ingress.metrics._images = Counted()
        app = api()
        app.dependency_overrides[front] = lambda: ingress
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            await check(client, ingress)
        return ingress

    return asyncio.run(run())


def files(count, data=IMAGE):
    return [("files", (f"{number}.png", data)) for number in range(count)]


@pytest.mark.parametrize(
    "error",
    [
        DeploymentUnavailableError(DeploymentID("Purifier", "raypurify")),
        BackPressureError(1, 1),
        RayActorError(),
        RayTaskError("purify", "Traceback", ValueError("a tensor of another shape")).as_instanceof_cause(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_where_nobody_answers_callers_are_asked_to_come_again(error):
    async def fails(name, *args):
        raise error

    async def check(client, ingress):
        for answer, slug in (
            (await client.get("/v2/health/ready"), "not-ready"),
            (await client.post(VERSION, json=TENSOR), "not-ready"),
            (await client.get("/v1/jobs"), "unavailable"),
        ):
            assert (answer.status_code, slug in answer.text) == (503, True), answer.text
        wrong = isinstance(error, RayTaskError)
        for answer in (await client.post("/v1/purify", content=IMAGE), await client.post(INFER, json=TENSOR)):
            assert answer.status_code == (500 if wrong else 503), answer.text
            assert ("internal" if wrong else "unavailable") in answer.text
            assert ("retry-after" in answer.headers) is not wrong

    running(fails, check)


def test_a_replica_that_does_not_say_its_bundle_costs_no_more_than_the_callers_time():
    async def check(client, ingress):
        begun = time.monotonic()
        answer = await client.post(VERSION, json=TENSOR, headers={"X-Raypurify-Timeout": "0.2"})
        assert (answer.status_code, answer.json()["error"].split(":")[0]) == (504, "timeout")
        assert time.monotonic() - begun < 20

    running(never, check)


def test_every_image_of_a_request_is_counted_once_by_what_became_of_it():
    soon = {"X-Raypurify-Timeout": "0.8"}

    async def late(client, ingress):
        answer = await client.post("/v1/purify/batch", files=files(40), headers=soon)
        assert answer.headers["x-raypurify-refused"] == "40"

    assert running(never, late).metrics._images == {"timeout": 40}

    async def leaves(client, ingress):
        asked = asyncio.create_task(client.post("/v1/purify/batch", files=files(40)))
        while not ingress.gate.pixels:
            await asyncio.sleep(0.01)
        asked.cancel()
        await asyncio.wait([asked])

    assert running(never, leaves).metrics._images == {"left": 40}

    async def fast(client, ingress):
        for count, status in ((3, 200), (2, 429)):
            assert (await client.post("/v1/purify/batch", files=files(count))).status_code == status
        for path, body in (("/v1/purify", {"content": IMAGE}), (INFER, {"json": TENSOR})):
            assert (await client.post(path, **body)).status_code == 429

    slow = {"default": {"images_per_s": 0.001, "burst": 1}}
    assert running(same, fast, limits=slow).metrics._images == {"purified": 3, "too-fast": 5}

    async def full(client, ingress):
        with ingress.gate.image():
            assert (await client.post("/v1/purify/batch", files=files(2))).status_code == 503
            assert (await client.post(INFER, json=TENSOR)).status_code == 503
        assert (await client.post(INFER, json=TENSOR)).status_code == 200

    assert running(same, full, max_queued_requests=2).metrics._images == {"busy": 4, "purified": 2}


def test_the_largest_body_of_a_caller_is_that_of_every_call():
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    other = hashlib.sha256(b"another").hexdigest()
    settings = {"no_auth": False, "token_sha256": (digest, other), "limits": {digest: {"max_bytes": 4000}}}
    binary = {"Inference-Header-Content-Length": "2", "Content-Type": "application/octet-stream"}

    async def check(client, ingress):
        for token, statuses in ((TOKEN, (413, 413)), ("another", (200, 400))):
            headers = {"Authorization": f"Bearer {token}"}
            batch = await client.post("/v1/purify/batch", files=files(5, bytes(1000)), headers=headers)
            infer = await client.post(INFER, content=b"{}" + bytes(5000), headers=headers | binary)
            assert (batch.status_code, infer.status_code) == statuses, infer.text

    running(same, check, **settings)


def test_several_images_get_in_where_one_must_be_small():
    async def check(client, ingress):
        answer = await client.post("/v1/purify/batch", files=files(20, bytes(100_000)))
        assert (answer.status_code, answer.headers.get("x-raypurify-refused")) == (200, "20"), answer.text

    running(same, check, max_bytes=10_000, max_batch_bytes=3_000_000)


@pytest.mark.parametrize("path", ["/v1/purify", "/v1/purify/batch"])
def test_a_charset_that_decodes_nothing_is_an_error_of_the_client(path):
    body = b'--b\r\nContent-Disposition: form-data; name="\xff"; filename="\xff.."\r\n\r\nx\r\n--b--\r\n'

    async def check(client, ingress):
        headers = {"Content-Type": "multipart/form-data; boundary=b; charset=undefined"}
        answer = await client.post(path, content=body, headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (400, "bad-form")

    running(same, check)


def test_files_that_are_read_in_python_are_bounded_and_decoded_one_at_a_time(monkeypatch):
    """Also those whose caller has left: what was not begun then is not begun."""
    side, now, begun = 190, Counter(), []
    numbers, plain = b"P6 %d %d 254 " % (side, side) + bytes(side * side * 3), encode(noisy(side, side))
    large = b"P2 600 600 255\n" + b"7  " * 360_000

    def counting(data, max_pixels):
        kind = data[:2]
        now[kind] += 1
        begun.append((kind, now[kind]))
        try:
            return decode_image(data, max_pixels=max_pixels)
        finally:
            time.sleep(0.05)
            now[kind] -= 1

    monkeypatch.setattr(coders, "decode_image", counting)

    async def check(client, ingress):
        sent = [("files", (f"{number}.png", data)) for number, data in enumerate([numbers, plain] * 4)]
        answer = await client.post("/v1/purify/batch", files=sent)
        assert (answer.status_code, answer.headers["x-raypurify-refused"]) == (200, "0"), answer.text
        assert max(at_once for kind, at_once in begun if kind == b"P6") == 1
        assert max(at_once for kind, at_once in begun if kind != b"P6") > 1
        answer = await client.post("/v1/purify", content=large)
        assert (answer.status_code, answer.json()["error"]) == (422, "too-complex"), answer.text
        assert "1,048,576 bytes of numbers" in answer.json()["message"]
        begun.clear()
        short = {"X-Raypurify-Timeout": "0.2"}
        answer = await client.post("/v1/purify/batch", files=files(30, numbers), headers=short)
        assert int(answer.headers["x-raypurify-refused"]) > 20
        count = len(begun)
        await asyncio.sleep(0.3)
        assert len(begun) == count < 10

    running(same, check)


def test_no_more_memory_is_held_than_is_counted():
    """Bodies and forms while they are read, and a body of JSON after it was."""
    size, piece = 4 << 20, bytes(1 << 16)
    head = b"--b\r\nContent-Disposition: form-data; name=file; filename=x\r\n\r\n"
    form = {"content-type": "multipart/form-data; boundary=b"}
    one = [head, *[piece] * 64, b"\r\n--b--\r\n"]
    four = [*([head, *[piece] * 16, b"\r\n"] * 4), b"--b--\r\n"]

    async def read(how, pieces, headers, *most):
        messages = iter([{"type": "http.request", "body": bytes(data), "more_body": True} for data in pieces])
        end = {"type": "http.request", "body": b"", "more_body": False}

        async def receive():
            return next(messages, end)

        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        request, gate, held = Request({"type": "http", "headers": raw}, receive), Gate(1, size, size, 1), []

        with gate.reading() as hold:

            def counted(count):
                hold(count)
                held.append(gate.bytes)

            tracemalloc.start()
            try:
                got = await how(request, *most, 2 * size, counted)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
        assert sum(map(len, got if most else [got])) == size
        # Memory grows by an eighth more than is asked for.
        assert peak < 1.2 * max(held), (how, peak, max(held))
        assert held[-1] < 1.1 * size

    asyncio.run(read(http.read_body, [piece] * 64, {}))
    asyncio.run(read(http.read_image, one, form))
    asyncio.run(read(http.read_images, four, form, 4))

    body, left = json.dumps(TENSOR).encode() + b" " * size, []

    async def asked(name, *args):
        # The thread that has read the tensor lets go of it.
        until = time.monotonic() + 10
        while (held := tracemalloc.get_traced_memory()[0]) >= size / 2 and time.monotonic() < until:
            await asyncio.sleep(0.01)
        left.append(held)
        return await same(name, *args)

    async def check(client, ingress):
        tracemalloc.start()
        try:
            answer = await client.post(INFER, content=body, headers={"Content-Type": "application/json"})
        finally:
            tracemalloc.stop()
        assert answer.status_code == 200, answer.text

    running(asked, check)
    assert max(left) < size / 2, left


@pytest.mark.parametrize("error", [ClientDisconnect(), TaskCancelledError()])
def test_who_has_left_is_no_failed_purification(error, caplog):
    with pytest.raises(Refusal) as refusal, refusing(None):
        raise error
    assert (refusal.value.status_code, refusal.value.detail["error"]) == (499, "left")
    assert not caplog.records
