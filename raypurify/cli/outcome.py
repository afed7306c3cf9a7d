"""What a command made, or why it made nothing, for programs: one line of JSON at its end."""

import json
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from typing import Any, NoReturn

INTERRUPTED = 130
_FACTS: dict[str, Any] = {}


def tell(**facts: Any) -> None:
    """Add facts about what the command of this process made."""
    _FACTS.update(facts)


def answer(command: str, run: Callable[[], None], alone: bool = False) -> NoReturn:
    """Run a command, print a line of JSON, and end the process with the command's exit code.

    The line has the command, its exit code and seconds, and what was told of it, or else the ``error``. With ``alone``
    nothing else is on standard output: what the command prints there goes to standard error.
    """
    out, begun, code = sys.stdout, time.monotonic(), 0
    with redirect_stdout(sys.stderr) if alone else nullcontext():
        try:
            run()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
    if code == 2:
        _FACTS.setdefault("error", "the command line is wrong: standard error says where")
    elif code == INTERRUPTED:
        _FACTS.setdefault("error", "interrupted")
    sys.stderr.flush()
    line = {"command": command, "exit": code, "seconds": round(time.monotonic() - begun, 1)} | _FACTS
    print(json.dumps(line, default=str), file=out, flush=True)
    sys.exit(code)
