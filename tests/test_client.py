"""The client of the endpoint against servers that refuse, leave, or lead astray; it needs no Ray."""

import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import raypurify
from raypurify.errors import ConfigError, DataError, ImageError, RaypurifyError

BUSY = (503, {"Retry-After": "1"}, b'{"error": "busy", "message": "too many"}')
FINE = (200, {"X-Raypurify-Cluster": "3", "X-Raypurify-Class": "ko%C4%8Dka", "X-Raypurify-Flagged": "true"}, b"png")


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


def test_whoever_is_refused_asks_again_when_told_to():
    with server(BUSY, None, (429, {}, b""), FINE) as (url, asked):
        image, facts = raypurify.Client(url, "secret", timeout=20).purify(b"image")
    assert (image, facts) == (b"png", {"cluster": 3, "class": "kočka", "flagged": True})
    assert len(asked) == 4
    assert asked[1][0] - asked[0][0] >= 1
    assert {headers["Authorization"] for _, _, headers in asked} == {"Bearer secret"}
    # The server is told what is left of the time.
    left = [float(headers["X-Raypurify-Timeout"]) for _, _, headers in asked]
    assert left == sorted(left, reverse=True)
    assert left[0] <= 20


DRIPS = (200, {"Pause": "0.2"}, bytes(50))


@pytest.mark.parametrize(
    "answer",
    [BUSY, (503, {"Retry-After": "60"}, b""), None, DRIPS],
    ids=["busy", "long", "closed", "drips"],
)
def test_patience_ends_with_the_time(answer):
    begun = time.monotonic()
    with server(answer) as (url, _), pytest.raises(RaypurifyError, match=r"gave no answer within 1\.5 s, at last"):
        raypurify.Client(url, timeout=1.5).purify(b"image")
    assert time.monotonic() - begun < 2.5


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ((401, {}, b'{"error": "unauthorized", "message": "send it"}'), ConfigError, "refuses the token; .*: send it"),
        ((422, {}, b'{"error": "truncated", "message": "cut short"}'), ImageError, "cut short"),
        ((404, {}, b"<html>"), RaypurifyError, "answers 404: Not Found; check that the URL"),
        ((500, {}, b'{"error": "internal", "message": "see the log"}'), RaypurifyError, "answers 500: see the log"),
        ((302, {"Location": "http://127.0.0.1:9/"}, b""), RaypurifyError, "answers 302"),
    ],
    ids=["token", "image", "lost", "failed", "elsewhere"],
)
def test_what_another_try_does_not_change_is_told_at_once(answer, error, message):
    with server(answer) as (url, asked), pytest.raises(error, match=message):
        raypurify.Client(url, "secret").purify(b"image")
    assert len(asked) == 1


def test_what_cannot_be_sent_is_said():
    with pytest.raises(ConfigError, match="is no URL of an endpoint; give one"):
        raypurify.Client("127.0.0.1:8000")
    import numpy as np

    with pytest.raises(DataError, match="pixels of float64; give uint8"):
        raypurify.Client("http://127.0.0.1:9").purify(np.zeros((8, 8, 3)))
    assert not raypurify.Client("http://127.0.0.1:9").ready()
