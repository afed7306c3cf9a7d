"""The command line as a Ray job: the same arguments and exit codes, and a line of JSON last, for whoever submits it."""

import sys

from raypurify.cli.app import run
from raypurify.cli.outcome import answer


def run_job(*command: str) -> None:
    """Run ``raypurify COMMAND`` with the arguments of this process; what it made is the last line of the output, in
    JSON as ``--json`` prints it."""
    sys.argv[1:1] = command
    answer(" ".join(command), run, alone="--json" in sys.argv)
