"""What the endpoint answers: media types, several images at once, requests that are too large, too slow or wrong."""

import base64
import contextlib
import email
import io
import json
import socket
import threading
import time
import zipfile
from urllib.parse import urlsplit

import numpy as np
import pytest
from bad_images import broken_images, encode, odd_images, pixels
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from raypurify.images import decode_image
from raypurify.serve.accept import ranked
from serve.endpoint import HEADERS, expected, noisy

httpx = pytest.importorskip("httpx")

KINDS = ["image/png", "image/webp", "image/jpeg", "application/json"]
PATH_LIKE = "../../../etc/passwd"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, "image/png"),
        ("*/*", "image/png"),
        ("image/webp", "image/webp"),
        ("image/jpeg;q=0.3, image/webp;q=0.2", "image/jpeg"),
        ("application/json", "application/json"),
        ("image/png;q=0, image/*;q=0.4, application/json;q=0.1", "image/webp"),
        # A browser's.
        ("image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8", "image/png"),
        ("text/html, image/png;q=2, */*;q=0.1", "image/png"),
        ("text/html", None),
        ("image/png;q=0", None),
        ("nonsense", None),
    ],
)
def test_an_answer_has_the_media_type_that_is_asked_for(client, bundle, accept, kind):
    data = encode(noisy(24, 20))
    # Httpx asks for anything by itself.
    client.headers.pop("Accept")
    answer = client.post("/v1/purify", content=data, headers={} if accept is None else {"Accept": accept})
    assert answer.headers["vary"] == "Accept"
    if kind is None:
        assert (answer.status_code, answer.json()["error"]) == (406, "not-acceptable")
        return
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind), answer.text
    wanted, _ = expected(bundle, data)
    content = answer.content
    if kind == "application/json":
        body = answer.json()
        assert body["media_type"] == "image/png"
        assert str(body["provenance"]["cluster"]) == answer.headers["x-raypurify-cluster"]
        assert body["provenance"]["class"] in ("kočka", "dog")
        content = base64.b64decode(body["image"], validate=True)
    got = decode_image(content).pixels.astype(int)
    assert np.abs(got - wanted).max() <= (0 if kind != "image/jpeg" else 60)
    assert Image.open(io.BytesIO(content)).format == {"json": "PNG"}.get(kind[-4:], kind[6:].upper())


def test_what_jpeg_cannot_hold_comes_as_the_next_that_can(client):
    data = odd_images()["alpha.png"][0]
    for accept, status, kind in (
        ("image/jpeg", 406, "application/json"),
        ("image/jpeg, image/webp;q=0.5, image/png;q=0.4", 200, "image/webp"),
        ("image/jpeg, application/json;q=0.5", 200, "application/json"),
    ):
        answer = client.post("/v1/purify", content=data, headers={"Accept": accept})
        assert (answer.status_code, answer.headers["content-type"]) == (status, kind)


@given(st.text(alphabet="image/png*,;q=01. \x00é"), st.permutations(KINDS))
def test_any_text_is_an_accept_header(text, offered):
    kinds = ranked(text, offered)
    assert set(kinds) <= set(offered)
    if not text.strip() or ("*/*" in [part.strip() for part in text.split(",")] and "q" not in text):
        assert kinds == offered


def parts_of(answer):
    """The parts of a multipart answer: their headers, and their bytes."""
    message = email.message_from_bytes(
        b"Content-Type: " + answer.headers["content-type"].encode() + b"\r\n\r\n" + answer.content
    )
    return [(dict(part.items()), part.get_payload(decode=True)) for part in message.get_payload()]


