"""The process that does a job: ``raypurify purify`` as anybody would run it, on a leash, with what it says."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import raypurify
from raypurify.serve.jobs.leash import GRACE_S

_LINES, _WIDEST = 20, 1000
# Where the kernel does not let go of it, nobody waits longer for a killed process.
_GONE_S = 5.0
_OURS, _PROGRESS = "raypurify: ", "purify: "


class Driver:
    """A running job: ``arguments`` of raypurify, which reads ``inputs`` and writes ``output`` below ``roots``.

    It ends when this process does. Nothing of it is to be believed but its end and what lies in files. ``last`` is the
    last line of all, for a log.
    """

    def __init__(self, arguments: Sequence[str], inputs: Sequence[str], output: str, roots: Sequence[str]):
        bounds = json.dumps({"inputs": [*inputs], "output": output, "roots": [*roots]}, ensure_ascii=False)
        # The package that runs here, wherever a worker of Ray has it from.
        own = [str(Path(raypurify.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "raypurify.serve.jobs.leash", bounds, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, own)), "PYTHONUNBUFFERED": "1"},
            # An interruption that is meant for others does not reach it.
            start_new_session=True,
        )
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._interrupted: float | None = None
        self.pid, self.finished, self.last, self.heard = self._process.pid, False, "", time.monotonic()
        self._reader = threading.Thread(target=self._read, name=f"job-{self.pid}", daemon=True)
        self._reader.start()

    def poll(self) -> int | None:
        """The exit code, once the process has ended and all it said is known; None until then."""
        code = self._process.poll()
        if code is not None:
            # Orphans of it could hold the pipe for ever.
            self._reader.join(2)
        return code

    def end(self) -> None:
        """Interrupt the job, so that it keeps what is done; called again, kill it when it does not end."""
        now = time.monotonic()
        if self._interrupted is None:
            self._interrupted = now
            self._process.send_signal(signal.SIGINT)
        elif now - self._interrupted > GRACE_S:
            self.kill()

    def kill(self) -> None:
        """End the job at once; what it has committed is kept."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GONE_S)

    @property
    def said(self) -> str:
        """The last line that is meant for people: an error of ours where there is one, else how far it is."""
        # A copy, as the reader goes on.
        lines = self._lines.copy()
        ours = [line.removeprefix(_OURS) for line in lines if line.startswith(_OURS)]
        return (ours or lines or [""])[-1]

    def _read(self) -> None:
        pipe = self._process.stdout
        assert pipe is not None
        while line := pipe.readline(_WIDEST):
            text = line.decode("utf-8", "replace").strip()
            # The first line of what the command says of a job that is done.
            self.finished |= text.startswith("purified:")
            # All else is what libraries say, of Ray above all.
            if text.startswith((_OURS, _PROGRESS)):
                self._lines.append(text)
            self.last, self.heard = text or self.last, time.monotonic()
