"""A client of the endpoint for other programs: one image, purified by a server, with patience and a deadline."""

import http.client
import io
import json
import logging
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

from raypurify.errors import ConfigError, DataError, ImageError, RaypurifyError, SourceError
from raypurify.version import __version__

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    Picture = str | Path | bytes | Image | np.ndarray

_LOG = logging.getLogger("raypurify.client")
PREFIX = "x-raypurify-"
_PURIFY = "/v1/purify"
_PNG = b"\x89PNG\r\n\x1a\n"
# Answers that another try may change: too many callers, and a proxy whose server is away.
_AGAIN = {429, 502, 503}
_LATE = {408, 504}
_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
# What OpenSSL says of a server that answers in plain text.
_PLAIN = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"}
# A week; clocks of sockets end somewhere beyond.
_LONGEST_S = 604_800
# What Pillow writes as PNG.
_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
# An answer in PNG of the largest image that an endpoint takes may need this much.
_MOST_BYTES = 1 << 28


class Client:
    """A client of one endpoint.

    ``url`` is where it listens, e.g. ``https://purify.example.org``; ``token`` what it asks for; ``timeout`` the
    seconds that a call may take in all, with all its tries. Whoever is refused because the endpoint is busy, ending or
    away asks again when it says so, as long as there is time; where nothing answers the first try, a warning of
    ``raypurify.client`` says so. Raises ConfigError for a URL that is none, a token that no header can hold, and
    seconds without an end.

        client = raypurify.Client("http://127.0.0.1:8000", token="...")
        image, facts = client.purify("photo.jpg")
    """

    def __init__(self, url: str, token: str | None = None, timeout: float = 60):
        self.url, self.timeout = _checked_url(url), _checked_timeout(timeout)
        self._headers = {"User-Agent": f"raypurify/{__version__}"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {_checked_token(token)}"
        # Another host would be sent the token.
        self._opener = urllib.request.build_opener(_NoRedirects)

    def purify(self, image: "Picture", timeout: float | None = None) -> "tuple[Any, dict[str, Any]]":
        """The purified image and the facts about it: cluster, class, distance, flagged, relative_change, iterations,
        bundle. The class is None where the bundle's clusters are of no class.

        A path or the bytes of an image file give the bytes of a PNG; a Pillow image gives one, and uint8 pixels
        (H, W), (H, W, 3) or (H, W, 4) give pixels. CMYK and YCbCr are sent, and come back, as RGB. Raises ImageError
        where the endpoint cannot purify the image, SourceError for a path that cannot be read, DataError for other
        pixels, ConfigError where it wants another token or is not trusted, and RaypurifyError where
        there is no answer in time.
        """
        seconds = self.timeout if timeout is None else _checked_timeout(timeout)
        answer = self._ask("POST", _PURIFY, _file(image), seconds)
        try:
            if not answer.body.startswith(_PNG):
                raise ValueError("no PNG")
            return _like(image, answer.body), _facts(answer.headers)
        except (ValueError, OSError) as error:
            raise RaypurifyError(
                f"{self.url} answers something else than a purified image: {error}; check that the URL is that of an "
                "endpoint"
            ) from error

    def ready(self) -> bool:
        """Whether the endpoint purifies now: at least one replica has solved its known image. Asks once."""
        try:
            return self._once("GET", "/v2/health/ready", None, time.monotonic() + self.timeout).status == 200
        except (OSError, http.client.HTTPException, _TooLarge):
            return False

    def _ask(self, method: str, path: str, body: bytes | None, seconds: float) -> "_Answer":
        """The answer to a call that changes nothing, tried again while that may help and there is time."""
        deadline, pause = time.monotonic() + seconds, _PAUSE_S
        while True:
            problem: Exception | None = None
            try:
                answer = self._once(method, path, body, deadline)
            except http.client.InvalidURL as error:
                raise ConfigError(f"{self.url} cannot be asked: {error}; mend it, or the proxy's URL") from error
            except (OSError, http.client.HTTPException) as error:
                if isinstance(_reason(error), ssl.SSLCertVerificationError):
                    raise ConfigError(
                        f"{self.url} shows a certificate that is not trusted here: {error}; set SSL_CERT_FILE to the "
                        "file of its authority"
                    ) from error
                if _is_no_http(error):
                    raise ConfigError(
                        f"{self.url} does not speak {urlsplit(self.url).scheme}: {_reason(error)}; check http or "
                        "https, and the port"
                    ) from error
                problem, wanted = error, 0.0
                said = f"{type(error).__name__}: {_reason(error)}"
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
            if problem and pause == _PAUSE_S:
                _LOG.warning("%s gives no answer (%s); asking again for %g s", self.url, said, seconds)
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


def _reason(error: Exception) -> Any:
    """What a failed call failed for: urllib wraps it."""
    return getattr(error, "reason", error)


def _is_no_http(error: Exception) -> bool:
    """Whether a server answered, and not in the protocol that it was asked in: no other try changes that."""
    if isinstance(error, http.client.BadStatusLine):
        return not isinstance(error, http.client.RemoteDisconnected)
    reason = _reason(error)
    return isinstance(reason, ssl.SSLError) and reason.reason in _PLAIN


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _read(answer: Any, deadline: float) -> bytes:
    """The body of an answer. Raises TimeoutError where it goes on beyond the deadline, IncompleteRead where it is cut
    short, and RaypurifyError where it is larger than any that an endpoint gives."""
    pieces, size = [], 0
    while piece := answer.read1(1 << 16):
        pieces.append(piece)
        size += len(piece)
        if size > _MOST_BYTES:
            raise _TooLarge(f"an answer of more than {_MOST_BYTES:,} bytes; check that the URL is that of an endpoint")
        if time.monotonic() > deadline:
            raise TimeoutError("the answer did not end")
    # Read in pieces, a connection that was closed looks like the end.
    if answer.length:
        raise http.client.IncompleteRead(b"".join(pieces), answer.length)
    return b"".join(pieces)


class _TooLarge(RaypurifyError):
    pass


def _checked_url(url: str) -> str:
    """The URL of an endpoint, without a slash at its end. Raises ConfigError where it is none."""
    if not isinstance(url, str):
        raise ConfigError(f"a URL of type {type(url).__name__}; give text like http://127.0.0.1:8000")
    if "@" in url.partition("://")[2].partition("/")[0]:
        # Not shown, as it may hold a password.
        raise ConfigError("the URL holds a user's name; leave that out, and give the endpoint's token as the token")
    try:
        parts = urlsplit(url)
        # What the port is shows when it is asked for, what the host is when it is looked up.
        host, _ = (parts.hostname or "").encode("idna"), parts.port
        plain = url.isascii() and url.isprintable() and not set(url) & set(" ?#")
        fits = parts.scheme in ("http", "https") and host and plain
    except ValueError:
        fits = False
    if not fits:
        raise ConfigError(f"{url!r} is no URL of an endpoint; give one like http://127.0.0.1:8000")
    if (base := url.rstrip("/")).endswith(_PURIFY):
        raise ConfigError(f"{url!r} is the URL of purification; leave {_PURIFY} out: {base.removesuffix(_PURIFY)}")
    return base


def _checked_timeout(seconds: float) -> float:
    if not isinstance(seconds, int | float) or not 0 < seconds <= _LONGEST_S:
        raise ConfigError(f"a timeout of {seconds!r} seconds; give a number above zero, {_LONGEST_S:,} at most")
    return seconds


def _checked_token(token: str) -> str:
    if (
        not isinstance(token, str)
        or not token.isascii()
        or not token.isprintable()
        or token != token.strip()
        or not token
    ):
        raise ConfigError("the token holds other than printable ASCII; give one that the endpoint was started with")
    return token


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
        return float(text) if text.isascii() and text.isdigit() else 0.0

    @property
    def refusal(self) -> tuple[str, str]:
        """The reason in a word, and the message."""
        try:
            said = json.loads(self.body)
            return str(said["error"]), str(said["message"])
        except (ValueError, KeyError, TypeError, RecursionError):
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
        if reason != "unknown":  # what an endpoint says names the remedy
            raise RaypurifyError(f"{url} answers {self.status}: {message}")
        remedy = "give it more time" if self.status in _LATE else "check that the URL is that of an endpoint"
        raise RaypurifyError(f"{url} answers {self.status}: {message}; {remedy}")


def _file(image: Any) -> bytes:
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | Path):
        try:
            return Path(image).read_bytes()
        except (OSError, ValueError) as error:
            raise SourceError(f"cannot read the image {str(image)!r}: {error}; check the path") from error
    from PIL import Image

    if not isinstance(image, Image.Image):
        image = Image.fromarray(_checked_pixels(image))
    elif image.mode in ("CMYK", "YCbCr"):
        image = image.convert("RGB")
    elif image.mode not in _MODES:
        raise DataError(f"a Pillow image of mode {image.mode}; give one of {', '.join(_MODES)}, as by convert('RGB')")
    if not image.width or not image.height:
        raise DataError("an image without pixels; give one that has some")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _checked_pixels(image: Any) -> "np.ndarray":
    import numpy as np

    if not isinstance(image, np.ndarray):
        raise DataError(f"an image of type {type(image).__name__}; give a path, bytes, a Pillow image or uint8 pixels")
    colours = image.shape[2:]
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (colours and colours[0] not in (3, 4)):
        raise DataError(f"pixels of {image.dtype}, {image.shape}; give uint8 pixels, (H, W, 3), (H, W, 4) or (H, W)")
    if not image.size:
        raise DataError("an image without pixels; give one that has some")
    return image


def _like(image: Any, data: bytes) -> Any:
    if isinstance(image, bytes | bytearray | memoryview | str | Path):
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
        "region": lambda text: [int(side) for side in text.split(",")],
        "region_share": float,
        "class": lambda text: unquote(text) or None,
    }
    found = {}
    for name, value in headers.items():
        if name.startswith(PREFIX):
            fact = name.removeprefix(PREFIX).replace("-", "_")
            found[fact] = read.get(fact, unquote)(value)
    return found