def test_several_images_come_back_in_their_order_with_errors_in_their_place(client):
    images = [
        encode(noisy(24, 20, seed=1)),
        b"no image",
        encode(noisy(33, 48, seed=2), "JPEG"),
        odd_images()["alpha.png"][0],
        b"",
        encode(noisy(24, 20, seed=3)),
        odd_images()["thin.png"][0],
    ]
    names = [PATH_LIKE, "a", "b\r\nX-Evil: 1", "0000.png", "", "C:\\x.png", "/dev/null"]
    files = [(name or "x", (name or "y", data, "image/png")) for name, data in zip(names, images)]
    answer = client.post("/v1/purify/batch", files=files, data={"note": "ignored"})
    assert answer.status_code == 200, answer.text
    assert (answer.headers["x-raypurify-images"], answer.headers["x-raypurify-refused"]) == ("7", "3")
    parts = parts_of(answer)
    assert [int(headers["X-Raypurify-Image"]) for headers, _ in parts] == list(range(7))
    assert [int(headers["X-Raypurify-Status"]) for headers, _ in parts] == [200, 415, 200, 200, 400, 200, 422]
    zipped = client.post(
        "/v1/purify/batch",
        params={"format": "webp"},
        files=files,
        headers={"Accept": "*/*, application/zip, multipart/*;q=0.1"},
    )
    assert zipped.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(zipped.content)) as archive:
        index = json.loads(archive.read("index.json"))
        members = {name: archive.read(name) for name in archive.namelist()}
    assert [one["status"] for one in index] == [200, 415, 200, 200, 400, 200, 422]
    assert len(members) == 8
    for number, ((headers, content), one, data) in enumerate(zip(parts, index, images)):
        suffix = ".json" if one["status"] != 200 else ".webp"
        assert one["file"] == f"{number:04}{suffix}"
        single = client.post("/v1/purify", content=data)
        if single.status_code != 200:
            assert json.loads(content) == json.loads(members[one["file"]]) == single.json()
            assert one["error"] == single.json()["error"]
            continue
        assert (headers["Content-Type"], headers["Content-Disposition"]) == (
            "image/png",
            f'attachment; filename="{number:04}.png"',
        )
        # A batch may round differently from a single image by one level.
        wanted = decode_image(single.content).pixels.astype(int)
        for encoded in (content, members[one["file"]]):
            assert np.abs(decode_image(encoded).pixels - wanted).max() <= 1
        assert headers["X-Raypurify-Cluster"] == single.headers["x-raypurify-cluster"] == str(one["cluster"])
        assert headers["X-Raypurify-Bundle"] == one["bundle"]


def test_a_batch_has_an_end(client):
    files = [("files", (f"{seed}.png", encode(pixels(800, 800, seed)))) for seed in range(12)]
    begun = time.monotonic()
    answer = client.post("/v1/purify/batch", files=files, headers={"X-Raypurify-Timeout": "1.5"})
    assert answer.status_code == 200, answer.text
    assert time.monotonic() - begun < 15
    statuses = [headers["X-Raypurify-Status"] for headers, _ in parts_of(answer)]
    assert len(statuses) == 12
    assert set(statuses) <= {"200", "503", "504"}
    assert set(statuses) != {"200"}


def test_batches_that_are_no_batches_or_too_large_are_refused(url, small_url):
    small = encode(noisy(24, 20))
    boundary = b"--x\r\nContent-Disposition: form-data; name=a; filename=b\r\n\r\n\r\n"
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    for body, status, error in (
        ({"files": [("f", small)] * 3}, 400, "bad-form"),
        ({"content": boundary * 100_000, "headers": form}, 413, "too-large"),
        ({"content": boundary * 3_000, "headers": form}, 400, "bad-form"),
        ({"content": boundary.replace(b"; filename=b", b"") * 3_000, "headers": form}, 400, "bad-form"),
        ({"content": b"--x--", "headers": form}, 400, "bad-form"),
        ({"content": small, "headers": {"Content-Type": "image/png"}}, 415, "wrong-type"),
        ({"content": small}, 415, "wrong-type"),
        ({"files": [("f", small)], "params": {"format": "gif"}}, 400, "bad-request"),
        ({"files": [("f", small)], "headers": {"Accept": "image/png"}}, 406, "not-acceptable"),
    ):
        begun = time.monotonic()
        answer = httpx.post(f"{small_url}/v1/purify/batch", **body, timeout=60)
        assert (answer.status_code, answer.json()["error"]) == (status, error), answer.text
        assert time.monotonic() - begun < 10
    # Pixels of one request are bounded together, and an image alone by its own limits.
    photo = encode(noisy(180, 200), "JPEG")
    answer = httpx.post(f"{small_url}/v1/purify/batch", files=[("f", photo)] * 2, timeout=60)
    assert {headers["X-Raypurify-Status"] for headers, _ in parts_of(answer)} == {"200", "413"}
    assert httpx.post(f"{url}/v1/purify/batch", files=[("f", small)]).status_code == 401


def connect(url, head):
    """A connection on which the head of a request has been sent."""
    place = urlsplit(url)
    sock = socket.create_connection((place.hostname, place.port), timeout=60)
    lines = [f"POST {place.path}/v1/purify HTTP/1.1", "Host: x", *(f"{k}: {v}" for k, v in (HEADERS | head).items())]
    sock.sendall("\r\n".join([*lines, "", ""]).encode())
    return sock


def everything(sock):
    """What comes until the other side closes."""
    received = b""
    with sock, contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(1 << 16):
            received += piece
    return received


