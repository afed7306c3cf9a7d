"""How this process gets its memory from the system."""

import ctypes
import sys

# Parameters of glibc's mallopt(3), which its header malloc.h numbers; a threshold of −1 is none.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Ask glibc to let this process keep the memory that it frees, and say whether it took the request.

    glibc maps a block of more than 32 MB anew each time and returns it when it is freed, so that every activation of a
    large batch is paid for page by page, in the kernel. For processes that compute the same again and again in their
    first thread, as an actor of Ray does; other threads map large blocks anew in any case. The price is memory: what
    was freed is not returned before the process ends, and a block finds no place in the holes of others, so that a
    process holds more than it uses at a time. With another allocator than glibc's nothing changes.
    ``benchmarks/allocator.py`` measures both.

    >>> keep_freed_memory() in (True, False)
    True
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))
