"""A Ray cluster over hosts of their own network, and an object store that all of them reach."""

import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import object_store
from namespaces import REPOSITORY, Host, network

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
class Cluster:
    """A head without CPUs, workers of one CPU each, and an object store that all of them reach."""

    head: Host
    workers: list[Host]
    store: object_store.ObjectStore
    jobs: int = 0
    seen: int = 0

    def start(self) -> None:
        """Start Ray on every host. Raises RuntimeError where it does not come up."""
        self.start_head()
        for worker in self.workers:
            self.start_worker(worker)
        self.wait(len(self.workers))

    def start_head(self) -> None:
        """Start Ray on the head. Raises RuntimeError where it does not come up."""
        self.seen = len(self.head.said("watch").splitlines())
        self._ray(self.head, 0, "--head", f"--port={PORT}", "--include-dashboard=false")
        self.head.start(sys.executable, "-u", "-c", WATCH, f"{self.head.address}:{PORT}", log="watch")
        self.wait(0)

    def start_worker(self, host: Host) -> None:
        """Start Ray on a worker, which joins the head's."""
        self._ray(host, 1, f"--address={self.head.address}:{PORT}")

    @contextlib.contextmanager
    def cut_off(self, *workers: Host) -> Iterator[None]:
        """Cut workers off for good for the length of the block; afterwards all are there again, their Rays new ones."""
        for worker in workers:
            worker.cut()
        try:
            yield
        finally:
            for worker in workers:
                worker.join()
                worker.kill()
                self.start_worker(worker)
            self.wait(len(self.workers))

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
        # Ray's own warnings begin with a time in brackets.
        lists = [line for line in self.watched if line == "[]" or line.startswith('["')]
        return set(json.loads(lists[-1])) if lists else set()

    def begin(self, *script: object) -> "Job":
        """Run a script with its arguments on the head, as a Ray job does, with ``RAY_ADDRESS``."""
        self.jobs += 1
        log, address = f"job-{self.jobs}", f"RAY_ADDRESS={self.head.address}:{PORT}"
        return Job(self.head, log, self.head.start("env", address, sys.executable, *script, log=log))

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
def cluster_of(workers: int) -> Iterator[Cluster]:
    """A cluster of a head and so many workers with Ray started; nothing of it is left. Skips where network namespaces
    are not permitted."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | HEALTH
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment |= {"PYTHONPATH": str(REPOSITORY), "RAY_USAGE_STATS_ENABLED": "0"}
    names = ["head", *(f"worker-{number}" for number in range(1, workers + 1))]
    with network(names, environment) as net:
        files = net.folder / "store"
        files.mkdir()
        with object_store.running(files, address=net.address) as store:
            cluster = Cluster(net.hosts[0], net.hosts[1:], store)
            cluster.start()
            yield cluster
