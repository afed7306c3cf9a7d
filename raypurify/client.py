"""A client of the endpoint for other programs: one image, purified by a server, with patience and a deadline."""

import http.client
import io
import json
import random
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

from raypurify.errors import ConfigError, DataError, ImageError, RaypurifyError
from raypurify.version import __version__

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    Picture = str | Path | bytes | Image | np.ndarray

PREFIX = "x-raypurify-"
# Answers that another try may change: too many callers, and a proxy whose server is away.
_AGAIN = {429, 502, 503}
_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
# An answer in PNG of the largest image that an endpoint takes may need this much.
_MOST_BYTES = 1 << 28


class Client:
    """A client of one endpoint.

    ``url`` is where it listens, e.g. ``https://purify.example.org``; ``token`` what it asks for; ``timeout`` the
    seconds that a call may take in all, with all its tries. Whoever is refused because the endpoint is busy, ending or
    away asks again when it says so, as long as there is time. Raises ConfigError for a URL that is none.

        client = raypurify.Client("http://127.0.0.1:8000", token="...")
        image, facts = client.purify("photo.jpg")
    """

    def __init__(self, url: str, token: str | None = None, timeout: float = 60):
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
            raise ConfigError(f"{url!r} is no URL of an endpoint; give one like http://127.0.0.1:8000")
        self.url, self.timeout = url.rstrip("/"), timeout
        self._headers = {"User-Agent": f"raypurify/{__version__}"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        # Another host would be sent the token.
        self._opener = urllib.request.build_opener(_NoRedirects)

    def purify(self, image: "Picture", timeout: float | None = None) -> "tuple[Any, dict[str, Any]]":
        """The purified image and the facts about it: cluster, class, distance, flagged, relative_change, iterations,
        bundle.

        A path or the bytes of an image file give the bytes of a PNG; a Pillow image gives one, and uint8 pixels
        (H, W), (H, W, 3) or (H, W, 4) give pixels. Raises ImageError where the endpoint cannot purify the image,
        DataError for other pixels, ConfigError where it wants another token or is not trusted, and RaypurifyError where
        there is no answer in time.
        """
        answer = self._ask("POST", "/v1/purify", _file(image), self.timeout if timeout is None else timeout)
        return _like(image, answer.body), _facts(answer.headers)

    def ready(self) -> bool:
        """Whether the endpoint purifies now: at least one replica has solved its known image. Asks once."""
        try:
            return self._once("GET", "/v2/health/ready", None, time.monotonic() + self.timeout).status == 200
        except (OSError, http.client.HTTPException):
            return False

    def _ask(self, method: str, path: str, body: bytes | None, seconds: float) -> "_Answer":
        """The answer to a call that changes nothing, tried again while that may help and there is time."""
        deadline, pause = time.monotonic() + seconds, _PAUSE_S
        while True:
            problem: Exception | None = None
            try:
                answer = self._once(method, path, body, deadline)
            except (OSError, http.client.HTTPException) as error:
                if isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError):
                    raise ConfigError(
                        f"{self.url} shows a certificate that is not trusted here: {error}; set SSL_CERT_FILE to the "
                        "file of its authority"
                    ) from error
                problem, wanted = error, 0.0
                said = f"{type(error).__name__}: {getattr(error, 'reason', error)}"
            else:
                if answer.status not in _AGAIN:
                    return answer.checked(self.url)
                wanted, said = answer.retry_after, f"{answer.status} {answer.refusal[1]}"
            # Those who were refused together do not come back together.
            wait = max(wanted, pause * random.uniform(0.5, 1))
            if time.monotonic() + wait >= deadline:
                raise RaypurifyError(
                    f"{self.url} gave no answer within {seconds:g} s, at last {said}; check that it runs, or give it "
                    "more time"
                ) from problem
            time.sleep(wait)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _once(self, method: str, path: str, body: bytes | None, deadline: float) -> "_Answer":
        left = max(0.001, deadline - time.monotonic())
        headers = self._headers | {"X-Raypurify-Timeout": f"{left:.3f}", "Content-Type": "application/octet-stream"}
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        try:
            with self._opener.open(request, timeout=left) as response:
                return _Answer(response.status, _lower(response.headers), _read(response, deadline))
        except urllib.error.HTTPError as error:
            with error:
                return _Answer(error.code, _lower(error.headers), _read(error, deadline))


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _read(answer: Any, deadline: float) -> bytes:
    """The body of an answer. Raises TimeoutError where it goes on beyond the deadline, and HTTPException where it is
    larger than any that an endpoint gives."""
    pieces, size = [], 0
    while piece := answer.read1(1 << 16):
        pieces.append(piece)
        size += len(piece)
        if size > _MOST_BYTES:
            raise http.client.HTTPException(f"the answer is larger than {_MOST_BYTES:,} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError("the answer did not end")
    return b"".join(pieces)


def _lower(headers: Message) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


class _Answer(NamedTuple):
    """An answer; the names of its headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def retry_after(self) -> float:
        text = self.headers.get("retry-after", "")
        return float(text) if text.isdigit() else 0.0

    @property
    def refusal(self) -> tuple[str, str]:
        """The reason in a word, and the message."""
        try:
            said = json.loads(self.body)
            return str(said["error"]), str(said["message"])
        except (ValueError, KeyError, TypeError):
            return "unknown", http.client.responses.get(self.status, "")

    def checked(self, url: str) -> "_Answer":
        """The answer, where it is no refusal."""
        if self.status == 200:
            return self
        reason, message = self.refusal
        if self.status in (401, 403):
            raise ConfigError(f"{url} refuses the token; give one that it was started with: {message}")
        if self.status in (400, 413, 415, 422) and reason != "unknown":
            raise ImageError(reason, message)
        raise RaypurifyError(f"{url} answers {self.status}: {message}; check that the URL is that of an endpoint")


def _file(image: Any) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | Path):
        return Path(image).read_bytes()
    from PIL import Image

    if not isinstance(image, Image.Image):
        if image.dtype.name != "uint8":
            raise DataError(f"pixels of {image.dtype}; give uint8 pixels, (H, W, 3) or (H, W)")
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _like(image: Any, data: bytes) -> Any:
    if isinstance(image, bytes | str | Path):
        return data
    import numpy as np
    from PIL import Image

    purified = Image.open(io.BytesIO(data))
    purified.load()
    return purified if isinstance(image, Image.Image) else np.asarray(purified)


def _facts(headers: Mapping[str, str]) -> dict[str, Any]:
    read: dict[str, Callable[[str], Any]] = {
        "cluster": int,
        "iterations": int,
        "distance": float,
        "relative_change": float,
        "flagged": "true".__eq__,
    }
    found = {}
    for name, value in headers.items():
        if name.startswith(PREFIX):
            fact = name.removeprefix(PREFIX).replace("-", "_")
            found[fact] = read.get(fact, unquote)(value)
    return found
