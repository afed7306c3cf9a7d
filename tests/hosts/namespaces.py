"""Hosts on one bridge: network namespaces of this machine, each with its own address, name and temp directory.

No process of one host reaches another but through its link, which can be cut. Disk, CPUs and clock are shared, so none
of these is tested.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from undo import kill_all, pids_of

REPOSITORY = Path(__file__).resolve().parents[2]
# Its own name, and a file of names in which that stands for a loopback address, as Debian has it.
ENTER = 'hostname "$1" && mount --bind "$2" /etc/hosts && shift 2 && exec "$@"'


@dataclass
class Host:
    """A namespace with an address and a name of its own, a folder for its files, and the processes started in it. The
    end of its link that is on the bridge is called as the namespace."""

    namespace: str
    name: str
    address: str
    folder: Path
    environment: Mapping[str, str]
    processes: list[subprocess.Popen] = field(default_factory=list)

    def start(self, *command: object, log: str = "log") -> subprocess.Popen:
        """Begin a command in this host; what it says goes to a file of its folder."""
        inside = ["unshare", "--uts", "sh", "-c", ENTER, "sh", self.name, str(self.folder / "hosts")]
        with (self.folder / log).open("ab") as said:
            begun = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *inside, *map(str, command)],
                cwd=REPOSITORY,
                env={**self.environment, "TMPDIR": str(self.folder / "tmp")},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                # Ctrl-C is for the tests, which end what they started.
                start_new_session=True,
            )
        self.processes.append(begun)
        return begun

    def said(self, log: str) -> str:
        """What the commands with this log have said."""
        file = self.folder / log
        return file.read_text(errors="replace") if file.exists() else ""

    def cut(self) -> None:
        """Take its link down."""
        _ip("link", "set", self.namespace, "down")

    def join(self) -> None:
        """Bring its link up."""
        _ip("link", "set", self.namespace, "up")

    def kill(self) -> None:
        """End every process in it, as when power fails."""
        kill_all(lambda: pids_of(self.namespace))
        for process in self.processes:
            process.wait(10)
        self.processes.clear()

    def runs(self, title: str) -> bool:
        """Whether a process in it calls itself so."""
        found = []
        for pid in pids_of(self.namespace):
            with contextlib.suppress(OSError):
                found.append(Path(f"/proc/{pid}/cmdline").read_bytes().startswith(title.encode()))
        return any(found)


@dataclass(frozen=True)
class Network:
    """Hosts, the address at which they reach this machine, and a folder that goes with them."""

    hosts: list[Host]
    address: str
    folder: Path


@contextlib.contextmanager
def network(names: list[str], environment: Mapping[str, str]) -> Iterator[Network]:
    """Hosts of these names for the length of the block. Skips where namespaces are not permitted; whatever becomes of
    this process, nothing of them is left."""
    if missing := [program for program in ("ip", "unshare", "mount", "hostname") if not shutil.which(program)]:
        pytest.skip(f"needs network namespaces: no program {missing[0]} (packages iproute2, util-linux, hostname)")
    bridge, net = f"rpb{os.getpid()}", f"10.77.{os.getpid() % 250}"
    # Ray makes sockets below its folder, whose paths must be short.
    folder = Path(tempfile.mkdtemp(prefix="rh", dir="/tmp"))
    undo = [sys.executable, "-S", Path(__file__).with_name("undo.py"), bridge, folder]
    with subprocess.Popen(undo, stdin=subprocess.PIPE, start_new_session=True):  # leaving the block closes its input
        try:
            _ip("link", "add", bridge, "type", "bridge")
            hosts = [_host(bridge, f"{net}.{n}", folder / str(n), name, environment) for n, name in enumerate(names, 1)]
        except RuntimeError as refused:
            if "exists" in str(refused):
                raise
            pytest.skip(f"needs network namespaces, which are not permitted here: {refused}")
        _ip("addr", "add", f"{net}.254/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        try:
            yield Network(hosts, f"{net}.254", folder)
        finally:
            for host in hosts:
                host.kill()


def _host(bridge: str, address: str, folder: Path, name: str, environment: Mapping[str, str]) -> Host:
    namespace = f"{bridge}-{folder.name}"
    (folder / "tmp").mkdir(parents=True)
    (folder / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n")
    _ip("netns", "add", namespace)
    _ip("link", "add", namespace, "type", "veth", "peer", "name", "eth0", "netns", namespace)
    _ip("link", "set", namespace, "master", bridge, "up")
    _ip("-n", namespace, "link", "set", "lo", "up")
    _ip("-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
    _ip("-n", namespace, "link", "set", "eth0", "up")
    host = Host(namespace, name, address, folder, environment)
    if host.start("true").wait(10):
        raise RuntimeError(host.said("log"))
    host.processes.clear()
    return host


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
