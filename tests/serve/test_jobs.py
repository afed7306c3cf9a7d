"""Jobs as callers see them: posted to a real endpoint, done by a real process on the Ray of all these tests."""

import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from bad_images import encode, pixels

from raypurify.serve.auth import hash_token
from raypurify.serve.settings import ServeSettings
from serve.endpoint import TOKEN

httpx = pytest.importorskip("httpx")

IMAGES, OTHER = 128, "another token"


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """A root with a folder of images, one of them broken; the second half takes long enough to be cancelled in."""
    root = tmp_path_factory.mktemp("jobs")
    (root / "in").mkdir()
    rng = np.random.default_rng(0)
    for n in range(IMAGES):
        side = 48 if n < IMAGES // 2 else 160
        noisy = (pixels(side, side, n) + rng.normal(0, 30, (side, side, 3))).clip(0, 255).astype(np.uint8)
        (root / "in" / f"{n:03d}.png").write_bytes(encode(noisy) if n != 7 else b"\x89PNG\r\n\x1a\n broken")
    return root


def deploy(bundle, roots, **more):
    """Deploy an application that takes jobs, or deploy it anew."""
    from ray import serve

    from raypurify.serve.app import build

    args = {"bundle": str(bundle), "token_sha256": [hash_token(TOKEN), hash_token(OTHER)], "job_roots": str(roots)}
    limits = {"default": {"jobs": 2}, hash_token(OTHER): {"images_per_s": 0.01, "burst": 1}}
    serve.run(build(args | {"min_replicas": 0, "limits": limits} | more), name="jobs", route_prefix="/with-jobs")


@pytest.fixture(scope="module")
def jobs_url(url, bundle, roots):
    """An application that takes jobs, beside the endpoint that does them."""
    from ray import serve

    deploy(bundle, roots)
    yield f"{url}/with-jobs"
    serve.delete("jobs")


@pytest.fixture(scope="module")
def api(jobs_url):
    with httpx.Client(base_url=jobs_url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60) as client:
        yield client


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "plan" not in path.parts
    }


def wait_for(api, id, reached, seconds=150.0):
    until = time.monotonic() + seconds
    while not reached(view := api.get(f"/v1/jobs/{id}").json()):
        assert time.monotonic() < until, str(view)
        time.sleep(0.2)
    return view


def test_a_job_that_is_cancelled_and_posted_again_ends_in_the_bytes_of_the_other_engine(api, jobs_url, bundle, roots):
    from raypurify.bulk.job import purify

    asked = {"input": f"{roots}/in", "output": f"{roots}/out", "options": {"sheet": 0}}
    posted = api.post("/v1/jobs", json=asked)
    assert posted.status_code == 202, posted.text
    id = posted.json()["id"]
    assert api.post("/v1/jobs", json=asked).json()["id"] == id
    other = api.post("/v1/jobs", json=asked | {"options": {"format": "webp"}})
    assert (other.status_code, other.json()["error"]) == (409, "job-exists")
    seen = wait_for(api, id, lambda view: view["done"] > 0 or view["ended"])
    assert (seen["state"], seen["total"]) == ("running", IMAGES), seen

    # Nobody else sees it, writes to its output, or learns more than that it is taken.
    with httpx.Client(base_url=jobs_url, headers={"Authorization": f"Bearer {OTHER}"}, timeout=60) as theirs:
        assert theirs.get("/v1/jobs").json() == {"jobs": []}
        assert theirs.get(f"/v1/jobs/{id}").status_code == theirs.delete(f"/v1/jobs/{id}").status_code == 404
        taken = theirs.post("/v1/jobs", json=asked)
        assert (taken.status_code, taken.json()["error"]) == (409, "output-taken")
        fast = theirs.post("/v1/jobs", json=asked)
        assert (fast.status_code, fast.json()["error"], fast.headers["retry-after"]) == (429, "too-fast", "60")
        image = theirs.post("/v1/purify", content=encode(pixels()))
        assert (image.status_code, image.json()["error"]) == (429, "too-fast")

    assert api.delete(f"/v1/jobs/{id}").json()["state"] == "cancelling"
    kept = wait_for(api, id, lambda view: view["ended"])
    assert kept["state"] == "cancelled", kept
    assert 0 < kept["done"] < IMAGES
    assert api.post("/v1/jobs", json=asked).json()["state"] == "queued"
    done = wait_for(api, id, lambda view: view["ended"])
    assert (done["state"], done["purified"], done["errors"]) == ("done", IMAGES - 1, {"truncated": 1}), done
    assert [view["id"] for view in api.get("/v1/jobs").json()["jobs"]] == [id]

    # The settings are recorded, and the endpoint takes no larger images.
    assert done["options"]["max_pixels"] == ServeSettings().max_pixels
    purify([f"{roots}/in"], f"{roots}/actors", str(bundle), sheet=0, max_pixels=ServeSettings().max_pixels)
    assert files_below(roots / "out") == files_below(roots / "actors")
    assert not list(roots.glob("out/_raypurify/lease*"))
    # The token stands in none of the files.
    assert not any(TOKEN.encode() in data or hash_token(TOKEN).encode() in data for data in files_below(roots).values())
    forgotten = api.delete(f"/v1/jobs/{id}")
    assert (forgotten.status_code, forgotten.json()["state"]) == (200, "done")
    assert api.get(f"/v1/jobs/{id}").status_code == 404
    assert (roots / "out" / "_raypurify" / "summary.json").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_goes_on_while_applications_are_deployed_anew(api, url, bundle, roots):
    from ray import serve

    from raypurify.bulk.job import purify
    from raypurify.serve.app import build
    from raypurify.serve.local import APP

    asked = {"input": f"{roots}/in", "output": f"{roots}/anew", "options": {"sheet": 0}}
    id = api.post("/v1/jobs", json=asked).json()["id"]
    assert wait_for(api, id, lambda view: view["done"] > 0 or view["ended"])["state"] == "running"
    # Who does the images, and who sees to the job.
    args = {"bundle": str(bundle), "token_sha256": hash_token(TOKEN), "max_replicas": 1, "batch_pixels": 1 << 13}
    serve.run(build(args), name=APP, route_prefix="/")
    deploy(bundle, roots, jobs_at_once=3)
    done = wait_for(api, id, lambda view: view["ended"], 600)
    assert (done["state"], done["done"]) == ("done", IMAGES), done
    purify([f"{roots}/in"], f"{roots}/anew-actors", str(bundle), sheet=0, max_pixels=ServeSettings().max_pixels)
    assert files_below(roots / "anew") == files_below(roots / "anew-actors")


