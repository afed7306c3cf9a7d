"""An endpoint of a bundle of another method than RSFP: its answers, and what it says of the bundle."""

import numpy as np
import pytest
from bad_images import encode
from small_bundles import WRITERS

import raypurify
from raypurify.images import decode_image
from raypurify.methods import METHODS
from serve.endpoint import expected, noisy

httpx = pytest.importorskip("httpx")


@pytest.fixture(scope="module", params=[name for name, method in METHODS.items() if not method.classes])
def strata(request, url, tmp_path_factory):
    """The folder of a bundle without classes, and the URL of an application beside the first that serves it."""
    from ray import serve

    from raypurify.serve.app import build

    bundle = WRITERS[request.param](tmp_path_factory.mktemp(request.param))
    args = {"bundle": str(bundle), "no_auth": True, "max_replicas": 1}
    serve.run(build(args), name="strata", route_prefix="/strata")
    yield bundle, f"{url}/strata"
    serve.delete("strata")


def test_it_answers_as_the_purifier_does_and_names_no_class(strata):
    bundle, url = strata
    data = encode(noisy(24, 20))
    answer = httpx.post(f"{url}/v1/purify", content=data, timeout=60)
    assert answer.status_code == 200, answer.text
    wanted, done = expected(bundle, data)
    assert (decode_image(answer.content).pixels == np.asarray(wanted)).all()
    assert answer.headers["x-raypurify-class"] == ""
    assert int(answer.headers["x-raypurify-cluster"]) == int(done.cluster[0])
    assert float(answer.headers["x-raypurify-distance"]) == pytest.approx(float(done.distance[0]), rel=1e-4)
    told = httpx.post(f"{url}/v1/purify", content=data, headers={"Accept": "application/json"}, timeout=60).json()
    assert told["provenance"]["class"] is None
    _, facts = raypurify.Client(url).purify(data)
    assert facts["class"] is None


def test_it_says_what_its_bundle_is(strata):
    bundle, url = strata
    manifest = raypurify.load(bundle).bundle.manifest
    method = METHODS[manifest.method]
    told = httpx.get(f"{url}/v1/bundle").json()
    assert told["method"] == {"name": method.name, "cluster": method.cluster, "distance": method.distance}
    assert [cluster["class"] for cluster in told["clusters"]] == manifest.cluster_class
    last = len(manifest.cluster_class) - 1
    assert httpx.get(f"{url}/v1/bundle/clusters/{last}/atoms.png").headers["content-type"] == "image/png"
