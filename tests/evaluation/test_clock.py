"""Times of work on a GPU are read when it is done."""

import re
from pathlib import Path

import pytest
import torch

from raypurify.evaluation.clock import clock

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.gpu
def test_a_reading_waits_for_what_was_handed_to_the_gpu():
    matrix = torch.randn(8192, 8192, device="cuda")
    matrix @ matrix
    clock()
    done = torch.cuda.Event()
    for _ in range(20):
        matrix @ matrix
    done.record()
    clock()
    assert done.query()


def test_who_times_torch_by_the_clock_uses_the_one_that_waits():
    places = [*(REPOSITORY / "raypurify/evaluation").glob("*.py"), *(REPOSITORY / "benchmarks").glob("*.py")]
    for path in places:
        text = path.read_text("utf-8")
        # A torch that is imported there; in clock.py it is looked up.
        if re.search(r"^\s*(import torch|from torch)", text, re.M):
            # Requests are timed from outside the process that works on them.
            assert "perf_counter" not in text or path.name.startswith("serve"), path
