"""How this process gets its memory from the system."""

import ctypes
import sys

# Parameters of glibc's mallopt(3), which its header malloc.h numbers.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, and say whether it will.

    glibc maps a block of more than 32 MB anew each time and returns it when it is freed, so that every activation of a
    large batch is paid for page by page: half the time of a network at 224² on a CPU is spent in the kernel. For
    processes that compute the same again and again in their first thread, as an actor of Ray does; other threads map
    large blocks anew in any case. The memory of the largest step stays the process's until it ends. Where the allocator
    is another than glibc's, nothing changes.

    >>> keep_freed_memory() in (True, False)
    True
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _LARGEST_INT))
