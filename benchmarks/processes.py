"""What a job's processes take of a machine, and what the machine is: read off Linux's ``/proc``."""

import os
import platform
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

PROC = Path("/proc")
_PACKAGES = ("raypurify", "ray", "torch", "numpy", "numba", "sporco")


def tree(root: int) -> list[int]:
    """A process and all that it started, directly or not, and that run now; ``root`` comes first."""
    children = defaultdict(list)
    for place in PROC.glob("[0-9]*"):
        if fields := _stat(int(place.name)):
            children[int(fields[1])].append(int(place.name))
    found = [root]
    for pid in found:
        found += children[pid]
    return found


def memory(pids: list[int]) -> int:
    """Bytes in memory; a page that several processes share counts in equal parts for each (PSS)."""
    kilobytes = 0
    for pid in pids:
        text = _read(pid, "smaps_rollup")
        kilobytes += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return kilobytes << 10


def forget_peak() -> None:
    """From here on ``peak_memory`` is of what this process takes from here on."""
    (PROC / "self" / "clear_refs").write_text("5")


def peak_memory() -> int:
    """Bytes that this process has had in memory at the most, since its start or the last ``forget_peak``."""
    [line] = [line for line in (PROC / "self" / "status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) << 10


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, user and system; 0 where there is none."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def ray_kind(pid: int) -> str:
    """What a process is to a Ray job: ``gcs``, ``raylets``, ``actors`` (Ray Data's, where the work is done) or
    ``others`` (idle workers, agents, monitors, Ray Data's own actors)."""
    command = _read(pid, "cmdline")
    name = Path(command.partition("\0")[0]).name
    if command.startswith("ray::MapWorker"):
        return "actors"
    return {"gcs_server": "gcs", "raylet": "raylets"}.get(name, "others")


def machine() -> dict:
    """Cores, processor and versions: what figures depend on."""
    names = [line.partition(":")[2].strip() for line in _lines("cpuinfo") if line.startswith("model name")]
    versions = {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}
    return {"cores": os.cpu_count(), "cpu": (names or [platform.machine()])[0], "versions": versions}


def _stat(pid: int) -> list[str]:
    # The name of a program, in brackets, may hold blanks and brackets itself.
    return _read(pid, "stat").rpartition(")")[2].split()


def _read(pid: int, name: str) -> str:
    try:
        return (PROC / str(pid) / name).read_text(errors="replace")
    except OSError:
        return ""  # it has ended


def _lines(name: str) -> list[str]:
    return (PROC / name).read_text().splitlines()
