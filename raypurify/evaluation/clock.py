"""The clock by which work in torch is timed."""

import sys
import time


def clock() -> float:
    """Seconds of a clock that runs evenly, read when all that this process has handed to its GPU is done.

    Calls of torch return before the GPU has done what they ask for; without waiting, a reading tells when it was asked.

    >>> begun = clock()
    >>> clock() >= begun
    True
    """
    torch = sys.modules.get("torch")  # who has not imported it has nothing on a GPU
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()
