"""A bundle of stl behind the endpoint: an answer is that of the purifier, its stratum is of no class."""

import base64

import numpy as np
import pytest
from bad_images import encode
from small_bundles import WRITERS

from raypurify.images import decode_image
from serve.endpoint import expected, noisy

httpx = pytest.importorskip("httpx")


@pytest.fixture(scope="module")
def stl_bundle(tmp_path_factory):
    """The folder of a real, untrained bundle of three strata."""
    return WRITERS["stl"](tmp_path_factory.mktemp("stl"))


@pytest.fixture(scope="module")
def stl_url(url, stl_bundle):
    """A second application beside the first, open to anyone."""
    from ray import serve

    from raypurify.serve.app import build

    serve.run(build({"bundle": str(stl_bundle), "no_auth": True, "max_replicas": 1}), name="stl", route_prefix="/stl")
    yield f"{url}/stl"
    serve.delete("stl")


def test_an_image_is_answered_by_its_stratum(stl_url, stl_bundle):
    data = encode(noisy(24, 20))
    wanted, out = expected(stl_bundle, data)
    answer = httpx.post(f"{stl_url}/v1/purify", content=data, headers={"Accept": "application/json"}, timeout=60)
    assert answer.status_code == 200, answer.text
    said = answer.json()["provenance"]
    assert (said["cluster"], said["class"]) == (int(out.cluster[0]), None)
    assert said["distance"] == pytest.approx(float(out.distance[0]), rel=1e-3)
    got = decode_image(base64.b64decode(answer.json()["image"], validate=True)).pixels
    assert (got == np.asarray(wanted)).all()
    about = httpx.get(f"{stl_url}/v1/bundle", timeout=60).json()
    assert about["method"]["name"] == "stl"
