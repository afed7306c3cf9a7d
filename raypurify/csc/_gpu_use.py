"""What every solver with kernels in Triton needs around them: a device to launch on, and a reason to trust them."""

import re
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch

# What a driver, Triton and the libraries of CUDA say of a card without room, each in an error of its own.
_FULL = re.compile(r"out of memory|ALLOC_FAILED")


def fetch(numbers: torch.Tensor) -> Callable[[], torch.Tensor]:
    """A function that waits for these numbers alone, for nothing that is enqueued after them, and returns them."""
    copy = numbers.to("cpu", non_blocking=True)
    arrived = torch.cuda.Event() if numbers.is_cuda else None
    if arrived is not None:
        arrived.record()

    def read() -> torch.Tensor:
        if arrived is not None:
            arrived.synchronize()
        return copy

    return read


def launching(device: torch.device) -> AbstractContextManager:
    """Kernels of this block run on ``device``: Triton launches on the current one, wherever its tensors are."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@cache
def usable(device: torch.device, what: str, agrees: Callable[[torch.device], bool]) -> bool:
    """Whether Triton is there, can launch (it needs a C compiler, Python's headers and a GPU that it supports), and
    ``agrees``, which solves a small problem with them: a compiler's mistake would otherwise go into images unseen.

    Where it is there and one of the others fails, a RuntimeWarning says so, ``what`` being who runs without kernels.
    The answer is that of the process: a card that is full when it is asked first says nothing of kernels, so that error
    is raised as it came, and the next one who asks finds out.
    """
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    try:
        wrong = not agrees(device)
    except Exception as error:
        if _is_full(error):
            raise
        # What Triton raises differs between its versions and among its compilers.
        warnings.warn(f"{what} runs without its fused GPU kernels: {error!r}", RuntimeWarning, stacklevel=2)
        return False
    if wrong:
        warnings.warn(
            f"{what} runs without its fused GPU kernels: on {torch.cuda.get_device_name(device)} they find other codes "
            "than the CPU; please report it",
            RuntimeWarning,
            stacklevel=2,
        )
    return not wrong


def _is_full(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _FULL.search(str(error)) is not None