def test_a_client_that_sends_all_before_it_reads_sees_its_answer(url):
    size, piece = 200 << 20, bytes(1 << 20)
    for head, chunk in (
        ({"Content-Length": str(size)}, piece),
        ({"Content-Length": str(size), "Authorization": "Bearer wrong"}, piece),
        ({"Transfer-Encoding": "chunked"}, b"%x\r\n%s\r\n" % (len(piece), piece)),
    ):
        sock = connect(url, head)
        for _ in range(size >> 20):
            sock.sendall(chunk)
        if "Transfer-Encoding" in head:
            sock.sendall(b"0\r\n\r\n")
        status, _, rest = everything(sock).partition(b"\r\n")
        assert status.split()[1] == (b"401" if "Authorization" in head else b"413")
        assert b"connection: close" in rest.lower()


def test_bodies_without_an_end_and_those_that_never_come_end(url):
    # Serve's proxy says to go on before anyone has looked at the request; the answer comes all the same.
    waiting = connect(url, {"Content-Length": str(200 << 20), "Expect": "100-continue"})
    endless = connect(url, {"Transfer-Encoding": "chunked"})
    begun = time.monotonic()
    with endless, contextlib.suppress(ConnectionError):
        while time.monotonic() < begun + 40:
            endless.sendall(b"1000\r\n%s\r\n" % bytes(4096))
            time.sleep(0.001 if time.monotonic() > begun + 1 else 0)
    assert b"HTTP/1.1 413 " in everything(waiting)
    assert time.monotonic() - begun < 20


def test_refusals_whose_body_has_come_leave_the_connection_open(client):
    data = encode(noisy(24, 20))
    for headers in ({"Authorization": "Bearer wrong"}, {"Accept": "text/html"}, {"Content-Type": "text/plain"}):
        # A busy machine may bring a body later than it is waited for.
        answers = (client.post("/v1/purify", content=data, headers=headers) for _ in range(10))
        assert any(answer.status_code in (401, 406, 415) and "connection" not in answer.headers for answer in answers)


def test_slow_bodies_are_given_up_and_disturb_nobody(url, client):
    """Two hundred clients that send a byte now and then."""
    data = encode(noisy(24, 20))
    client.post("/v1/purify", content=data)
    begun, patience = time.monotonic(), 8
    slow = [connect(url, {"Content-Length": "1000", "X-Raypurify-Timeout": str(patience)}) for _ in range(200)]
    over = threading.Event()

    def dribble():
        while not over.wait(0.5):
            for sock in slow:
                with contextlib.suppress(OSError):
                    sock.send(b"x")

    thread = threading.Thread(target=dribble)
    thread.start()
    try:
        for _ in range(3):
            assert client.post("/v1/purify", content=data).status_code == 200
        # Nobody has waited for a slow one to be given up.
        assert time.monotonic() < begun + patience
        answers = [everything(sock) for sock in slow]
        assert time.monotonic() < begun + 3 * patience
    finally:
        over.set()
        thread.join()
    assert all(answer.startswith(b"HTTP/1.1 408 ") and b'"slow-body"' in answer for answer in answers)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("image/png", 200),
        ("IMAGE/JPEG; q=1", 200),
        ("application/octet-stream", 200),
        ("application/x-www-form-urlencoded", 200),
        ("", 200),
        ("text/html", 415),
        ("application/json", 415),
        ("multipart/mixed; boundary=x", 415),
        ("multipart/form-data; boundary=" + 300 * "x", 400),
        ("/", 415),
    ],
)
def test_bodies_of_other_types_are_refused(client, kind, status):
    answer = client.post("/v1/purify", content=encode(pixels()), headers={"Content-Type": kind})
    assert answer.status_code == status, answer.text


def test_names_of_files_are_not_looked_at(client):
    for name in (PATH_LIKE, "/etc/passwd", "x" * 3000, "\u202egnp.exe", "a\x00b", "CON"):
        answer = client.post("/v1/purify", files={"file": (name, encode(pixels()), "text/x-shellscript")})
        assert answer.status_code == 200, answer.text


def test_head_is_answered_wherever_get_is(client):
    paths = client.get("/openapi.json").json()["paths"]
    asked = {"model": "raypurify", "cluster": 0, "id": "none"}
    places = [path.format(**asked) for path, calls in paths.items() if "get" in calls and "{version}" not in path]
    for path in [*places, "/docs", "/openapi.json"]:
        got, head = client.get(path), client.head(path)
        # It has no folders for jobs.
        status = 403 if path.startswith("/v1/jobs") else 200
        assert (head.status_code, head.content) == (got.status_code, b"") == (status, b""), path
        assert head.headers["content-type"] == got.headers["content-type"]
    assert client.head("/v1/purify").status_code == 405


def test_broken_images_are_refused_alike_alone_and_among_others(client):
    broken = broken_images()
    files = [("f", (name, data)) for name, (data, _) in broken.items()]
    answer = client.post("/v1/purify/batch", files=files)
    errors = [json.loads(content)["error"] for _, content in parts_of(answer)]
    assert errors == [reason for _, reason in broken.values()]
