"""The command line as a Ray job: the same arguments and exit codes, and a line of JSON last, for whoever submits it."""

import json
import sys
import time
import traceback

from raypurify.cli.app import main
from raypurify.cli.outcome import tell, told


def run_job(*command: str) -> None:
    """Run ``raypurify COMMAND`` with the arguments of this process, and print one line of JSON at its end.

    The line has the command, its exit code and seconds, and what it made: ``bundle``, a stage's folder, ``report``,
    ``weights`` or the images of ``purify``, or the ``error``. What nobody foresaw is exit code 2, with its traceback.
    """
    sys.argv[1:1] = command
    begun, code = time.monotonic(), 0
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except Exception as error:  # else Python ends with 1, which means that some images failed
        traceback.print_exc()
        code = 2
        tell(error=f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
    sys.stderr.flush()
    line = {"command": " ".join(command), "exit": code, "seconds": round(time.monotonic() - begun, 1)} | told()
    print(json.dumps(line), flush=True)
    sys.exit(code)