def test_what_a_job_may_not_do_is_refused_in_one_form(api, url, roots, tmp_path):
    (tmp_path / "x.png").write_bytes(b"x")
    (roots / "links").mkdir(exist_ok=True)
    (roots / "links" / "x.png").unlink(missing_ok=True)
    (roots / "links" / "x.png").symlink_to(tmp_path / "x.png")
    good = {"input": f"{roots}/in", "output": f"{roots}/new"}
    for asked, status, error in [
        (good | {"input": str(tmp_path)}, 403, "forbidden-path"),
        (good | {"output": f"{roots}/../x"}, 422, "bad-path"),
        (good | {"options": {"address": "x"}}, 422, "bad-request"),
        (good | {"output": f"{roots}/in", "options": {"overwrite": True}}, 409, "not-an-output"),
        ({}, 422, "bad-request"),
    ]:
        answer = api.post("/v1/jobs", json=asked)
        assert (answer.status_code, answer.json()["error"]) == (status, error), answer.text
    large = api.post("/v1/jobs", content=b" " * 100_000, headers={"Content-Type": "application/json"})
    assert (large.status_code, large.json()["error"]) == (413, "too-large")
    assert api.get("/v1/jobs/nothing").json()["error"] == "no-such-job"
    assert httpx.get(f"{url}/v1/jobs").status_code == 401
    without = httpx.get(f"{url}/v1/jobs", headers=api.headers)
    assert (without.status_code, without.json()["error"]) == (403, "no-job-roots")
    assert "--job-root" in without.json()["message"]

    # What shows only when it is begun fails the job, and says why.
    link = api.post("/v1/jobs", json=good | {"input": f"{roots}/links"}).json()
    overlap = api.post("/v1/jobs", json=good | {"output": f"{roots}/in/out"}).json()
    many = api.post("/v1/jobs", json=good | {"output": f"{roots}/more"})
    assert (many.status_code, many.json()["error"]) == (429, "too-many-jobs")
    assert int(many.headers["retry-after"]) >= 1
    for view, why in ((link, "a link that leads out"), (overlap, "overlap")):
        ended = wait_for(api, view["id"], lambda view: view["ended"])
        assert (ended["state"], why in ended["message"]) == ("failed", True), ended
    assert not (roots / "new").exists()


def test_a_leash_ends_what_its_supervisor_left(tmp_path):
    from raypurify.serve.jobs.driver import Driver

    driver = Driver(["doctor", "--address", "127.0.0.1:1"], [], str(tmp_path / "out"), [str(tmp_path)])
    assert subprocess.run(["kill", "-0", str(driver.pid)]).returncode == 0
    driver._process.stdin.close()
    until = time.monotonic() + 20
    while (code := driver.poll()) is None:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert code != 0
