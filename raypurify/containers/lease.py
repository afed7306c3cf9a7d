"""One job at a time writes an output: a lease file that its holder renews, and that a crash does not leave stuck.

    OUT/_raypurify/lease.json            who holds the output, on which machine, and when it last said so
    OUT/_raypurify/lease-2-of-8.json     who does every eighth shard of it, beside others that do the rest

A lease counts while its holder lives: where holder and asker share a machine, as long as that process runs; elsewhere
for ``EXPIRES`` seconds after its last sign, by clocks that agree to within seconds, as NTP sees to. File systems and
object stores have no common way to create a file only once, so a holder writes the lease and looks whether it stayed.
Two jobs that pass each other in that moment do no harm: what they write is the same bytes, whole or not at all, and the
one whose lease was taken over ends at its next sign.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from raypurify.containers.ledger import LEASE, STATE
from raypurify.errors import RaypurifyError, SinkError
from raypurify.storage import Place

RENEWED, EXPIRES, SETTLES = 10.0, 60.0, 0.3
# Holders of this process that have ended; a store that was out of reach may still have their lease.
_RELEASED: set[str] = set()


class Lease:
    """A hold on an output, or on one part of n of it, by this process; see :func:`held`."""

    def __init__(self, out: Place, part: tuple[int, int] | None = None):
        self.out, self.part, self.holder = out, part, uuid.uuid4().hex
        self.file = out / STATE / (f"{LEASE}-{part[0]}-of-{part[1]}.json" if part else f"{LEASE}.json")
        self._lost: str | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def check(self) -> None:
        """Raises SinkError once another job has taken the output over."""
        if self._lost:
            raise SinkError(f"{self.out}: {self._lost}; wait for its end. This one stops, and what it committed stays")

    def acquire(self) -> None:
        """Take the output and begin to renew the lease. Raises SinkError where another job writes there."""
        for name in (self.out / STATE).names():
            found = _found(self.out / STATE / name) if name.startswith(LEASE) and self._excludes(name) else None
            if found and (since := _lives(found)) is not None:
                raise SinkError(
                    f"{self.out}: another job writes here (process {found.get('pid')} on {found.get('host')}, last "
                    f"sign {since:.0f} s ago); wait for its end. If it has died, this works {EXPIRES:.0f} s after its "
                    "last sign"
                )
        self._write()
        time.sleep(SETTLES)
        if (self._read() or {}).get("holder") != self.holder:
            raise SinkError(f"{self.out}: another job began to write here at the same moment; wait for its end")
        self._thread.start()

    def release(self) -> None:
        """End the lease and remove its file, unless it is another's by now."""
        self._ended.set()
        _RELEASED.add(self.holder)
        if self._thread.ident is not None:
            self._thread.join()
        try:
            if (self._read() or {}).get("holder") == self.holder:
                self.file.delete()
        except OSError:
            # Why the job ended must not be hidden by this; the lease ends by itself.
            return

    def _renew(self) -> None:
        while not self._ended.wait(RENEWED):
            try:
                found = self._read()
                if found and found.get("holder") != self.holder:
                    self._lost = f"a job on {found.get('host')} has taken over"
                    return
                self._write()
            except OSError:
                # A store that is out of reach for a while: the next sign, or the commit of a shard, will tell.
                continue

    def _excludes(self, name: str) -> bool:
        """Whether the holder of the lease ``name`` may not work beside this one: only other parts of the same n may."""
        other_part = self.part and name != self.file.name and name.endswith(f"-of-{self.part[1]}.json")
        return not other_part

    def _read(self) -> dict | None:
        return _found(self.file)

    def _write(self) -> None:
        # Always as long: who reads from a store may get the length of one sign and the bytes of the next.
        now = f"{time.time():.6f}"
        sign = {"holder": self.holder, "pid": os.getpid(), "started": _started(os.getpid()), "renewed": now}
        self.file.write(json.dumps(sign | _machine()).encode(), self.out / STATE)


@contextmanager
def held(out: Place, part: tuple[int, int] | None = None) -> Iterator[Lease]:
    """Hold an output, or a part of it, for the length of the block.

    Raises SinkError where another job does, or it cannot be written.
    """
    lease = Lease(out, part)
    try:
        lease.acquire()
    except RaypurifyError:
        raise
    except OSError as error:
        raise SinkError(f"{out}: cannot be written: {error}; check the path and its permissions") from error
    try:
        yield lease
    finally:
        lease.release()


def writer(out: Place) -> str | None:
    """Who writes an output now, in words; None where nobody does. Raises OSError where that cannot be read."""
    for name in (out / STATE).names():
        found = _found(out / STATE / name) if name.startswith(LEASE) else None
        if found and _lives(found) is not None:
            return f"process {found.get('pid')} on {found.get('host')}"
    return None


def _found(file: Place) -> dict | None:
    try:
        found: Any = json.loads(file.read()) if file.kind == "file" else None
        # Damaged, it is none: whose it was writes it again at its next sign.
        float(found["renewed"])
    except (ValueError, TypeError, KeyError, FileNotFoundError):
        return None
    return found


def _lives(found: dict) -> float | None:
    """Seconds since the last sign of a holder that may be at work, None of one that is not."""
    since = max(0.0, time.time() - float(found["renewed"]))
    if found.get("holder") in _RELEASED:
        return None
    if all(found.get(key) == value for key, value in _machine().items()):
        pid = found.get("pid")
        return since if pid and found.get("started") == _started(pid) is not None else None
    return since if since < EXPIRES else None


def _machine() -> dict[str, str]:
    """This machine, or the container on it that numbers its own processes."""
    try:
        numbering = os.readlink("/proc/self/ns/pid")
        # The numbering outside of containers is of one name everywhere, and hosts of a cloud may share theirs.
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
    except OSError:
        numbering = boot = ""
    return {"host": socket.gethostname(), "numbering": numbering, "boot": boot}


def _started(pid: int) -> str | None:
    """When a process began, so that its number given to another is not taken for it; None where it has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        pass
    if os.path.isdir("/proc/self"):
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return "unknown"
