"""The command line of raypurify on a leash: it is interrupted when the process that started it is gone.

    python -m raypurify.serve.jobs.leash '{"inputs": [...], "output": ..., "roots": [...]}' purify ...

Standard input is the leash: its other end lies with the supervisor, and the system closes it however that dies. Links
below the paths are looked at here, right before the work, because there may be millions of files; the output is written
through none that comes later.
"""

import json
import os
import runpy
import signal
import sys
import threading
import time

# Time for an interrupted job to stop by itself; what it has committed is kept either way.
GRACE_S = 30.0


def main() -> None:
    """Check the links, and run the command line in this process. Exits with 2 and one line where one stands."""
    from raypurify.errors import RaypurifyError
    from raypurify.serve.jobs.links import bound_output, check_inputs, check_output

    # A worker of Ray may have both ignored.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_end_with_supervisor, daemon=True).start()
    bounds = json.loads(sys.argv.pop(1))
    try:
        bound_output(bounds["output"], bounds["roots"])
        check_output(bounds["output"], bounds["roots"])
        check_inputs(bounds["inputs"], bounds["roots"])
    except RaypurifyError as error:
        print(f"raypurify: {error}", flush=True)
        sys.exit(2)
    runpy.run_module("raypurify", run_name="__main__", alter_sys=True)


def _end_with_supervisor() -> None:
    # Not through sys.stdin, whose lock would be held when the interpreter ends.
    while os.read(0, 1):
        continue
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
