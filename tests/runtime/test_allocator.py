import platform
import subprocess
import sys

import pytest

# How many pages a block of 64 MB costs that is written and freed again and again.
REPEATED = """
import resource, sys
import torch
from raypurify.runtime.allocator import keep_freed_memory

if "keep" in sys.argv:
    assert keep_freed_memory()
counts = []
for _ in range(20):
    torch.ones(16 * 2**20)
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print((counts[19] - counts[9]) // 10)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator than glibc's")
def test_a_large_block_that_was_freed_is_not_paid_for_again():
    def pages(*given):
        run = subprocess.run([sys.executable, "-c", REPEATED, *given], capture_output=True, text=True, check=True)
        return int(run.stdout)

    assert pages("keep") < 100 < pages()
