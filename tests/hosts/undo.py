"""What network namespaces leave behind is removed once whoever made them ends, however that ends.

    python undo.py BRIDGE FOLDER

Reads its standard input until that closes, and then ends the processes of the namespaces ``BRIDGE-…`` and those that
work below FOLDER, and removes namespaces, bridge and folder. Whoever started it may be killed, and could not do that.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


def pids_of(namespace: str) -> list[int]:
    """The processes of a namespace; none where there is no such."""
    listed = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True)
    return [int(pid) for pid in listed.stdout.split()]


def kill_all(listed: Callable[[], list[int]]) -> None:
    """End processes until none is listed, for some seconds at most."""
    for _ in range(50):
        if not (pids := listed()):
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def undo(bridge: str, folder: Path) -> None:
    """End and remove everything; what is not there does no harm."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout.splitlines()
    namespaces = [name for name in (line.split()[0] for line in listed if line) if name.startswith(f"{bridge}-")]

    def left() -> list[int]:
        return [pid for name in namespaces for pid in pids_of(name)] + _working_below(folder)

    kill_all(left)
    for name in namespaces:
        # With this end of a link goes the other, at once; with the namespace it would be later.
        subprocess.run(["ip", "link", "del", name], capture_output=True)
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
    subprocess.run(["ip", "link", "del", bridge], capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)


def _working_below(folder: Path) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if Path(os.readlink(process / "cwd")).is_relative_to(folder):
                found.append(int(process.name))
    return found


if __name__ == "__main__":
    # Ctrl-C is meant for whoever made them, and so is what ends a whole group of processes.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.read()
    undo(sys.argv[1], Path(sys.argv[2]))
