"""One endpoint for the tests of this room, which ends when another room's tests begin: it holds processors of Ray."""

import logging

import pytest
from free_ports import free_port
from small_bundles import WRITERS

from raypurify.serve.local import serving
from serve.endpoint import HEADERS, TOKEN

# Pytest ends what has the scope of a package with the package: hence the empty __init__.py beside this file.


@pytest.fixture(scope="package")
def bundle(tmp_path_factory):
    """The folder of a real, untrained bundle of three clusters."""
    return WRITERS["rsfp"](tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="package")
def url(local_ray, bundle):
    """The URL of a running endpoint, which asks for ``TOKEN``."""
    with serving(bundle, port=free_port(), token=TOKEN, num_cpus=4, max_replicas=1) as url:
        yield url


@pytest.fixture(scope="package")
def small_url(url, bundle):
    """A second application beside the first: open to anyone, with limits small enough to meet."""
    from ray import serve

    from raypurify.serve.app import build

    limits = {"max_bytes": 100_000, "max_pixels": 40_000, "max_waiting_pixels": 60_000, "max_batch_bytes": 300_000}
    limits |= {"max_replicas": 1, "max_queued_requests": 2}
    args = {"bundle": str(bundle), "no_auth": True, **limits}
    serve.run(build(args), name="small", route_prefix="/small")
    yield f"{url}/small"
    serve.delete("small")


@pytest.fixture
def client(url):
    """An HTTP client of the endpoint that sends the token."""
    httpx = pytest.importorskip("httpx")
    with httpx.Client(base_url=url, headers=HEADERS, timeout=60) as client:
        yield client


@pytest.fixture
def serve_log(caplog, monkeypatch):
    """What the endpoint's own code logs: Ray and Serve each keep it to themselves once started."""
    logger = logging.getLogger("ray.serve")
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "disabled", False)
    with caplog.at_level(logging.WARNING, logger.name):
        logger.addHandler(caplog.handler)
        yield caplog
        logger.removeHandler(caplog.handler)
