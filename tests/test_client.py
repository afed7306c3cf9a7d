"""The client of the endpoint against servers that refuse, leave, or lead astray; it needs no Ray."""

import socket
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

import raypurify
from raypurify.errors import ConfigError, DataError, ImageError, RaypurifyError, SourceError

URL = "http://127.0.0.1:9"

PNG = b"\x89PNG\r\n\x1a\n and so on"
BUSY = (503, {"Retry-After": "1"}, b'{"error": "busy", "message": "too many"}')
FINE = (200, {"X-Raypurify-Cluster": "3", "X-Raypurify-Class": "ko%C4%8Dka", "X-Raypurify-Flagged": "true"}, PNG)


@contextmanager
def server(*answers):
    """A server that gives these answers in turn, the last for ever; None closes the connection. Yields its URL and what
    it was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append((time.monotonic(), self.path, dict(self.headers)))
            answer = answers[min(len(asked), len(answers)) - 1]
            if answer is None:
                self.connection.close()
                return
            status, headers, body = answer
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            pause = float(headers.get("Pause", 0))
            with suppress(OSError):
                for piece in [body[k : k + 1] for k in range(len(body))] if pause else [body]:
                    self.wfile.write(piece)
                    time.sleep(pause)

        do_GET = do_POST

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{running.server_port}", asked
        finally:
            running.shutdown()


CUT = (200, {"Content-Length": "1000"}, bytes(500))


def test_whoever_is_refused_asks_again_when_told_to():
    with server(BUSY, None, CUT, (429, {"Retry-After": "\xb2"}, b""), FINE) as (url, asked):
        image, facts = raypurify.Client(url, "secret", timeout=20).purify(b"image")
    assert (image, facts) == (PNG, {"cluster": 3, "class": "kočka", "flagged": True})
    assert len(asked) == 5
    assert asked[1][0] - asked[0][0] >= 1
    assert {headers["Authorization"] for _, _, headers in asked} == {"Bearer secret"}
    # The server is told what is left of the time.
    left = [float(headers["X-Raypurify-Timeout"]) for _, _, headers in asked]
    assert left == sorted(left, reverse=True)
    assert left[0] <= 20


def test_a_class_that_clusters_do_not_have_is_none():
    answer = (200, {"X-Raypurify-Class": "", "X-Raypurify-Cluster": "2"}, PNG)
    with server(answer) as (url, _):
        assert raypurify.Client(url).purify(b"image")[1] == {"cluster": 2, "class": None}


DRIPS = (200, {"Pause": "0.2"}, bytes(50))


@pytest.mark.parametrize(
    "answer",
    [BUSY, (503, {"Retry-After": "60"}, b""), None, DRIPS, CUT],
    ids=["busy", "long", "closed", "drips", "cut"],
)
def test_patience_ends_with_the_time(answer):
    begun = time.monotonic()
    with server(answer) as (url, _), pytest.raises(RaypurifyError, match=r"gave no answer within 1\.5 s, at last"):
        raypurify.Client(url, timeout=1.5).purify(b"image")
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ((401, {}, b'{"error": "unauthorized", "message": "send it"}'), ConfigError, "refuses the token; .*: send it"),
        ((422, {}, b'{"error": "truncated", "message": "cut short"}'), ImageError, "cut short"),
        ((404, {}, b"<html>"), RaypurifyError, "answers 404: Not Found; check that the URL"),
        ((500, {}, b'{"error": "internal", "message": "see the log"}'), RaypurifyError, "answers 500: see the log"),
        ((422, {}, b"[" * 100_000), RaypurifyError, "answers 422"),
        ((200, {"Content-Type": "text/html"}, b"<html>"), RaypurifyError, "something else than a purified image"),
        ((200, {"X-Raypurify-Cluster": "abc"}, PNG), RaypurifyError, "something else than a purified image"),
        ((302, {"Location": "http://127.0.0.1:9/"}, b""), RaypurifyError, "answers 302"),
        ((504, {}, b'{"error": "timeout", "message": "give it time"}'), RaypurifyError, "answers 504: give it time$"),
        ((504, {}, b"<html>"), RaypurifyError, "answers 504: Gateway Timeout; give it more time$"),
        ((408, {}, b""), RaypurifyError, "answers 408: Request Timeout; give it more time$"),
    ],
    ids=["token", "image", "lost", "failed", "deep", "page", "facts", "elsewhere", "late", "late-proxy", "slow"],
)
def test_what_another_try_does_not_change_is_told_at_once(answer, error, message):
    with server(answer) as (url, asked), pytest.raises(error, match=message):
        raypurify.Client(url, "secret").purify(b"image")
    assert len(asked) == 1


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:8000", "ftp://h", "http://", "http://:80", "http://[::1", "http://h:abc", "http://h:99999"]
    + ["http://h/a b", "http://h\n", "http://h?x", "http://h/#x", "http://č", "http://a..b", f"http://{'a' * 64}"],
)
def test_what_is_no_url_of_an_endpoint_is_refused_before_it_is_asked(url):
    with pytest.raises(ConfigError, match="is no URL of an endpoint; give one"):
        raypurify.Client(url)


def test_the_url_that_curl_asks_is_told_from_that_of_the_endpoint():
    with pytest.raises(ConfigError, match=r"leave /v1/purify out: http://h:8000$"):
        raypurify.Client("http://h:8000/v1/purify/")


def test_that_nothing_answers_is_logged_once(caplog):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(RaypurifyError, match="gave no answer within"):
            raypurify.Client(url, timeout=1.5).purify(b"image")
    (line,) = caplog.records
    assert line.getMessage().startswith(f"{url} gives no answer (URLError: ")
    assert line.getMessage().endswith("asking again for 1.5 s")


def test_a_server_of_another_protocol_is_told_of_at_once():
    with server(FINE) as (url, asked), pytest.raises(ConfigError, match=r"does not speak https: .*; check http or"):
        raypurify.Client(url.replace("http:", "https:")).purify(b"image")
    assert not asked
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def greet():
            connection, _ = listening.accept()
            connection.recv(1 << 16)
            connection.sendall(b"220 mail.example.org ESMTP\r\n")
            connection.close()

        threading.Thread(target=greet, daemon=True).start()
        port = listening.getsockname()[1]
        with pytest.raises(ConfigError, match="does not speak http: "):
            raypurify.Client(f"http://127.0.0.1:{port}").purify(b"image")


def test_what_is_one_is_taken():
    for url in ("http://[::1]:8000", "https://purify.example.org/with/a@path/"):
        assert raypurify.Client(url).url == url.rstrip("/")


def test_what_is_secret_is_not_shown():
    for url, token in (
        ("https://me:hidden@h", None),
        ("http://h", "hidden\nx"),
        ("http://h", "hiddenš"),
        ("http://h", ""),
    ):
        with pytest.raises(ConfigError) as refused:
            raypurify.Client(url, token)
        assert "hidden" not in str(refused.value)


def test_a_proxy_whose_url_is_broken_is_told_of_at_once(monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:abc")
    with pytest.raises(ConfigError, match=r"cannot be asked: .*mend it"):
        raypurify.Client("http://purify.example.org", timeout=3).purify(b"image")


def test_an_answer_that_is_too_large_is_not_asked_for_again(monkeypatch):
    monkeypatch.setattr("raypurify.client._MOST_BYTES", 10)
    with server((200, {}, bytes(11))) as (url, asked):
        with pytest.raises(RaypurifyError, match="more than 10 bytes; check that"):
            raypurify.Client(url).purify(b"image")
        assert len(asked) == 1
        assert not raypurify.Client(url).ready()


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((8, 8, 3)), DataError, "pixels of float64, .*; give uint8"),
        (np.zeros((1, 8, 8, 3), np.uint8), DataError, r"\(1, 8, 8, 3\); give uint8"),
        (np.zeros((8, 8, 5), np.uint8), DataError, "give uint8"),
        (np.zeros((0, 8, 3), np.uint8), DataError, "without pixels"),
        (Image.new("F", (8, 8)), DataError, "mode F; give one of"),
        (None, DataError, "type NoneType"),
        ([[0]], DataError, "type list"),
        ("nowhere.png", SourceError, "cannot read the image 'nowhere.png'"),
        (".", SourceError, "cannot read the image"),
    ],
    ids=["floats", "batch", "five channels", "empty", "mode", "none", "list", "nowhere", "folder"],
)
def test_what_cannot_be_sent_is_said(image, error, message):
    with pytest.raises(error, match=message):
        raypurify.Client("http://127.0.0.1:9").purify(image)


@pytest.mark.parametrize("arguments", [(None,), (URL, b"token"), (URL, None, "5"), (URL, None, 1e300), (URL, None, 0)])
def test_what_makes_no_client_is_said(arguments):
    with pytest.raises(ConfigError, match="give"):
        raypurify.Client(*arguments)


@pytest.mark.parametrize("image", ["CMYK", "YCbCr", "I;16", "1", bytearray(b"file"), PNG])
def test_what_can_be_made_a_file_is_sent(image):
    image = Image.new(image, (4, 4)) if isinstance(image, str) else image
    with server((401, {}, b"")) as (url, asked), pytest.raises(ConfigError):
        raypurify.Client(url).purify(image)
    assert len(asked) == 1


def test_nobody_there_is_not_ready():
    assert not raypurify.Client(URL).ready()
