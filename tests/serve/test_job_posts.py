"""A job from its HTTP body to its record, by the real routes, front and supervisor, without Ray."""

import asyncio
import json
from types import SimpleNamespace

import pytest

from raypurify.serve.app import api
from raypurify.serve.auth import hash_token
from raypurify.serve.front import Front, front
from raypurify.serve.jobs.deployment import Jobs
from raypurify.serve.jobs.registry import Registry
from raypurify.serve.jobs.request import JobRequest, bounded
from raypurify.serve.jobs.supervisor import Supervisor
from raypurify.serve.limits import Callers
from raypurify.serve.settings import parse_settings

httpx = pytest.importorskip("httpx")

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def endpoint(tmp_path):
    """The app of an ingress whose jobs wait for ever, its front, and the root of its jobs."""
    limits = {"default": {"max_pixels": 2000}}
    args = {"no_auth": True, "job_roots": str(tmp_path), "max_pixels": 3000, "limits": limits}
    jobs = object.__new__(Jobs.func_or_class)
    jobs.supervisor = Supervisor(Registry([str(tmp_path)]), start=None, hindered=lambda record: "never")
    jobs.supervisor.tick()
    # What Ray would carry to another process.
    handle = SimpleNamespace(**{name: SimpleNamespace(remote=getattr(jobs, name)) for name in ("post", "cancel")})
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
        ({"engine": "actors"}, 2000),
        ({"engine": "actors", "max_pixels": 1500}, 1500),
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


def test_the_largest_image_of_a_replica_is_nothing_to_actors_of_a_job(tmp_path):
    caller = Callers(parse_settings({"no_auth": True, "max_pixels": 3000})).of(None)
    recorded = {}
    for engine in ("serve", "actors"):
        asked = {"input": "/in", "output": "/out", "options": {"engine": engine, "max_pixels": 5000}}
        recorded[engine] = bounded(JobRequest.model_validate(asked), caller.job_pixels).options.max_pixels
    assert recorded == {"serve": 3000, "actors": 5000}


def test_jobs_of_a_token_that_is_replaced_leave_their_outputs_to_the_next(tmp_path, monkeypatch, serve_log):
    context = SimpleNamespace(gcs_address="", app_name="raypurify")
    monkeypatch.setattr("ray.get_runtime_context", lambda: context)
    monkeypatch.setattr("ray.serve.get_replica_context", lambda: context)
    monkeypatch.setattr(Jobs.func_or_class, "_hindered", lambda self, record: "never")
    views = []
    for token in ("old", "old", "new"):
        settings = parse_settings({"token_sha256": hash_token(token), "job_roots": str(tmp_path)})
        owner = Callers(settings).of(hash_token(token)).owner
        jobs = Jobs.func_or_class(settings)
        try:
            if not views:
                asked = JobRequest(input=[f"{tmp_path}/in"], output=f"{tmp_path}/out")
                jobs.supervisor.post(owner, asked, 1)
            views.append([view.state for view in jobs.supervisor.jobs(owner)])
        finally:
            jobs.supervisor.close()
    assert views == [["queued"], ["queued"], []]
    assert [record.getMessage().count(f"{tmp_path}/out") for record in serve_log.records] == [1]


def test_the_body_of_a_job_is_counted_and_has_its_time(endpoint):
    app, one, _ = endpoint
    held = []

    async def slowly():
        yield b"{"
        held.append((one.gate.readers, one.gate.bytes))
        await asyncio.sleep(30)

    answer = call(app, "POST", "/v1/jobs", content=slowly(), headers=JSON | {"X-Raypurify-Timeout": "0.3"})
    assert (answer.status_code, answer.json()["error"]) == (408, "slow-body")
    assert answer.headers["connection"] == "close"
    assert held == [(1, 1)]
    assert (one.gate.readers, one.gate.bytes) == (0, 0)
    large = call(app, "POST", "/v1/jobs", content=bytes(100_000), headers=JSON)
    assert (large.status_code, large.json()["error"]) == (413, "too-large")
    one.gate.end()
    ending = call(app, "POST", "/v1/jobs", content=b"{}", headers=JSON)
    assert (ending.status_code, ending.json()["error"]) == (503, "ending")
    assert "retry-after" in ending.headers


@pytest.mark.parametrize(
    ("headers", "status", "error"),
    [
        ({"Content-Type": "text/plain"}, 415, "wrong-type"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415, "wrong-type"),
        ({"Content-Type": "application/jsonp"}, 415, "wrong-type"),
        ({"Content-Type": ""}, 415, "wrong-type"),
        ({}, 415, "wrong-type"),
        (JSON | {"Sec-Fetch-Site": "cross-site"}, 403, "foreign-page"),
        (JSON | {"Sec-Fetch-Site": "same-site", "Origin": "http://endpoint"}, 403, "foreign-page"),
        (JSON | {"Origin": "http://evil.example"}, 403, "foreign-page"),
        (JSON | {"Origin": "http://endpoint:81"}, 403, "foreign-page"),
        (JSON | {"Origin": "null"}, 403, "foreign-page"),
        ({"Content-Type": "Application/JSON; charset=utf-8"}, 202, None),
        (JSON | {"Origin": "https://endpoint"}, 202, None),
        (JSON | {"Sec-Fetch-Site": "same-origin", "Origin": "https://a.proxy"}, 202, None),
        (JSON | {"Sec-Fetch-Site": "none"}, 202, None),
    ],
)
def test_a_page_of_another_site_posts_and_cancels_nothing(endpoint, headers, status, error):
    app, _, root = endpoint
    body = json.dumps({"input": f"{root}/in", "output": f"{root}/out"}).encode()
    answer = call(app, "POST", "/v1/jobs", content=body, headers=headers)
    assert (answer.status_code, answer.json().get("error")) == (status, error), answer.text
    assert len([*root.glob(".raypurify-jobs/*.json")]) == (status == 202)
    id = call(app, "POST", "/v1/jobs", content=body, headers=JSON).json()["id"]
    answer = call(app, "DELETE", f"/v1/jobs/{id}", headers=headers)
    assert answer.status_code == (403 if status == 403 else 202), answer.text


def test_a_call_that_is_not_there_names_those_that_are(endpoint):
    for method, path, allowed in [("DELETE", "/v1/jobs", {"GET", "POST"}), ("PUT", "/v1/jobs/x", {"GET", "DELETE"})]:
        answer = call(endpoint[0], method, path)
        assert (answer.status_code, {*answer.headers["allow"].split(", ")}) == (405, allowed)


def test_the_page_answers_head_as_get(endpoint):
    app, _, _ = endpoint
    for path in ("/", "/page/page.css"):
        got, head = call(app, "GET", path), call(app, "HEAD", path)
        assert head.status_code == got.status_code == 200
        assert head.headers["etag"] == got.headers["etag"]
