"""A store that is none: it answers S3 as if it held a million images, and keeps in memory what is put there.

    .venv/bin/python benchmarks/fake_store.py --images 1280000

prints its port. The names of the images are arithmetic, their bytes the same, and every answer waits as long as one of
a store that is far away. It knows what this package asks of a store, and checks no signature.
"""

import argparse
import heapq
import re
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

BUCKET, PAGE = "images", 1000
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c636060600000000400015e"
    "f2d1a00000000049454e44ae426082"
)
_LAST = "\U0010ffff"
_WHEN = "2024-01-02T03:04:05.000Z", "Tue, 02 Jan 2024 03:04:05 GMT"


class Names(Sequence):
    """The keys of so many images in classes of equal size, in order, none of which is kept."""

    def __init__(self, images: int, classes: int):
        self.images, self.classes = images, classes

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, k: int) -> str:
        return f"in/n{k * self.classes // self.images:08d}/{k:08d}.png"


class FakeStore(ThreadingHTTPServer):
    """Serves ``keys``, sorted, each of which holds ``data``, and what is put there. A page of a listing comes after
    ``page_s`` seconds, any other answer after ``other_s``. ``fault`` may give another answer to a listing, by its
    parameters and that answer, as (status, body)."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self,
        keys: Sequence[str],
        data: bytes = PIXEL,
        page_s: float = 0.0,
        other_s: float = 0.0,
        fault: Callable[[dict[str, str], bytes], tuple[int, bytes]] | None = None,
    ):
        super().__init__(("127.0.0.1", 0), _Answer)
        self.keys, self.data, self.page_s, self.other_s, self.fault = keys, data, page_s, other_s, fault
        self.held: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.lock = threading.Lock()
        self.asked: Counter[str] = Counter()
        self._sorted: list[str] = []

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.server_address[1]}"

    def uri(self, path: str) -> str:
        """The URI of a path in the bucket."""
        return f"s3://any:key@{BUCKET}/{path}?endpoint_override={self.endpoint}&scheme=http"

    def get(self, key: str) -> bytes | None:
        """The object of a key."""
        if key in self.held:
            return self.held[key]
        at = bisect_left(self.keys, key)
        return self.data if at < len(self.keys) and self.keys[at] == key else None

    def put(self, key: str, data: bytes | None) -> None:
        """Keep an object, or forget it."""
        with self.lock:
            if data is None:
                self.held.pop(key, None)
            else:
                self.held[key] = data
            self._sorted = []

    def listed(self, prefix: str, delimiter: str, after: str, most: int) -> tuple[list[str], list[str], str | None]:
        """Keys and common prefixes behind ``after``, and behind what the next page begins."""
        with self.lock:
            held = self._sorted = self._sorted or sorted(self.held)
        keys: list[str] = []
        folders: list[str] = []
        begin = max(prefix, after)
        while True:
            for key in heapq.merge(_from(self.keys, begin), _from(held, begin)):
                if not key.startswith(prefix):
                    return keys, folders, None
                if key <= after:
                    continue
                if len(keys) + len(folders) == most:
                    return keys, folders, after
                cut = key.find(delimiter, len(prefix)) if delimiter else -1
                if cut >= 0:
                    folders.append(key[: cut + 1])
                    after = begin = key[: cut + 1] + _LAST
                    break
                keys.append(key)
                after = key
            else:
                return keys, folders, None


def _from(keys: Sequence[str], begin: str) -> Iterator[str]:
    return (keys[k] for k in range(bisect_left(keys, begin), len(keys)))


class _Answer(BaseHTTPRequestHandler):
    server: FakeStore
    protocol_version = "HTTP/1.1"
    # Head and body in one packet, or the other side waits for the second.
    wbufsize = -1
    disable_nagle_algorithm = True

    def handle_expect_100(self) -> bool:
        """Ask for the body at once."""
        super().handle_expect_100()
        self.wfile.flush()
        return True

    def do_GET(self) -> None:
        """A listing, or an object."""
        key, query = self._asked()
        if "list-type" in query:
            self._list(query)
            return
        time.sleep(self.server.other_s)
        data = self.server.get(key)
        if data is None:
            self._send(404, b"<Error><Code>NoSuchKey</Code></Error>")
        elif found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(found[1]), min(int(found[2] or len(data) - 1), len(data) - 1)
            self._send(206, data[first : last + 1], {"Content-Range": f"bytes {first}-{last}/{len(data)}"})
        else:
            self._send(200, data)

    def do_HEAD(self) -> None:
        """The size of an object."""
        key, _ = self._asked()
        time.sleep(self.server.other_s)
        data = b"" if not key else self.server.get(key)
        self._send(404 if data is None else 200, data or b"")

    def do_PUT(self) -> None:
        """Keep an object, or a part of one."""
        key, query = self._asked()
        body = self._body()
        time.sleep(self.server.other_s)
        if "partNumber" in query:
            self.server.parts[key, int(query["partNumber"])] = body
        else:
            self.server.put(key, body)
        self._send(200, b"", {"ETag": '"e"'})

    def do_DELETE(self) -> None:
        """Forget an object."""
        key, _ = self._asked()
        time.sleep(self.server.other_s)
        self.server.put(key, None)
        self._send(204, b"")

    def do_POST(self) -> None:
        """Forget several objects, or begin or end one that comes in parts."""
        key, query = self._asked()
        body = self._body().decode()
        time.sleep(self.server.other_s)
        if "delete" in query:
            for one in re.findall("<Key>(.*?)</Key>", body):
                self.server.put(unescape(one), None)
            self._send(200, b"<DeleteResult></DeleteResult>")
        elif "uploads" in query:
            self._send(200, b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>")
        else:
            parts = sorted(part for part in self.server.parts if part[0] == key)
            self.server.put(key, b"".join(self.server.parts.pop(part) for part in parts))
            self._send(200, b'<CompleteMultipartUploadResult><ETag>"e"</ETag></CompleteMultipartUploadResult>')

    def _list(self, query: dict[str, str]) -> None:
        after = query.get("continuation-token") or query.get("start-after", "")
        most = min(PAGE, int(query.get("max-keys", PAGE)))
        prefix = query.get("prefix", "")
        keys, folders, more = self.server.listed(prefix, query.get("delimiter", ""), after, most)
        body = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{_WHEN[0]}</LastModified>"
            f"<Size>{len(self.server.held.get(key, self.server.data))}</Size></Contents>"
            for key in keys
        )
        body += "".join(f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in folders)
        if more is not None:
            body += f"<NextContinuationToken>{escape(more)}</NextContinuationToken>"
        text = (
            f"<?xml version='1.0' encoding='UTF-8'?><ListBucketResult><Name>{BUCKET}</Name>"
            f"<Prefix>{escape(prefix)}</Prefix><KeyCount>{len(keys) + len(folders)}</KeyCount>"
            f"<IsTruncated>{'false' if more is None else 'true'}</IsTruncated>{body}</ListBucketResult>"
        )
        time.sleep(self.server.page_s)
        answer = 200, text.encode()
        self._send(*(self.server.fault(query, answer[1]) if self.server.fault else answer))

    def _asked(self) -> tuple[str, dict[str, str]]:
        """The key and the parameters of the request."""
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        with self.server.lock:
            self.server.asked["LIST" if "list-type" in query else self.command] += 1
        return unquote(url.path).removeprefix(f"/{BUCKET}").removeprefix("/"), query

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            data = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
            return data
        whole, at = b"", 0
        while at < len(data):
            line = data.index(b"\r\n", at)
            size = int(data[at:line].split(b";")[0], 16)
            whole += data[line + 2 : line + 2 + size]
            if not size:
                break
            at = line + 4 + size
        return whole

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Last-Modified": _WHEN[1], "ETag": '"e"'} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_280_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--page", type=float, default=0.05, help="Seconds until a page of a listing comes.")
    parser.add_argument("--other", type=float, default=0.02, help="Seconds until any other answer comes.")
    options = parser.parse_args()
    store = FakeStore(Names(options.images, options.classes), page_s=options.page, other_s=options.other)
    print(store.endpoint, flush=True)
    store.serve_forever()
