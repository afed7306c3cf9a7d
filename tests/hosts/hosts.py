"""Hosts of a Ray cluster: network namespaces of this machine on one bridge, each can be cut off and joined again.

What Ray does when a host is lost is what it does between machines: no process of one namespace reaches another but
through its link. Disk, CPUs and clock are shared, so none of that is tested.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import object_store
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
PORT = 6379
# The head asks every host for a sign of life each second, and gives up one that was silent for about twelve.
HEALTH = {
    "RAY_health_check_initial_delay_ms": "5000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
    # A busy machine takes its time to start four Rays.
    "RAY_raylet_start_wait_time_s": "90",
}
LOST_S = 15
# Says which workers are alive whenever that changes.
WATCH = """
import json, sys, time
from ray._raylet import GcsClient
asked = said = None
while True:
    try:
        asked = asked or GcsClient(sys.argv[1])
        nodes = asked.get_all_node_info(timeout=5).values()
    except Exception as error:
        print("no answer:", error)
    else:
        alive = sorted(n.node_manager_address for n in nodes if not n.state and not n.is_head_node)
        if alive != said:
            print(json.dumps(alive))
            said = alive
    time.sleep(0.3)
"""


@dataclass
class Host:
    """A namespace with an address of its own, a folder for its Ray, and the processes that were started in it."""

    name: str
    address: str
    link: str
    folder: Path
    environment: Mapping[str, str]
    processes: list[subprocess.Popen] = field(default_factory=list)

    def start(self, *command: object, log: str = "log") -> subprocess.Popen:
        """Begin a command in this host; what it says goes to a file of its folder."""
        with (self.folder / log).open("ab") as said:
            begun = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *map(str, command)],
                cwd=REPOSITORY,
                env=self.environment | {"RAY_TMPDIR": str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
        self.processes.append(begun)
        return begun

    def said(self, log: str) -> str:
        """What the commands with this log have said."""
        file = self.folder / log
        return file.read_text(errors="replace") if file.exists() else ""

    def cut(self) -> None:
        """Take its link down."""
        _ip("link", "set", self.link, "down")

    def join(self) -> None:
        """Bring its link up."""
        _ip("link", "set", self.link, "up")

    def kill(self) -> None:
        """End every process in it, as when power fails."""
        for _ in range(50):
            if not (pids := self._pids()):
                break
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        for process in self.processes:
            process.wait(10)
        self.processes.clear()

    def runs(self, title: str) -> bool:
        """Whether a process in it calls itself so."""
        found = []
        for pid in self._pids():
            with contextlib.suppress(OSError):
                found.append(Path(f"/proc/{pid}/cmdline").read_bytes().startswith(title.encode()))
        return any(found)

    def _pids(self) -> list[int]:
        listed = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True)
        return [int(pid) for pid in listed.stdout.split()]


@dataclass
class Cluster:
    """A head without CPUs, workers of one CPU each, and an object store that all of them reach."""

    head: Host
    workers: list[Host]
    store: object_store.ObjectStore
    jobs: int = 0
    seen: int = 0

    def start_head(self) -> None:
        """Start Ray on the head. Raises RuntimeError where it does not come up."""
        self.seen = len(self.head.said("watch").splitlines())
        self._ray(self.head, 0, "--head", f"--port={PORT}", "--include-dashboard=true")
        self.head.start(sys.executable, "-u", "-c", WATCH, f"{self.head.address}:{PORT}", log="watch")
        self.wait(0)

    def start_worker(self, host: Host) -> None:
        """Start Ray on a worker, which joins the head's."""
        self._ray(host, 1, f"--address={self.head.address}:{PORT}")

    def wait(self, count: int, seconds: float = 180) -> set[str]:
        """The addresses of the workers that Ray counts as alive, once there are ``count``."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if len(alive := self.alive()) == count and self.watched:
                return alive
            time.sleep(0.2)
        said = [f"{host.address}: {host.said('start')[-1500:]}" for host in (self.head, *self.workers)]
        raise RuntimeError(
            "\n".join((f"{count} workers were to be alive, these are: {alive}", *said, *self.watched[-5:]))
        )

    @property
    def watched(self) -> list[str]:
        """What the watcher on the head has said since the head was started."""
        return self.head.said("watch").splitlines()[self.seen :]

    def alive(self) -> set[str]:
        """The addresses of the workers that Ray counts as alive."""
        lists = [line for line in self.watched if line.startswith("[")]
        return set(json.loads(lists[-1])) if lists else set()

    def begin(self, script: str, *arguments: object) -> "Job":
        """Run a job script on the head, as a Ray job does, with ``RAY_ADDRESS``."""
        self.jobs += 1
        log, address = f"job-{self.jobs}", f"RAY_ADDRESS={self.head.address}:{PORT}"
        return Job(self.head, log, self.head.start("env", address, sys.executable, script, *arguments, log=log))

    def _ray(self, host: Host, cpus: int, *arguments: str) -> None:
        command = ["start", "--block", "--disable-usage-stats", f"--num-cpus={cpus}", "--object-store-memory=100000000"]
        command += [f"--node-ip-address={host.address}", f"--temp-dir={host.folder / 'ray'}"]
        host.start(*RAY, *command, *arguments, log="start")


@dataclass
class Job:
    """A job script that runs on the head."""

    head: Host
    log: str
    process: subprocess.Popen

    def end(self, seconds: float = 240) -> dict:
        """The line of JSON that it says last. Raises RuntimeError, with what it had said, where it does not end."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired as late:
            raise RuntimeError(f"the job did not end in {seconds:.0f} s: {self.said}") from late
        lines = [line for line in self.said.splitlines() if line.startswith('{"command"')]
        assert lines, self.said
        return json.loads(lines[-1])

    @property
    def said(self) -> str:
        """Its output and errors so far."""
        return self.head.said(self.log)


