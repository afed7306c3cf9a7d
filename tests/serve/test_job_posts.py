"""A job from its HTTP body to its record, by the real routes, front and supervisor, without Ray."""

import asyncio
import json
from types import SimpleNamespace

import pytest

from raypurify.serve.app import api
from raypurify.serve.front import Front, front
from raypurify.serve.jobs.deployment import Jobs
from raypurify.serve.jobs.registry import Registry
from raypurify.serve.jobs.request import JobRequest
from raypurify.serve.jobs.supervisor import Supervisor
from raypurify.serve.settings import parse_settings

httpx = pytest.importorskip("httpx")


@pytest.fixture
def endpoint(tmp_path):
    """The app of an ingress whose jobs wait for ever, its front, and the root of its jobs."""
    limits = {"default": {"max_pixels": 2000}}
    args = {"no_auth": True, "job_roots": str(tmp_path), "max_pixels": 3000, "limits": limits}
    jobs = object.__new__(Jobs.func_or_class)
    jobs.supervisor = Supervisor(Registry([str(tmp_path)]), start=None, hindered=lambda record: "never")
    jobs.supervisor.tick()
    # What Ray would carry to another process.
    handle = SimpleNamespace(post=SimpleNamespace(remote=jobs.post))
    app, one = api(), Front(None, parse_settings(args), handle)
    app.dependency_overrides[front] = lambda: one
    yield app, one, tmp_path
    jobs.supervisor.close()


def call(app, method, path, **options):
    async def ask():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://endpoint") as client:
            return await client.request(method, path, **options)

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("options", "recorded"),
    [
        ({}, 2000),
        ({"max_pixels": 2500}, 2000),
        ({"max_pixels": 1500}, 1500),
        ({"engine": "actors", "max_pixels": 2500}, 2500),
    ],
)
def test_a_job_has_no_larger_images_than_its_caller_may_send(endpoint, options, recorded):
    app, _, root = endpoint
    asked = {"input": f"{root}/in", "output": f"{root}/out", "options": options}
    answer = call(app, "POST", "/v1/jobs", json=asked)
    assert (answer.status_code, answer.json()["options"]["max_pixels"]) == (202, recorded), answer.text
    (file,) = (root / ".raypurify-jobs").glob("*.json")
    assert JobRequest.model_validate(json.loads(file.read_text())["request"]).options.max_pixels == recorded
    # It is one job, however often it is posted.
    assert call(app, "POST", "/v1/jobs", json=asked).json()["id"] == answer.json()["id"]


def test_the_body_of_a_job_is_counted_and_has_its_time(endpoint):
    app, one, _ = endpoint
    held = []

    async def slowly():
        yield b"{"
        held.append((one.gate.readers, one.gate.bytes))
        await asyncio.sleep(30)

    answer = call(app, "POST", "/v1/jobs", content=slowly(), headers={"X-Raypurify-Timeout": "0.3"})
    assert (answer.status_code, answer.json()["error"]) == (408, "slow-body")
    assert answer.headers["connection"] == "close"
    assert held == [(1, 1)]
    assert (one.gate.readers, one.gate.bytes) == (0, 0)
    large = call(app, "POST", "/v1/jobs", content=bytes(100_000))
    assert (large.status_code, large.json()["error"]) == (413, "too-large")
    one.gate.end()
    ending = call(app, "POST", "/v1/jobs", content=b"{}")
    assert (ending.status_code, ending.json()["error"]) == (503, "ending")
    assert "retry-after" in ending.headers


def test_the_page_answers_head_as_get(endpoint):
    app, _, _ = endpoint
    for path in ("/", "/page/page.css"):
        got, head = call(app, "GET", path), call(app, "HEAD", path)
        assert head.status_code == got.status_code == 200
        assert head.headers["etag"] == got.headers["etag"]
