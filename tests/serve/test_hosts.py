"""By which names an endpoint that asks for no token is called, and how it answers to others."""

import pytest
from bad_images import encode

from raypurify.serve.hosts import known
from serve.endpoint import HEADERS, noisy

httpx = pytest.importorskip("httpx")


def test_without_a_token_only_names_of_this_machine_are_answered(url, small_url):
    """A page whose name leads here by the will of its owner is of this origin to a browser, which says it as Host."""
    port = url.rpartition(":")[2]
    image = encode(noisy(24, 24))
    for host in (
        "evil.example",
        f"evil.example:{port}",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.1",
    ):
        for method, path in (
            ("GET", "/"),
            ("GET", "/v1/bundle"),
            ("GET", "/v1/bundle/"),
            ("HEAD", "/docs"),
            ("GET", "/v2/health/live"),
            ("GET", "/nothing"),
            ("POST", "/v1/purify"),
            ("POST", "/v1/jobs"),
        ):
            headers = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
            answer = httpx.request(
                method, small_url + path, headers=headers, content=image if method == "POST" else b""
            )
            assert answer.status_code == 421, (host, path, answer.text)
            assert "location" not in answer.headers
            if method != "HEAD":
                assert "unknown-host" in answer.json()["error"]
        # With a token it does not matter.
        answer = httpx.post(f"{url}/v1/purify", content=image, headers={**HEADERS, "Host": host})
        assert answer.status_code == 200, answer.text
    for host in ("localhost", f"LOCALHOST:{port}", "127.0.0.1", "127.8.9.1:1", "[::1]:80"):
        assert httpx.get(f"{small_url}/v1/bundle", headers={"Host": host}).status_code == 200, host
        moved = httpx.get(f"{small_url}/v1/bundle/", headers={"Host": host})
        assert (moved.status_code, moved.headers["location"].split("/")[2]) == (307, host)


@pytest.mark.parametrize(
    "host", ["", ":80", "evil", "a b", "[::1", "::1", "[::1].evil", "1:2:3", "@localhost", "0.0.0.0"]
)
def test_what_is_no_name_of_loopback_is_unknown(host):
    assert not known(host, ("purify.example",))
    assert known("purify.example:443", ("Purify.Example",))
    assert known("[fd00::1]:8000", ("fd00::1",))