@contextlib.contextmanager
def three_hosts() -> Iterator[Cluster]:
    """A cluster of a head and three workers with Ray started. Skips where namespaces are not permitted; whatever
    happens, nothing of it is left."""
    # Ray makes sockets below its folder, whose paths must be short.
    with tempfile.TemporaryDirectory(prefix="rh", dir="/tmp") as folder, _bridge() as (bridge, net):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | HEALTH
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        environment |= {"PYTHONPATH": str(REPOSITORY), "RAY_USAGE_STATS_ENABLED": "0"}
        with contextlib.ExitStack() as stack:
            hosts = [
                stack.enter_context(_host(bridge, f"{net}.{number}", Path(folder) / str(number), environment))
                for number in range(1, 5)
            ]
            files = Path(folder) / "store"
            files.mkdir()
            store = stack.enter_context(object_store.running(files, address=f"{net}.254"))
            cluster = Cluster(hosts[0], hosts[1:], store)
            cluster.start_head()
            for worker in cluster.workers:
                cluster.start_worker(worker)
            cluster.wait(len(cluster.workers))
            yield cluster


@contextlib.contextmanager
def _bridge() -> Iterator[tuple[str, str]]:
    """A bridge of this process's own, and the first three numbers of its addresses."""
    if not shutil.which("ip"):
        pytest.skip("needs network namespaces: no program ip (package iproute2)")
    name, net = f"rpb{os.getpid()}", f"10.77.{os.getpid() % 250}"
    try:
        _ip("link", "add", name, "type", "bridge")
    except RuntimeError as refused:
        pytest.skip(f"needs network namespaces, which are not permitted here: {refused}")
    try:
        _ip("addr", "add", f"{net}.254/24", "dev", name)
        _ip("link", "set", name, "up")
        yield name, net
    finally:
        _ip("link", "del", name)


@contextlib.contextmanager
def _host(bridge: str, address: str, folder: Path, environment: Mapping[str, str]) -> Iterator[Host]:
    number = folder.name
    name, link = f"{bridge}-{number}", f"rpv{os.getpid()}-{number}"
    folder.mkdir()
    try:
        _ip("netns", "add", name)
    except RuntimeError as refused:
        pytest.skip(f"needs network namespaces, which are not permitted here: {refused}")
    host = Host(name, address, link, folder, environment)
    try:
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", link, "master", bridge, "up")
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        yield host
    finally:
        host.kill()
        # With the namespace goes its end of the link, and with that the other.
        _ip("netns", "del", name)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
