"""A bulk job over two hosts, one of which is cut off in the middle, in short; and hosts leave nothing behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bulk_work import work_of
from hosts import cluster_of
from namespaces import Host, network

# A process that is started in the background may ignore SIGINT, and so would what it starts.
OWNER = """
import os, signal, sys
from namespaces import network
signal.signal(signal.SIGINT, signal.default_int_handler)
with network(["head", "worker"], dict(os.environ)) as net:
    net.hosts[1].start("sleep", "1000")
    print(net.folder, net.hosts[1].namespace, flush=True)
    sys.stdin.read()
"""
# A host that is there refuses.
REACH = "import socket, sys; socket.create_connection((sys.argv[1], 9), 1)"
MEET = """
import socket, sys
from raypurify.fit.meeting import interface_of
print(interface_of(sys.argv[1]), socket.gethostbyname(socket.gethostname()))
"""
WHO = "import platform, socket, tempfile; print(platform.node(), socket.if_nameindex()[1][1], tempfile.gettempdir())"


@pytest.mark.timeout(200)
def test_a_host_that_is_cut_off_loses_no_image(local_ray, tmp_path):
    with cluster_of(2) as cluster:
        work = work_of(cluster, tmp_path, 288)
        job = work.begin("cut")
        work.wait(job)
        cluster.workers[0].cut()
        work.check("cut", job)
        assert "an actor on worker-1 died over shard" in job.said


def test_each_host_has_a_name_an_address_and_a_temp_directory_of_its_own():
    with network(["head", "worker"], dict(os.environ)) as net:
        head, worker = net.hosts
        assert [says(host, WHO).split() for host in net.hosts] == [
            [host.name, "eth0", str(host.folder / "tmp")] for host in net.hosts
        ]
        # A training's workers listen there, though the host's name stands for a loopback address.
        assert says(worker, MEET, worker.address).split() == ["eth0", "127.0.1.1"]
        assert "ConnectionRefusedError" in says(head, REACH, worker.address)
        worker.cut()
        assert "ConnectionRefusedError" not in says(head, REACH, worker.address)
        worker.join()
        assert "ConnectionRefusedError" in says(head, REACH, worker.address)


def says(host: Host, script: str, *arguments: str) -> str:
    """The last line of a Python script that runs in a host."""
    host.start(sys.executable, "-c", script, *arguments).wait(20)
    return host.said("log").splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_hosts_whose_owner_is_ended(number):
    with network(["head"], dict(os.environ)):
        pass  # else skipped
    command = [sys.executable, "-c", OWNER]
    with subprocess.Popen(
        command, cwd=Path(__file__).parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        folder, namespace = owner.stdout.readline().split()
        assert settles(folder, namespace, 4)
        owner.send_signal(number)
        owner.wait(30)
    assert settles(folder, namespace, 0)


def settles(folder: str, namespace: str, count: int) -> bool:
    """Whether so many are left before long: a process that is about to become another has no environment to read."""
    until = time.monotonic() + 20
    while left(folder, namespace) != count and time.monotonic() < until:
        time.sleep(0.1)
    return left(folder, namespace) == count


def left(folder: str, namespace: str) -> int:
    """How many there are of: folder, namespace, link, processes."""
    named = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True).stdout
    sleeping = [p for p in Path("/proc").glob("[0-9]*") if folder in environ(p)]
    return Path(folder).exists() + (namespace in named) + (namespace in links) + bool(sleeping)


def environ(process: Path) -> str:
    try:
        return (process / "environ").read_text(errors="replace")
    except OSError:
        return ""
